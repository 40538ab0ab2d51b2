from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from graft.compare.statistics import adjust_holm, estimate_difference, estimate_mean, judge

VALUES = st.lists(st.floats(0, 1), min_size=2, max_size=12).filter(lambda values: np.std(values) > 1e-6)


@settings(max_examples=30, deadline=None)
@given(VALUES, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_interval_is_scipys(values: list[float], level: float) -> None:
    estimate = estimate_mean(values, level=level)
    expected = stats.t.interval(level, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert (estimate.low, estimate.high) == pytest.approx(expected, abs=1e-9)
    assert estimate.mean == pytest.approx(np.mean(values))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(0, 10_000))
def test_paired_difference_is_scipys(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, baseline = rng.random(n), rng.random(n)
    difference = estimate_difference(list(values), list(baseline))
    expected = stats.ttest_rel(values, baseline)
    assert difference.p == pytest.approx(expected.pvalue, abs=1e-9)
    interval = expected.confidence_interval(0.95)
    assert (difference.estimate.low, difference.estimate.high) == pytest.approx(
        (interval.low, interval.high), abs=1e-9
    )


def test_interval_by_hand() -> None:
    """Mean 2, standard error 1 / sqrt(3), t(2 degrees of freedom, 0.975) = 4.3027."""
    estimate = estimate_mean([1.0, 2.0, 3.0])
    assert estimate.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-5)
    assert estimate.n == 3


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=15))
def test_holm_is_scipys_or_more_careful_than_none(p_values: list[float]) -> None:
    adjusted = adjust_holm(p_values)
    order = np.argsort(p_values, kind="stable")
    expected = np.minimum(1, np.maximum.accumulate(np.sort(p_values) * np.arange(len(p_values), 0, -1)))
    assert [adjusted[index] for index in order] == pytest.approx(list(expected))
    assert all(high >= low for high, low in zip(adjusted, p_values, strict=True))


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5, 0.5], [0.9 - 0.1, 0.85 - 0.05, 0.8]])
def test_without_spread_there_is_no_interval_and_no_verdict(values: list[float]) -> None:
    difference = estimate_difference(values, [0.1] * len(values))
    assert not difference.estimate.has_interval
    assert math.isnan(difference.estimate.low)
    assert difference.p == 1
    assert judge(difference, difference.p, higher_is_better=True) == "not established"


def test_direction_of_the_metric_turns_the_verdict() -> None:
    difference = estimate_difference([0.9, 0.91, 0.92], [0.5, 0.52, 0.51])
    assert judge(difference, 0.01, higher_is_better=True) == "helps"
    assert judge(difference, 0.01, higher_is_better=False) == "hurts"
    assert judge(difference, 0.05, higher_is_better=True) == "not established"


@pytest.mark.parametrize("values", [[], [math.nan, 1.0], [math.inf]])
def test_what_is_no_number_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="one finite value per seed"):
        estimate_mean(values)


def test_unpaired_values_are_refused() -> None:
    with pytest.raises(ValueError, match="as many values as in the baseline"):
        estimate_difference([1.0], [1.0, 2.0])


@pytest.mark.parametrize("n", [3, 5])
def test_interval_covers_what_it_claims(n: int) -> None:
    """Simulated: seeds move arm and twin together; the 95 % interval covers within the Monte Carlo error."""
    rng, worlds, gain = np.random.default_rng(n), 1500, 0.03
    covered = 0
    for _ in range(worlds):
        shared = rng.normal(0, 0.02, n)
        baseline, values = 0.8 + shared + rng.normal(0, 0.01, n), 0.83 + shared + rng.normal(0, 0.01, n)
        estimate = estimate_difference(list(values), list(baseline)).estimate
        covered += estimate.low <= gain <= estimate.high
    assert covered / worlds == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / worlds))


def test_equal_arms_are_rarely_told_apart() -> None:
    """Simulated null sweeps: any false helps or hurts among six comparisons with one twin in at most 5 %."""
    rng, worlds, n, arms = np.random.default_rng(0), 800, 5, 6
    wrong = 0
    for _ in range(worlds):
        # Accuracies are counts of 800 test images, so that ties and differences without spread occur.
        shared = rng.normal(0.95, 0.01, n)
        runs = np.round((shared + rng.normal(0, 0.004, (arms + 1, n))) * 800) / 800
        differences = [estimate_difference(list(arm), list(runs[0])) for arm in runs[1:]]
        adjusted = adjust_holm([difference.p for difference in differences])
        verdicts = [
            judge(one, p, higher_is_better=True) for one, p in zip(differences, adjusted, strict=True)
        ]
        wrong += any(verdict != "not established" for verdict in verdicts)
    assert wrong / worlds <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / worlds)


def test_an_interval_ends_where_values_end() -> None:
    free, cut = (estimate_mean([0.9, 0.98], **bounds) for bounds in ({}, {"bounds": (0.0, 1.0)}))
    assert free.high > 1.0
    assert (cut.mean, cut.low, cut.high, cut.has_interval) == (free.mean, free.low, 1.0, True)
