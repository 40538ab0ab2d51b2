from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.compare.select import select_trials
from graft.compare.tuning import expect_best, trace_tuning


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7), st.booleans())
def test_it_is_the_mean_best_over_all_draws(values: list[float], higher: bool) -> None:
    best = max if higher else min
    curve = expect_best(values, higher_is_better=higher)
    for drawn, expected in enumerate(curve, 1):
        draws = [best(one) for one in combinations(values, drawn)]
        assert expected == pytest.approx(sum(draws) / len(draws), abs=1e-9)


def test_nothing_tried_expects_nothing() -> None:
    assert expect_best([], higher_is_better=True) == ()


def test_trials_count_with_the_runs_that_finished(sweep, make_run, make_arm) -> None:
    lost = make_run(make_arm(), val=0, test=0, labels="20", lr=0.5, status="diverged")
    [selection] = select_trials([*sweep, lost], "accuracy")
    curves = trace_tuning(selection.choices, "accuracy")
    assert {len(curve.expected) for curve in curves} == {3}
    for choice, curve in zip(selection.choices, curves, strict=True):
        assert curve.expected[-1] == pytest.approx(choice.validation)
        assert list(curve.expected) == sorted(curve.expected)
