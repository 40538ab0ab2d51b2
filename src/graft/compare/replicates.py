"""Which replicates arms are compared on, what they amount to, and how they are counted in words."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from graft.plan.replicates import Replicate


@dataclass(frozen=True)
class Sample:
    """Values that statistics are made of.

    Attributes:
        values: One per seed, or one per fold, shape ``(n,)``.
        overlap: Test images over training images of a fold, 0 without folds.
    """

    values: tuple[float, ...]
    overlap: float


def sample_values(values: Mapping[Replicate, float], folds: int | None) -> Sample:
    """Return the values that statistics are made of.

    Without folds these are the values of the seeds. With folds, seeds of one fold share its test images and
    its pool of training images, so they are averaged: the fold is what repeats. One fold alone is one test
    set as any other, and its seeds are what repeats.

    Args:
        values: One value per replicate.
        folds: Number of folds of the cross-validation, None without.
    """
    divisions = find_divisions(values)
    if folds is None or len(divisions) < 2:
        return Sample(tuple(values[one] for one in sorted(values)), 0.0)
    grouped = [[values[one] for one in sorted(values) if one.division == own] for own in divisions]
    return Sample(tuple(math.fsum(own) / len(own) for own in grouped), 1 / (folds - 1))


def choose_replicates(finished: Sequence[frozenset[Replicate]]) -> frozenset[Replicate]:
    """Return the replicates to compare on: those that keep most runs of what finished some of them.

    What lacks one of them is left out, so that a quick look at something more does not cut all the rest down
    to it; nor do many of them, since there are never fewer than half of the most that one has. Of sets that
    keep as many runs the larger one is taken. It is empty where nothing finished.
    """
    enough = max(map(len, finished), default=0) / 2

    def rank(some: frozenset[Replicate]) -> tuple[int, int, list[Replicate]]:
        kept = sum(some <= other for other in finished)
        return (-len(some) * kept, -len(some), sorted(some))

    found = [one for one in _list_common(finished) if len(one) >= enough]
    return min(found, key=rank, default=frozenset())


def _list_common(finished: Sequence[frozenset[Replicate]]) -> Iterator[frozenset[Replicate]]:
    """List what several have in common: from each one on, joined first by those that leave most of it.

    Not all that there is: with many different ones that would be too much.
    """
    for common in set(finished):
        rest = set(finished)
        while common:
            yield common
            rest = {one for one in rest if not common <= one}
            common = min((common & one for one in rest), key=_most_first, default=frozenset())


def _most_first(some: frozenset[Replicate]) -> tuple[int, list[Replicate]]:
    return (-len(some), sorted(some))


def find_divisions(replicates: Collection[Replicate]) -> list[tuple[int, int]]:
    """Return the pairs of repeat and fold among the replicates, ascending; none without folds."""
    return sorted({one.division for one in replicates if one.division is not None})


def count_replicates(replicates: Collection[Replicate]) -> str:
    """Write how many replicates there are, by what they differ in.

    >>> count_replicates([Replicate(0), Replicate(1)])
    '2 seeds'
    >>> count_replicates([Replicate(0, 0, fold) for fold in range(5)])
    '5 folds'
    >>> count_replicates([Replicate(seed, 0, fold) for seed in range(2) for fold in range(5)])
    '2 seeds x 5 folds'
    """
    axes = {
        "seed": len({one.seed for one in replicates}),
        "repeat": len({repeat for repeat, _ in find_divisions(replicates)}),
        "fold": len({fold for _, fold in find_divisions(replicates)}),
    }
    last = "fold" if axes["fold"] else "seed"
    said = " x ".join(
        f"{count} {name}{'s' if count > 1 else ''}"
        for name, count in axes.items()
        if count > 1 or name == last
    )
    product = math.prod(max(count, 1) for count in axes.values())
    return said if len(replicates) == product else f"{len(replicates)} of {said}"


def count_range(groups: Collection[Collection[Replicate]]) -> str:
    """Write how many replicates each of several groups has.

    >>> count_range([[Replicate(0)], [Replicate(0), Replicate(1), Replicate(2)]])
    '1 to 3 seeds'
    """
    fewest, most = (count_replicates(pick(groups, key=len)) for pick in (min, max))
    if fewest == most:
        return most
    first, last = fewest.split(), most.split()
    plain = len(first) == len(last) == 2 and first[1].rstrip("s") == last[1].rstrip("s")
    return f"{first[0] if plain else fewest} to {most}"


def name_replicate(replicates: Collection[Replicate]) -> str:
    """Return what one value of a sample is: a fold where there are several, else a seed."""
    return "fold" if len(find_divisions(replicates)) > 1 else "seed"
