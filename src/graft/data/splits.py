"""Which images train, choose and test: index arithmetic, and nothing else.

``split_seed`` fixes the test set and the training pool. ``seed`` orders each class of the pool once: training
takes from the front of that order and validation from its end, so that both are nested over label budgets and
never meet. An official split is kept as it is; groups and folds become marks like those of one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graft.data.counts import (
    allocate,
    check_shots,
    check_sum,
    check_val,
    count_in_proportion,
    count_of,
    count_val,
)
from graft.data.folds import assign_folds
from graft.data.groups import Groups, carve_groups, require_whole_groups
from graft.data.image_set import NO_SPLIT, TEST, TRAIN, VAL, Int8Array, Int64Array
from graft.errors import GraftError

_TEST_DRAW, _TRAIN_DRAW, _VAL_DRAW, _FOLD_DRAW = 1, 2, 3, 4
"""Keep the draws apart that share a seed."""

_SPLIT_NAMES = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """Sorted indices of the labelled images of each split, int64, and the sha256 of all three."""

    train: Int64Array
    val: Int64Array
    test: Int64Array
    digest: str


def make_split(
    labels: Int64Array,
    official: Int8Array | None,
    *,
    split_seed: int,
    seed: int,
    test_size: float,
    val_size: float,
    labels_per_class: int | None,
    val_labels_per_class: int | None,
    class_names: Sequence[str],
    groups: Groups | None = None,
    label_fraction: float | None = None,
    folds: int | None = None,
    fold: int = 0,
    fold_repeat: int = 0,
) -> Split:
    """Divide images into training, validation and test.

    Without ``val_labels_per_class``, a k-shot run has validation labels in the proportion of a full run, and
    at least one per class: ``k * v / (1 - v)`` for validation of the share ``v`` of the pool, ``k * n_val /
    n_train`` where validation is official or goes by groups. Under ``label_fraction`` both shrink alike.

    Args:
        labels: Class of each image, ``(N,)``.
        official: The source's own splits, ``(N,)``, or ``None``; images marked -1 are left out.
        split_seed: Draws the test set, or the folds.
        seed: Draws training and validation images.
        test_size: Test images when there is no official test set: a fraction of all images below 1, else a
            count.
        val_size: Validation images when there is no official one: a fraction of the pool below 1, else a
            count.
        labels_per_class: Training images per class, exactly; ``None`` for all.
        val_labels_per_class: Validation images per class, exactly; ``None`` for the proportion above.
        class_names: Names of the classes, for messages.
        groups: Group of each image, ``(N,)``; no group is in two splits. Sizes are as near as groups allow.
        label_fraction: Share of the training and validation images of each class that are labelled.
        folds: Hold out one of so many parts of all but the official test set, which is then left alone.
        fold: Which part is held out, from 0.
        fold_repeat: Which drawing of the folds, from 0.

    Raises:
        GraftError: A class has no image or too few, or the sizes do not add up.
    """
    marks = np.full(len(labels), TRAIN, dtype=np.int8) if official is None else official.copy()
    if groups is not None:
        require_whole_groups(groups, marks, _SPLIT_NAMES)
    if folds is not None:
        marks = _hold_out(labels, marks, groups, folds, fold, (split_seed, fold_repeat), class_names)
    if TEST not in marks:
        check_sum(test_size, 0 if VAL in marks else val_size)
    if groups is not None:
        marks = _carve_by_groups(labels, marks, groups, test_size, val_size, split_seed, seed)

    official_val = _by_class(labels, np.flatnonzero(marks == VAL), len(class_names))
    test = np.flatnonzero(marks == TEST)
    classes = _by_class(labels, np.flatnonzero(marks == TRAIN), len(class_names))
    for name, members in zip(class_names, classes, strict=True):
        if len(members) == 0:
            raise GraftError(f"Expected every class to have training images, but class {name!r} has none.")
    if len(test) == 0:
        classes, test = _carve_test(classes, split_seed, test_size)
    budget = (labels_per_class, val_labels_per_class)
    train, val = _draw_labels(classes, official_val, seed, val_size, budget, class_names)
    if label_fraction is not None:
        train, val = ([_take(order, label_fraction) for order in part] for part in (train, val))
    return _sort_and_hash(np.concatenate(train), np.concatenate(val), test)


def _draw_labels(
    classes: Sequence[Int64Array],
    official_val: Sequence[Int64Array],
    seed: int,
    val_size: float,
    budget: tuple[int | None, int | None],
    class_names: Sequence[str],
) -> tuple[list[Int64Array], list[Int64Array]]:
    """Return the labelled training and validation images of each class, in the order in which they nest."""
    labels_per_class, val_labels_per_class = budget
    pool = _shuffle(classes, seed, _TRAIN_DRAW)
    counts = [len(members) for members in pool]
    if any(len(members) for members in official_val):
        val = _draw_official_val(
            official_val, counts, seed, labels_per_class, val_labels_per_class, class_names
        )
        check_shots(counts, labels_per_class, 0, class_names)
        val_counts = [0] * len(pool)
    else:
        val_counts = count_val(counts, val_size, labels_per_class, val_labels_per_class, class_names)
        val = [order[n - m :][::-1] for order, n, m in zip(pool, counts, val_counts, strict=True)]
    if labels_per_class is None:
        return [order[: n - m] for order, n, m in zip(pool, counts, val_counts, strict=True)], val
    return [order[:labels_per_class] for order in pool], val


def _take(order: Int64Array, fraction: float) -> Int64Array:
    """Return the front of an order: a share of it, and at least one image; nested over fractions."""
    return order[: max(1, round(fraction * len(order)))]


def _carve_test(
    classes: Sequence[Int64Array], split_seed: int, test_size: float
) -> tuple[list[Int64Array], Int64Array]:
    """Return what is left of each class, sorted, and the test set."""
    counts = [len(members) for members in classes]
    taken = allocate(count_of("data.test_size", test_size, sum(counts)), counts, "data.test_size")
    orders = _shuffle(classes, split_seed, _TEST_DRAW)
    test = np.concatenate([order[:n] for order, n in zip(orders, taken, strict=True)])
    return [np.sort(order[n:]) for order, n in zip(orders, taken, strict=True)], test


def _hold_out(
    labels: Int64Array,
    marks: Int8Array,
    groups: Groups | None,
    folds: int,
    fold: int,
    seeds: tuple[int, int],
    class_names: Sequence[str],
) -> Int8Array:
    """Mark the held-out fold as test, the other folds as training, and an official test set as unused."""
    if not 0 <= fold < folds:
        raise GraftError(
            f"Expected `data.fold` between 0 and {folds - 1} with `data.folds={folds}`, but got {fold}."
        )
    members = np.flatnonzero((marks == TRAIN) | (marks == VAL))
    split_seed, repeat = seeds
    assigned = assign_folds(labels, groups, members, folds, (split_seed, _FOLD_DRAW, repeat), class_names)
    held = np.full(len(labels), NO_SPLIT, dtype=np.int8)
    held[members] = np.where(assigned == fold, TEST, TRAIN)
    return held


def _carve_by_groups(
    labels: Int64Array,
    marks: Int8Array,
    groups: Groups,
    test_size: float,
    val_size: float,
    split_seed: int,
    seed: int,
) -> Int8Array:
    """Mark whole groups as test and as validation, where there is none."""
    carved = marks.copy()
    for split, key, size, seeds in (
        (TEST, "data.test_size", test_size, (split_seed, _TEST_DRAW)),
        (VAL, "data.val_size", val_size, (seed, _VAL_DRAW)),
    ):
        if not np.any(carved == split):
            pool = np.flatnonzero(carved == TRAIN)
            count = max(1, count_of(key, size, len(pool)))
            carved[carve_groups(labels, groups, pool, count, seeds, key)[1]] = split
    return carved


def _by_class(labels: Int64Array, indices: Int64Array, num_classes: int) -> list[Int64Array]:
    return [indices[labels[indices] == label] for label in range(num_classes)]


def _shuffle(classes: Sequence[Int64Array], seed: int, draw: int) -> list[Int64Array]:
    """Order each class by a draw of its own, so that one class's size does not move another's order."""
    return [
        np.random.default_rng([seed, draw, label]).permutation(members)
        for label, members in enumerate(classes)
    ]


def _draw_official_val(
    classes: Sequence[Int64Array],
    counts: Sequence[int],
    seed: int,
    labels_per_class: int | None,
    val_labels_per_class: int | None,
    class_names: Sequence[str],
) -> list[Int64Array]:
    """Take all of an official validation set, or its part under a label budget."""
    if labels_per_class is None and val_labels_per_class is None:
        return _shuffle(classes, seed, _VAL_DRAW)
    share = sum(len(members) for members in classes) / sum(counts)
    if val_labels_per_class is not None:
        check_val([len(members) for members in classes], val_labels_per_class, class_names, keep=0)
    per_class = count_in_proportion(labels_per_class or 0, share, val_labels_per_class)
    return [order[:per_class] for order in _shuffle(classes, seed, _VAL_DRAW)]


def _sort_and_hash(train: Int64Array, val: Int64Array, test: Int64Array) -> Split:
    parts = [np.sort(part).astype(np.int64) for part in (train, val, test)]
    return Split(train=parts[0], val=parts[1], test=parts[2], digest=hash_parts(*parts))


def hash_parts(train: Int64Array, val: Int64Array, test: Int64Array) -> str:
    """Return the sha256 of the indices of a split, hex."""
    digest = hashlib.sha256()
    for part in (train, val, test):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part.astype("<i8").tobytes())
    return digest.hexdigest()
