"""Estimates over seeds or folds: each function says its axis, and which uncertainty its interval covers.

Over seeds, intervals are for *new seeds on this test set*: new draws of the labelled images, initialisation
and order of batches; those for new test images as well are in `graft.compare.two_way`. Over the folds of a
cross-validation, intervals are for *new training and test images* as many as in a fold. Folds share most of
their training images, so their values are not independent; the corrected resampled t-test allows for that
through ``overlap``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import stdtr, stdtrit

Verdict = Literal["helps", "hurts", "equivalent", "not established"]

#: What an interval is for: new seeds on this test set, new seeds and new test images, or new folds.
Coverage = Literal["seeds", "seeds and images", "folds"]

#: Spread below which differences count as equal: rounding of floats, far below one test image.
NO_SPREAD = 1e-12

#: Level of the test behind a verdict.
ALPHA = 0.05

#: Difference to the twin that counts as none, in the unit of the metric: half a point.
MARGIN = 0.005


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds or folds with its interval.

    Attributes:
        mean: Mean over seeds or folds.
        low: Lower end of the interval, NaN where none can be given.
        high: Upper end of the interval, NaN where none can be given.
        n: Number of seeds or folds.
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def has_interval(self) -> bool:
        """Whether an interval could be given."""
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True)
class Difference:
    """A paired difference over seeds or folds and the two-sided p-value of "no difference"."""

    estimate: Estimate
    p: float


def confine(difference: Difference, bounds: tuple[float, float]) -> Difference:
    """Return a difference whose interval ends where differences do, given the range of the values."""
    most, one = bounds[1] - bounds[0], difference.estimate
    if not one.has_interval:
        return difference
    return replace(difference, estimate=replace(one, low=max(one.low, -most), high=min(one.high, most)))


def estimate_mean(
    values: Sequence[float],
    *,
    level: float = 0.95,
    overlap: float = 0.0,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Estimate:
    """Estimate the mean over seeds with a Student-t interval, or over folds with a corrected one.

    Args:
        values: One value per seed or fold, shape ``(n,)``.
        level: Coverage of the interval.
        overlap: Test images over training images of a fold, ``1 / (folds - 1)``; 0 for seeds. The variance
            of the mean is the sample variance times ``1 / n + overlap``, with ``n - 1`` degrees of freedom.
        bounds: The least and the largest value that there can be: the interval ends there, which takes
            nothing from its coverage.

    Returns:
        The mean and its interval. The interval is NaN for one value, and for values without any spread:
        a spread of zero in a few of them is a coincidence of counting, not knowledge.

    Raises:
        ValueError: When there is no value, or one is not finite.

    Source:
        Student (1908), "The probable error of a mean". Nadeau and Bengio (2003), "Inference for the
        generalization error", eq. 9 with the heuristic for rho; Bouckaert and Frank (2004), "Evaluating the
        replicability of significance tests for comparing learning algorithms", for repeated k-fold.
    """
    array = _finite(values)
    mean, n = math.fsum(array) / array.size, int(array.size)
    error = _standard_error(array, overlap)
    if not error > 0:
        return Estimate(mean, math.nan, math.nan, n)
    reach = float(stdtrit(n - 1, 0.5 + level / 2)) * error
    return Estimate(mean, max(mean - reach, bounds[0]), min(mean + reach, bounds[1]), n)


def estimate_difference(
    values: Sequence[float], baseline: Sequence[float], *, level: float = 0.95, overlap: float = 0.0
) -> Difference:
    """Estimate the mean paired difference over seeds or folds.

    Args:
        values: One value per seed or fold, shape ``(n,)``.
        baseline: The values to compare with, of the same seeds or folds in the same order, shape ``(n,)``.
        level: Coverage of the interval.
        overlap: As in `estimate_mean`.

    Returns:
        The mean of ``values - baseline`` with its interval, and the p-value of the paired t-test, which is
        the corrected resampled one where there is an overlap.
        Without an interval (see `estimate_mean`) p is 1: nothing can be established.

    Raises:
        ValueError: When the lengths differ, there is no value, or one is not finite.
    """
    if len(values) != len(baseline):
        raise ValueError(
            f"expected as many values as in the baseline ({len(baseline)}), but got {len(values)}"
        )
    differences = _finite(values) - _finite(baseline)
    estimate = estimate_mean(list(differences), level=level, overlap=overlap)
    if not estimate.has_interval:
        return Difference(estimate, 1.0)
    t = estimate.mean / _standard_error(differences, overlap)
    return Difference(estimate, float(2 * stdtr(estimate.n - 1, -abs(t))))


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of a family, so that a false rejection anywhere in it has the nominal probability.

    Args:
        p_values: One p-value per comparison of the family, shape ``(comparisons,)``.

    Returns:
        Adjusted p-values in the given order.

    Source:
        Holm (1979), "A simple sequentially rejective multiple test procedure".

    >>> [round(p, 3) for p in adjust_holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda one: p_values[one])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def find_levels(p_values: Sequence[float], alpha: float = ALPHA) -> list[float]:
    """Return the coverage at which each interval of a family excludes zero just where Holm rejects.

    Holm tests the smallest p-value at ``alpha / comparisons``, the next one at ``alpha / (comparisons - 1)``
    and so on, and stops at the first that fails. The interval of each has the level it was tested at, those
    after the stop the level of the stop: at least ``1 - alpha``, so that each covers at least as often.

    Args:
        p_values: One p-value per comparison of the family, shape ``(comparisons,)``.
        alpha: Probability of any false rejection in the family.

    >>> [round(level, 4) for level in find_levels([0.01, 0.04, 0.03])]
    [0.9833, 0.975, 0.975]
    """
    levels = [1 - alpha] * len(p_values)
    left, stopped = len(p_values), False
    for index in sorted(range(len(p_values)), key=lambda one: p_values[one]):
        levels[index] = 1 - alpha / left
        stopped = stopped or p_values[index] >= alpha / left
        left -= not stopped
    return levels


def judge(difference: Difference, p_adjusted: float, *, higher_is_better: bool) -> Verdict:
    """Say in a word what a difference to the twin establishes.

    Args:
        difference: The paired difference.
        p_adjusted: Its p-value, adjusted over the family.
        higher_is_better: The metric's direction.
    """
    if not p_adjusted < ALPHA:
        return "not established"
    return "helps" if (difference.estimate.mean > 0) == higher_is_better else "hurts"


def _finite(values: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    array = np.asarray(values, dtype=np.float64).reshape(-1)
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"expected one finite value per seed or fold, but got {list(values)}")
    return array


def _standard_error(array: np.ndarray[tuple[int], np.dtype[np.float64]], overlap: float) -> float:
    """Return the standard error of the mean (ddof=1); NaN for one value and for values without spread."""
    if array.size < 2:
        return math.nan
    spread = float(array.std(ddof=1))
    return spread * math.sqrt(1 / array.size + overlap) if spread > NO_SPREAD else math.nan
