"""The label multiplier: on curves whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.compare.multiplier import Multiplier, Rung, multiply_labels
from graft.compare.two_way import spread_over_seeds

BUDGETS = (2.0, 5.0, 10.0, 20.0, 50.0)
NOISE = np.array([[0.004], [-0.006], [0.001], [0.005], [-0.004]])


def ladder(slope: float = 0.1, start: float = 0.4, noise: float = 0.0) -> list[Rung]:
    """Return from scratch as a straight line over the logarithm of the labels."""
    return [
        Rung(one, start + slope * np.log(one) + noise * np.roll(NOISE, place + 1, 0))
        for place, one in enumerate(BUDGETS)
    ]


def multiply(labels: float, values: np.ndarray, rungs: list[Rung], better: bool = True) -> Multiplier:
    found = multiply_labels(
        labels, values, rungs, lambda one: spread_over_seeds(one[:, 0]), higher_is_better=better
    )
    assert found is not None
    return found


@given(st.floats(2, 50), st.floats(2, 50), st.floats(0.01, 0.2))
def test_on_a_straight_line_it_is_what_was_put_in(labels: float, worth: float, slope: float) -> None:
    """An arm as good as from scratch with ``worth`` labels, whatever it has itself."""
    found = multiply(labels, 0.4 + slope * np.log(worth) + NOISE, ladder(slope))
    if found.censored:
        assert min(abs(worth - BUDGETS[0]), abs(worth - BUDGETS[-1])) < 1e-6
    else:
        assert found.value == pytest.approx(worth / labels, rel=1e-4)
        assert found.low <= found.value <= found.high


@given(st.floats(0.42, 0.8), st.floats(0.001, 0.05))
def test_a_better_arm_is_worth_more_labels(mean: float, more: float) -> None:
    one, other = (multiply(5.0, value + NOISE, ladder(noise=1.0)) for value in (mean, mean + more))
    assert other.value >= one.value
    assert other.low >= one.low
    assert other.high >= one.high


def test_a_loss_falls() -> None:
    found = multiply(
        5.0, -(0.4 + 0.1 * np.log(20) + NOISE), [Rung(r.labels, -r.values) for r in ladder()], False
    )
    assert found.value == pytest.approx(4.0, rel=1e-4)


def test_what_from_scratch_never_reached_is_said_so() -> None:
    found = multiply(5.0, 0.9 + NOISE, ladder())
    assert (found.censored, found.value, found.high) == ("above", pytest.approx(10.0), math.inf)
    assert found.text == "more than 10 times the labels: from scratch never reached it"
    assert found.low == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("wide", "said"),
    [
        (10, ""),
        (30, ", at least 8.0 times at 95%"),
        (100, ", but at 95% the two are not told apart even with the fewest"),
    ],
)
def test_how_sure_it_is_that_from_scratch_never_reached_it(wide: int, said: str) -> None:
    found = multiply(5.0, 0.95 + wide * NOISE, ladder())
    assert found.text == f"more than 10 times the labels: from scratch never reached it{said}"


def test_with_as_many_labels_as_the_most_tried_nothing_more_is_known() -> None:
    found = multiply(50.0, 0.9 + NOISE, ladder())
    assert found.text == "more than it has: from scratch with as many labels never reached it"
    assert not found.says_more
    assert multiply(50.0, 0.9 + 30 * NOISE, ladder()).text == f"{found.text}, but not at 95%"


def test_what_is_worse_than_the_fewest_labels_is_said_so() -> None:
    found = multiply(5.0, 0.2 + NOISE, ladder())
    assert (found.censored, found.low) == ("below", 0.0)
    assert found.text == "less than 0.4 times the labels: from scratch is as good with the fewest"


def test_an_open_end_is_written() -> None:
    found = multiply(5.0, 0.4 + 0.1 * np.log(48) + 5 * NOISE, ladder())
    assert found.text.startswith("9.6 times the labels [")
    assert found.text.endswith("more than 10]")
    assert found.high == math.inf


def test_a_fall_of_the_curve_is_pooled() -> None:
    """Means 0.5, 0.7, 0.6, 0.8 count as 0.5, 0.65, 0.65, 0.8."""
    rungs = [Rung(one, mean + NOISE) for one, mean in zip((1, 2, 4, 8), (0.5, 0.7, 0.6, 0.8), strict=True)]
    assert multiply(1.0, 0.6499 + NOISE, rungs).value == pytest.approx(2.0, rel=1e-2)
    assert multiply(1.0, 0.6501 + NOISE, rungs).value == pytest.approx(4.0, rel=1e-2)
    assert multiply(1.0, 0.725 + NOISE, rungs).value == pytest.approx(4 * 2**0.5, rel=1e-4)


def test_one_seed_has_no_interval() -> None:
    rungs = [Rung(one.labels, one.values[:1]) for one in ladder()]
    found = multiply(5.0, np.array([[0.4 + 0.1 * np.log(20)]]), rungs)
    assert found.text == "4.0 times the labels"
    assert math.isnan(found.low)


def test_one_budget_has_no_curve() -> None:
    assert (
        multiply_labels(
            2.0, NOISE, ladder()[:1], lambda one: spread_over_seeds(one[:, 0]), higher_is_better=True
        )
        is None
    )


def test_the_interval_covers_what_it_claims() -> None:
    """Simulated: five seeds of arm and twin, paired; the truth is 4 times the labels."""
    rng, repeats, covered = np.random.default_rng(0), 150, 0
    for _ in range(repeats):
        shared = rng.normal(0, 0.02, (5, 1))
        rungs = [Rung(r.labels, r.values + shared + rng.normal(0, 0.01, (5, 1))) for r in ladder()]
        found = multiply(5.0, 0.4 + 0.1 * np.log(20) + shared + rng.normal(0, 0.01, (5, 1)), rungs)
        covered += found.low <= 4.0 <= found.high
    assert covered / repeats >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / repeats)
