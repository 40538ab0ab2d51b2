"""Intervals for new seeds and new test images: against the analysis of variance, and by simulation."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.compare.statistics import estimate_difference
from graft.compare.two_way import Spread, spread_over_seeds, spread_two_way


def draw_table(seed: int, seeds: int, images: int) -> np.ndarray:
    """Return differences of right and wrong answers, with effects of seed and image."""
    rng = np.random.default_rng(seed)
    shift = rng.normal(0, 0.3, (seeds, 1)) + rng.normal(0, 1, images)
    return (rng.normal(0, 1, (seeds, images)) + shift > 0.2).astype(float) - (
        rng.random((seeds, images)) > 0.4
    )


TABLES = st.builds(draw_table, st.integers(0, 10_000), st.integers(2, 8), st.integers(4, 60))


def leftover(table: np.ndarray, *effects: np.ndarray) -> float:
    """Return the residual sum of squares of a linear model, by least squares."""
    design = np.hstack([np.ones((table.size, 1)), *effects])
    rest = table.ravel() - design @ np.linalg.lstsq(design, table.ravel(), rcond=None)[0]
    return float(rest @ rest)


@settings(max_examples=25, deadline=None)
@given(TABLES)
def test_variances_are_those_of_the_analysis_of_variance(table: np.ndarray) -> None:
    """Mean squares of seeds, images and the rest by least squares, each as a variance of the mean."""
    seeds, images = table.shape
    of_seed = np.kron(np.eye(seeds), np.ones((images, 1)))
    of_image = np.kron(np.ones((seeds, 1)), np.eye(images))
    total, both = leftover(table), leftover(table, of_seed, of_image)
    spread = spread_two_way(table)
    size = seeds * images
    assert spread.seeds == pytest.approx((total - leftover(table, of_seed)) / (seeds - 1) / size, abs=1e-12)
    assert spread.between == pytest.approx(
        (total - leftover(table, of_image)) / (images - 1) / size, abs=1e-12
    )
    assert spread.within == pytest.approx(both / ((seeds - 1) * (images - 1)) / size, abs=1e-12)
    assert spread.mean == pytest.approx(table.mean())


@settings(max_examples=25, deadline=None)
@given(TABLES, st.sampled_from([0.9, 0.95, 0.995]))
def test_never_shorter_than_over_seeds_alone(table: np.ndarray, level: float) -> None:
    spread = spread_two_way(table, None, 1.0)
    alone = estimate_difference(list(table.mean(axis=1)), [0.0] * len(table), level=level)
    over_seeds = spread.over_seeds
    assert over_seeds.interval(level).low == pytest.approx(alone.estimate.low, abs=1e-9, nan_ok=True)
    assert over_seeds.p == pytest.approx(alone.p, abs=1e-9)
    if alone.estimate.has_interval:
        assert spread.interval(level).low <= alone.estimate.low + 1e-9
        assert spread.interval(level).high >= alone.estimate.high - 1e-9
        assert spread.p >= alone.p - 1e-12


@settings(max_examples=25, deadline=None)
@given(TABLES)
def test_the_p_value_is_where_the_interval_meets_zero(table: np.ndarray) -> None:
    spread = spread_two_way(table, None, 1.0)
    if 1e-9 < spread.p < 1:
        assert spread.reach(1 - spread.p) == pytest.approx(abs(spread.mean), rel=1e-6)
    assert spread.reach(0.99) > spread.reach(0.95) > spread.reach(0.9)


@settings(max_examples=25, deadline=None)
@given(TABLES, st.integers(0, 1000))
def test_order_of_seeds_and_images_and_sign_do_not_matter(table: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shuffled = -table[rng.permutation(len(table))][:, rng.permutation(table.shape[1])]
    one, other = spread_two_way(table, None, 1.0), spread_two_way(shuffled, None, 1.0)
    assert other.mean == pytest.approx(-one.mean)
    assert other.reach(0.95) == pytest.approx(one.reach(0.95))
    assert other.p == pytest.approx(one.p)


@settings(max_examples=25, deadline=None)
@given(TABLES)
def test_more_seeds_and_images_make_it_shorter(table: np.ndarray) -> None:
    seeds, images = table.shape
    spread = spread_two_way(table, None, 1.0)
    same = spread.project(seeds, images)
    floor = max(spread.seeds, spread.within), max(spread.between, spread.within)
    assert (same.seeds, same.between) == pytest.approx(floor)
    assert spread.project(2 * seeds, images).reach(0.95) < same.reach(0.95)
    assert spread.project(seeds, 2 * images).seeds <= same.seeds
    assert spread.project(2 * seeds, 10 * images).reach(0.95) < same.reach(0.95)


def test_one_seed_has_no_interval() -> None:
    spread = spread_two_way(draw_table(0, 2, 50)[:1], None, 1.0)
    assert math.isnan(spread.reach(0.95))
    assert spread.p == 1
    assert not spread.is_within(1.0)


@pytest.mark.parametrize(("images", "known"), [(100, False), (1_000, True)])
def test_arms_that_agree_on_every_image_are_equal_as_far_as_the_images_tell(images: int, known: bool) -> None:
    """None of a hundred images has changed: three in a hundred new ones still may."""
    spread = spread_two_way(np.zeros((3, images)), None, 1.0)
    assert spread.p == 1
    assert spread.is_within(0.005) is known


def test_equal_differences_over_seeds_alone_tell_nothing() -> None:
    spread = spread_over_seeds(np.array([0.3, 0.3, 0.3]))
    assert math.isnan(spread.reach(0.95))
    assert spread.p == 1


def test_folds_have_the_corrected_variance() -> None:
    values = np.array([0.1, 0.12, 0.08, 0.11, 0.09])
    spread = spread_over_seeds(values, 0.25)
    expected = estimate_difference(list(values), [0.0] * 5, overlap=0.25)
    assert spread.covers == "folds"
    assert spread.estimate().estimate.low == pytest.approx(expected.estimate.low)
    assert spread.estimate().p == pytest.approx(expected.p)


def test_classes_are_drawn_inside() -> None:
    """Where classes alone differ, new images of the same classes change nothing but by their unit."""
    classes = np.repeat([0, 1], [10, 30])
    rows = np.where(classes == 0, 1.0, 0.0) + np.array([[0.0], [0.1], [-0.1]])
    inside, outside = spread_two_way(rows, classes), spread_two_way(rows)
    assert inside.between == pytest.approx(0)
    assert outside.between > 1e-3
    assert spread_two_way(rows, classes, 1.0).between == pytest.approx(1 / 40**2)


@pytest.mark.parametrize("sizes", [[1, 5, 30], [1, 1, 1, 30], [1, 1], [2, 3], [40]])
def test_a_class_of_one_image_is_joined(sizes: list[int]) -> None:
    rng = np.random.default_rng(0)
    table = rng.integers(-1, 2, (3, sum(sizes))).astype(float)
    spread = spread_two_way(table, np.repeat(np.arange(len(sizes)), sizes))
    assert math.isfinite(spread.reach(0.95))
    assert spread.between > 0


def test_spread_says_what_it_covers() -> None:
    assert Spread(0.1, 3, 0, 0.1).covers == "seeds"
    assert Spread(0.1, 3, 100, 0.1).covers == "seeds and images"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("trials", [4, pytest.param(1, marks=pytest.mark.full)])
@pytest.mark.parametrize("seeds", [3, pytest.param(5, marks=pytest.mark.full)])
def test_intervals_cover_in_every_named_world(benchmark: ModuleType, seeds: int, trials: int) -> None:
    """The committed simulation, shortened: within its own error of what is claimed."""
    repeats = 250
    for number, world in enumerate(benchmark.WORLDS):
        rng = np.random.default_rng([number, seeds, trials])
        found = benchmark.measure_coverage(world, seeds, 100, trials, repeats, rng)
        least = benchmark.COVERED_AT_LEAST - 3 * math.sqrt(0.05 * 0.95 / repeats)
        assert found.covered >= least, world.name


def test_equal_arms_have_no_verdict(benchmark: ModuleType) -> None:
    repeats = 200
    for number, (seeds, images, trials) in enumerate(((3, 100, 4), (5, 400, 1))):
        world = next(one for one in benchmark.WORLDS if one.name == benchmark.FALSE_WORLDS[number])
        rng = np.random.default_rng(seeds)
        wrong = benchmark.count_false_verdicts(world, seeds, images, trials, repeats, rng)
        assert wrong <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / repeats)


@pytest.mark.full
def test_intervals_cover_with_many_images(benchmark: ModuleType) -> None:
    for number, world in enumerate(benchmark.WORLDS):
        for seeds in benchmark.SEEDS:
            rng = np.random.default_rng([number, seeds])
            found = benchmark.measure_coverage(world, seeds, 1_000, 4, 600, rng)
            assert found.covered >= benchmark.COVERED_AT_LEAST - 3 * math.sqrt(0.05 * 0.95 / 600), world.name
