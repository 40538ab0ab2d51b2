"""Images that belong together (a patient, a scene, a camera) stay together: index arithmetic on groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from graft.data.image_set import NO_SPLIT, Int8Array, Int64Array
from graft.errors import GraftError

Groups = npt.NDArray[Any]
"""The group of each image, ``(N,)``: numbers or names; equal means together."""


def assign_groups(
    labels: Int64Array,
    groups: Groups,
    members: Int64Array,
    shares: Sequence[float],
    rng: np.random.Generator,
    keeper: int | None = None,
) -> Int64Array:
    """Put whole groups into bins, so that each bin gets its share of all images and of each class.

    Large groups go first, each to the bin where it brings sizes and class counts closest to the shares: the
    sum over classes of squared deviations, relative to the class, and the same for the total with as much
    weight as all classes together. Exact where groups are single images of large classes, else as near as
    the groups allow.

    Args:
        labels: Class of each image, ``(N,)``.
        groups: Group of each image, ``(N,)``.
        members: The images to divide, ``(n,)``.
        shares: Share of each bin, above 0; they add up to 1.
        rng: Orders groups of equal size.
        keeper: The bin that gets each group which holds all images of some class; ``None`` for no such rule.

    Returns:
        The bin of each member, ``(n,)``.
    """
    names, inverse = np.unique(groups[members], return_inverse=True)
    table = np.zeros((len(names), int(labels[members].max()) + 1))
    np.add.at(table, (inverse, labels[members]), 1)
    table = table[:, table.sum(axis=0) > 0]
    totals = table.sum(axis=0)
    sizes = table.sum(axis=1)
    order = rng.permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]

    # Squared deviation grows by g * (2 * (n - target) + g) where g more images join the n of a bin.
    target = np.outer(shares, totals)
    weight = 1.0 / totals
    total_weight = len(totals) / totals.sum()
    excess, excess_total = -target, -target.sum(axis=1)
    bins = np.empty(len(names), dtype=np.int64)
    for group in order:
        counts, size = table[group], sizes[group]
        if keeper is not None and np.any(counts == totals):
            chosen = keeper
        else:
            growth = (counts * weight * (2 * excess + counts)).sum(axis=1)
            growth += size * total_weight * (2 * excess_total + size)
            chosen = int(np.argmin(growth))
        bins[group] = chosen
        excess[chosen] += counts
        excess_total[chosen] += size
    return bins[inverse]


def carve_groups(
    labels: Int64Array,
    groups: Groups,
    members: Int64Array,
    count: int,
    seeds: Sequence[int],
    key: str,
) -> tuple[Int64Array, Int64Array]:
    """Divide members into those that stay and about ``count`` that are carved out, by whole groups.

    Args:
        labels: Class of each image, ``(N,)``.
        groups: Group of each image, ``(N,)``.
        members: The images to divide, ``(n,)``.
        count: Images wanted outside, between 1 and n - 1.
        seeds: Seeds of the draw.
        key: The knob that asks for ``count``, for messages.

    Raises:
        GraftError: A group is so large that nothing would be carved out.
    """
    share = count / len(members)
    bins = assign_groups(
        labels, groups, members, (1 - share, share), np.random.default_rng(list(seeds)), keeper=0
    )
    if not np.any(bins == 1):
        name, size = largest_group(groups[members])
        raise GraftError(
            f"Expected groups from which `{key}` can carve about {count} of {len(members)} images, but none "
            f"is left for it: groups are never divided, each class must train, and the largest group, "
            f"{name!r}, holds {size} images. Give smaller groups, or a larger `{key}`."
        )
    return members[bins == 0], members[bins == 1]


def largest_group(groups: Groups) -> tuple[str, int]:
    """Return the name of the largest group, and how many images it has.

    >>> largest_group(np.array(["a", "b", "b"]))
    ('b', 2)
    """
    names, counts = np.unique(groups, return_counts=True)
    largest = int(np.argmax(counts))
    return str(names[largest]), int(counts[largest])


def require_whole_groups(groups: Groups, marks: Int8Array, split_names: Sequence[str]) -> None:
    """Refuse official splits that divide a group: nothing could be done about the leak.

    Args:
        groups: Group of each image, ``(N,)``.
        marks: Split of each image, ``(N,)``.
        split_names: Names by mark.

    Raises:
        GraftError: A group is in two splits.
    """
    used = np.flatnonzero(marks != NO_SPLIT)
    names, inverse = np.unique(groups[used], return_inverse=True)
    present = np.zeros((len(names), len(split_names)), dtype=bool)
    present[inverse, marks[used]] = True
    divided = np.flatnonzero(present.sum(axis=1) > 1)
    if len(divided):
        where = " and ".join(split_names[split] for split in np.flatnonzero(present[divided[0]]).tolist())
        more = f", and so are {len(divided) - 1} other groups" if len(divided) > 1 else ""
        raise GraftError(
            f"Expected each group in one split only, but group {str(names[divided[0]])!r} is in "
            f"{where}{more}. Correct the splits or the groups; or leave the splits out, and graft divides by "
            "whole groups."
        )
