"""What would settle a difference that is not established: more seeds, or more test images."""

from __future__ import annotations

import math

from graft.compare.two_way import Spread

#: More seeds than these nobody runs; a test set that grows by more nobody labels.
_MOST_SEEDS = 100
_MOST_TIMES = 100


def say_settles(spread: Spread, level: float, margin: float) -> str:
    """Say how many seeds or test images would settle a difference, were it and its spread as they seem.

    Args:
        spread: The difference.
        level: Coverage that the interval needs to exclude zero.
        margin: Difference that counts as none.
    """
    if spread.folds:
        return "more folds settle little, as they share images: more labelled images would"
    if spread.n < 2:
        return "more seeds: `seed='range(5)'`"
    if math.isnan(spread.reach(level)):
        return f"all seeds gave the same difference: more of them, `seed='range({max(10, 2 * spread.n)})'`"
    seeds = count_seeds(spread, level, margin)
    if seeds is not None:
        return f"about {seeds} seeds instead of {spread.n}: `seed='range({seeds})'`"
    images = count_images(spread, level, margin)
    if images is not None:
        return (
            f"about {_round_up(images):,} test images instead of {spread.images:,}; more seeds alone would"
            " not, because the test images decide"
        )
    more = f"neither {_MOST_SEEDS} seeds nor a test set {_MOST_TIMES} times as large"
    said = more if spread.images else f"more than {_MOST_SEEDS} seeds"
    return f"{said}, as the difference is too close to zero or to the margin"


def count_seeds(spread: Spread, level: float, margin: float) -> int | None:
    """Return the fewest seeds that would settle a difference on as many test images, None if too many."""
    for seeds in range(spread.n + 1, _MOST_SEEDS + 1):
        if _is_settled(spread.project(seeds, spread.images), level, margin):
            return seeds
    return None


def count_images(spread: Spread, level: float, margin: float) -> int | None:
    """Return about the fewest test images that would settle it with as many seeds, None if too many."""
    images = float(spread.images)
    while 0 < images < _MOST_TIMES * spread.images:
        images *= 1.05
        if _is_settled(spread.project(spread.n, math.ceil(images)), level, margin):
            return math.ceil(images)
    return None


def _is_settled(spread: Spread, level: float, margin: float) -> bool:
    return abs(spread.mean) > spread.reach(level) or spread.is_within(margin)


def _round_up(count: int) -> int:
    """Return a count with two digits that say something.

    >>> _round_up(1234), _round_up(87)
    (1300, 87)
    """
    unit = int(10 ** max(len(str(count)) - 2, 0))
    return -(-count // unit) * unit
