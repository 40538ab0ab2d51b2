from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from graft.compare.settle import count_images, count_seeds, say_settles
from graft.compare.two_way import Spread, spread_over_seeds

#: Four points, known to one point by seeds and to almost nothing by 1,000 images.
BY_SEEDS = Spread(0.04, 3, 1_000, 0.0004, 1e-6, 1e-7)
#: Four points that 100 images decide.
BY_IMAGES = Spread(0.04, 5, 100, 1e-6, 0.0009, 1e-7)


def test_the_seeds_named_would_do_and_fewer_would_not() -> None:
    seeds = count_seeds(BY_SEEDS, 0.95, 0.005)
    assert seeds is not None
    assert BY_SEEDS.project(seeds, 1_000).reach(0.95) < 0.04 <= BY_SEEDS.project(seeds - 1, 1_000).reach(0.95)
    assert say_settles(BY_SEEDS, 0.95, 0.005) == f"about {seeds} seeds instead of 3: `seed='range({seeds})'`"


def test_where_images_decide_more_images_are_asked_for() -> None:
    assert count_seeds(BY_IMAGES, 0.95, 0.005) is None
    images = count_images(BY_IMAGES, 0.95, 0.005)
    assert images is not None
    assert BY_IMAGES.project(5, images).reach(0.95) < 0.04
    said = say_settles(BY_IMAGES, 0.95, 0.005)
    assert said.endswith(
        "test images instead of 100; more seeds alone would not, because the test images decide"
    )


def test_no_difference_may_turn_out_equivalent() -> None:
    nothing = replace(BY_SEEDS, mean=0.0)
    seeds = count_seeds(nothing, 0.95, 0.02)
    assert seeds is not None
    assert nothing.project(seeds, 1_000).is_within(0.02)


def test_what_nothing_settles_is_said_so() -> None:
    close = replace(BY_SEEDS, mean=0.0005, seeds=0.01, between=0.01)
    assert say_settles(close, 0.95, 0.0005).startswith("neither 100 seeds nor a test set 100 times as large")
    alone = replace(close, images=0, between=0.0, within=0.0)
    assert say_settles(alone, 0.95, 0.0005).startswith("more than 100 seeds")


@pytest.mark.parametrize(
    ("values", "overlap", "said"),
    [
        ([0.1], 0.0, "more seeds: `seed='range(5)'`"),
        ([0.1, 0.1], 0.0, "all seeds gave the same difference: more of them, `seed='range(10)'`"),
        ([0.1, 0.2], 0.25, "more folds settle little, as they share images: more labelled images would"),
    ],
)
def test_other_cases_say_what_helps(values: list[float], overlap: float, said: str) -> None:
    assert say_settles(spread_over_seeds(np.array(values), overlap), 0.95, 0.005) == said
