"""Folds as replicates: what is averaged, how it is counted, and that few equal arms are told apart."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from graft.compare.replicates import choose_replicates, count_range, count_replicates, sample_values
from graft.compare.statistics import estimate_difference
from graft.plan.replicates import Replicate


def cross(seeds: int, repeats: int, folds: int) -> list[Replicate]:
    return [Replicate(*values) for values in itertools.product(range(seeds), range(repeats), range(folds))]


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 10), st.integers(1, 3), st.integers(0, 10_000))
def test_corrected_test_is_the_formula(folds: int, repeats: int, seed: int) -> None:
    """Nadeau and Bengio: t = mean / sqrt((1/n + test/train) * variance), n - 1 degrees of freedom."""
    rng = np.random.default_rng(seed)
    values = dict(zip(cross(1, repeats, folds), rng.normal(0.02, 0.05, repeats * folds), strict=True))
    sample, n = sample_values(values, folds), repeats * folds
    difference = estimate_difference(sample.values, [0.0] * n, overlap=sample.overlap)
    mean, variance = np.mean(list(values.values())), np.var(list(values.values()), ddof=1)
    error = math.sqrt((1 / n + 1 / (folds - 1)) * variance)
    assert difference.p == pytest.approx(2 * stats.t.sf(abs(mean / error), n - 1), rel=1e-9)
    reach = stats.t.ppf(0.975, n - 1) * error
    assert difference.estimate.low == pytest.approx(mean - reach)
    assert difference.estimate.high == pytest.approx(mean + reach)


def test_corrected_interval_by_hand() -> None:
    """Mean 3, variance 2.5, times 1/5 + 1/4 is 1.125; t(4 degrees of freedom, 0.975) = 2.776."""
    sample = sample_values(dict(zip(cross(1, 1, 5), [1.0, 2.0, 3.0, 4.0, 5.0], strict=True)), 5)
    estimate = estimate_difference(sample.values, [0.0] * 5, overlap=sample.overlap).estimate
    assert estimate.high == pytest.approx(3 + 2.776445 * math.sqrt(1.125), abs=1e-5)


def test_seeds_of_a_fold_are_averaged() -> None:
    values = {one: float(10 * one.fold + one.seed) for one in cross(2, 1, 3)}
    sample = sample_values(values, 3)
    assert sample.values == (0.5, 10.5, 20.5)
    assert sample.overlap == 0.5


def test_one_fold_alone_repeats_by_its_seeds() -> None:
    sample = sample_values({Replicate(seed, 0, 3): float(seed) for seed in (2, 0, 1)}, 5)
    assert (sample.values, sample.overlap) == ((0.0, 1.0, 2.0), 0.0)
    assert sample_values({Replicate(1): 1.0, Replicate(0): 0.0}, None).values == (0.0, 1.0)


@pytest.mark.parametrize(
    ("replicates", "words"),
    [
        ([Replicate(0)], "1 seed"),
        ([Replicate(seed) for seed in range(5)], "5 seeds"),
        (cross(1, 1, 5), "5 folds"),
        (cross(2, 1, 5), "2 seeds x 5 folds"),
        (cross(1, 3, 5), "3 repeats x 5 folds"),
        (cross(2, 1, 5)[:-1], "9 of 2 seeds x 5 folds"),
        (cross(5, 1, 1), "5 seeds x 1 fold"),
    ],
)
def test_replicates_are_counted_in_words(replicates: list[Replicate], words: str) -> None:
    assert count_replicates(replicates) == words


def test_different_counts_are_a_range() -> None:
    assert count_range([cross(1, 1, 3), cross(1, 1, 5)]) == "3 to 5 folds"
    assert count_range([cross(1, 1, 5), cross(2, 1, 5)]) == "5 folds to 2 seeds x 5 folds"


def classify(points: np.ndarray, labels: np.ndarray, held: np.ndarray, train: np.ndarray) -> float:
    """Return the test accuracy of the nearest class mean."""
    means = [points[train & (labels == label)].mean(axis=0) for label in (0, 1)]
    distances = [np.square(points[held] - mean).sum(axis=1) for mean in means]
    return float(((distances[1] < distances[0]) == labels[held]).mean())


@pytest.mark.parametrize(("repeats", "seeds"), [(4, 1), (1, 4)])
def test_equal_learners_are_rarely_told_apart_over_folds(repeats: int, seeds: int) -> None:
    """Simulated k-fold on new data each time; two learners that are equally good see features of their own.

    The t-test that takes folds, or seeds of a fold, for independent finds a difference four times too often.
    """
    rng, worlds, folds, images, size = np.random.default_rng(0), 400, 5, 60, 6
    labels = np.arange(images) % 2
    corrected = naive = 0
    for _ in range(worlds):
        points = rng.normal(0, 1, (images, 2 * size)) + 0.35 * labels[:, None]
        divided = [rng.permutation(images // 2).repeat(2) % folds for _ in range(repeats)]
        results: dict[Replicate, tuple[float, float]] = {}
        for one in cross(seeds, repeats, folds):
            assert one.repeat is not None
            held = divided[one.repeat] == one.fold
            train = ~held & (rng.random(images) < (1.0 if seeds == 1 else 0.9))
            results[one] = (
                classify(points[:, :size], labels, held, train),
                classify(points[:, size:], labels, held, train),
            )
        arms = [{one: values[arm] for one, values in results.items()} for arm in (0, 1)]
        mine, theirs = (sample_values(arm, folds) for arm in arms)
        corrected += estimate_difference(mine.values, theirs.values, overlap=mine.overlap).p < 0.05
        naive += estimate_difference(*(list(arm.values()) for arm in arms)).p < 0.05
    assert corrected / worlds <= 0.06
    assert naive / worlds >= 0.2


def runs_kept(some: frozenset[Replicate], finished: list[frozenset[Replicate]]) -> int:
    return len(some) * sum(some <= one for one in finished)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8))
def test_of_sweeps_cut_short_no_other_seeds_keep_more_runs(counts: list[int]) -> None:
    """An oracle: all numbers of seeds that are at least half of the largest."""
    finished = [frozenset(map(Replicate, range(count))) for count in counts]
    chosen, largest = choose_replicates(finished), max(counts)
    others = [frozenset(map(Replicate, range(count))) for count in range(-(-largest // 2), largest + 1)]
    assert runs_kept(chosen, finished) == max(runs_kept(one, finished) for one in others)
    assert 2 * len(chosen) >= largest


@given(st.lists(st.frozensets(st.integers(0, 5)), min_size=1, max_size=6))
def test_scattered_seeds_keep_as_many_runs_as_those_of_any_arm(seeds: list[frozenset[int]]) -> None:
    finished = [frozenset(map(Replicate, some)) for some in seeds]
    chosen, largest = choose_replicates(finished), max(map(len, finished))
    wide = [one for one in finished if 2 * len(one) >= largest]
    assert runs_kept(chosen, finished) >= max(runs_kept(one, finished) for one in wide)
    assert 2 * len(chosen) >= largest
    assert choose_replicates(finished[::-1]) == chosen
