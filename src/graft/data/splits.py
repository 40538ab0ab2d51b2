"""Which images train, choose and test: index arithmetic, and nothing else.

``split_seed`` fixes the test set and the training pool. ``seed`` orders each class of the pool once: training
takes from the front of that order and validation from its end, so that both are nested over label budgets and
never meet. An official split is kept as it is.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graft.data.image_set import TEST, TRAIN, VAL, Int8Array, Int64Array
from graft.errors import GraftError

_TEST_DRAW, _TRAIN_DRAW, _VAL_DRAW = 1, 2, 3
"""Keep the draws apart that share a seed."""


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
) -> Split:
    """Divide images into training, validation and test.

    Without ``val_labels_per_class``, a k-shot run has validation labels in the proportion of a full run, and
    at least one per class: ``k * v / (1 - v)`` for validation of the share ``v`` of the pool, ``k * n_val /
    n_train`` where validation is official.

    Args:
        labels: Class of each image, ``(N,)``.
        official: The source's own splits, ``(N,)``, or ``None``; images marked -1 are left out.
        split_seed: Draws the test set.
        seed: Draws training and validation images.
        test_size: Test images when there is no official test set: a fraction of all images below 1, else a
            count.
        val_size: Validation images when there is no official one: a fraction of the pool below 1, else a
            count.
        labels_per_class: Training images per class, exactly; ``None`` for all.
        val_labels_per_class: Validation images per class, exactly; ``None`` for the proportion above.
        class_names: Names of the classes, for messages.

    Raises:
        GraftError: A class has no image or too few, or the sizes do not add up.
    """
    usable = np.flatnonzero(official == TRAIN) if official is not None else np.arange(len(labels))
    official_val = _by_class(labels, _marked(official, VAL), len(class_names))
    test = _marked(official, TEST)
    classes = _by_class(labels, usable, len(class_names))
    for name, members in zip(class_names, classes, strict=True):
        if len(members) == 0:
            raise GraftError(f"Expected every class to have training images, but class {name!r} has none.")
    if len(test) == 0:
        classes, test = _carve_test(classes, split_seed, test_size)

    pool = _shuffle(classes, seed, _TRAIN_DRAW)
    counts = [len(members) for members in pool]
    if any(len(members) for members in official_val):
        val = _draw_official_val(
            official_val, counts, seed, labels_per_class, val_labels_per_class, class_names
        )
        _check_shots(counts, labels_per_class, 0, class_names)
        val_counts = [0] * len(pool)
    else:
        val_counts = _count_val(counts, val_size, labels_per_class, val_labels_per_class, class_names)
        val = [order[n - m :] for order, n, m in zip(pool, counts, val_counts, strict=True)]
    if labels_per_class is None:
        train = [order[: n - m] for order, n, m in zip(pool, counts, val_counts, strict=True)]
    else:
        train = [order[:labels_per_class] for order in pool]
    return _sort_and_hash(np.concatenate(train), np.concatenate(val), test)


def allocate(total: int, counts: Sequence[int], key: str) -> list[int]:
    """Share ``total`` among classes in proportion to ``counts``; each class keeps one image.

    Rounded by largest remainders, so that the shares add up exactly.

    >>> allocate(5, [10, 10, 5], "data.test_size")
    [2, 2, 1]

    Raises:
        GraftError: So much is wanted that a class would be left with no image.
    """
    room = [count - 1 for count in counts]
    if total > sum(room):
        raise GraftError(
            f"Expected `{key}` to leave at least one image of each of {len(counts)} classes for training, "
            f"so at most {max(0, sum(room))} of {sum(counts)} images, but got {total}."
        )
    quotas = [total * count / sum(counts) for count in counts]
    shares = [min(math.floor(quota), limit) for quota, limit in zip(quotas, room, strict=True)]
    while sum(shares) < total:
        open_classes = [i for i in range(len(shares)) if shares[i] < room[i]]
        shares[max(open_classes, key=lambda i: (quotas[i] - shares[i], -i))] += 1
    return shares


def _carve_test(
    classes: Sequence[Int64Array], split_seed: int, test_size: float
) -> tuple[list[Int64Array], Int64Array]:
    """Return what is left of each class, sorted, and the test set."""
    counts = [len(members) for members in classes]
    taken = allocate(_count_of("data.test_size", test_size, sum(counts)), counts, "data.test_size")
    orders = _shuffle(classes, split_seed, _TEST_DRAW)
    test = np.concatenate([order[:n] for order, n in zip(orders, taken, strict=True)])
    return [np.sort(order[n:]) for order, n in zip(orders, taken, strict=True)], test


def _marked(official: Int8Array | None, split: int) -> Int64Array:
    return np.array([], dtype=np.int64) if official is None else np.flatnonzero(official == split)


def _by_class(labels: Int64Array, indices: Int64Array, num_classes: int) -> list[Int64Array]:
    return [indices[labels[indices] == label] for label in range(num_classes)]


def _shuffle(classes: Sequence[Int64Array], seed: int, draw: int) -> list[Int64Array]:
    """Order each class by a draw of its own, so that one class's size does not move another's order."""
    return [
        np.random.default_rng([seed, draw, label]).permutation(members)
        for label, members in enumerate(classes)
    ]


def _count_of(key: str, size: float, available: int) -> int:
    """Turn a size, a fraction below 1 or else a count, into a number of images."""
    if not math.isfinite(size) or size < 0 or (size >= 1 and size != int(size)):
        raise GraftError(
            f"Expected `{key}` to be a fraction below 1 or a whole number of images, but got {size!r}."
        )
    count = round(size * available) if size < 1 else int(size)
    if count >= available:
        raise GraftError(
            f"Expected `{key}` to be fewer than the {available} images it is carved from, but got {count}."
        )
    return count


def _count_val(
    counts: Sequence[int],
    val_size: float,
    labels_per_class: int | None,
    val_labels_per_class: int | None,
    class_names: Sequence[str],
) -> list[int]:
    """Count the validation images of each class, carved from the pool."""
    # Not read, and so not judged, where the labels of each class are given.
    total = 0 if val_labels_per_class is not None else _count_of("data.val_size", val_size, sum(counts))
    if labels_per_class is None and val_labels_per_class is None:
        if total == 0:
            raise GraftError(
                "Expected `data.val_size` to be at least one image, because validation chooses; got "
                f"{val_size!r} of {sum(counts)} images."
            )
        return allocate(total, counts, "data.val_size")
    if labels_per_class is None:
        per_class = val_labels_per_class or 0
        _check_val(counts, per_class, class_names, keep=1)
    else:
        share = total / (sum(counts) - total)
        per_class = _count_in_proportion(labels_per_class, share, val_labels_per_class)
        _check_shots(
            counts, labels_per_class, per_class, class_names, None if val_labels_per_class else share
        )
    return [per_class] * len(counts)


def _count_in_proportion(shots: int, share: float, asked: int | None) -> int:
    return asked if asked is not None else max(1, round(shots * share))


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
        return list(classes)
    share = sum(len(members) for members in classes) / sum(counts)
    if val_labels_per_class is not None:
        _check_val([len(members) for members in classes], val_labels_per_class, class_names, keep=0)
    per_class = _count_in_proportion(labels_per_class or 0, share, val_labels_per_class)
    return [order[:per_class] for order in _shuffle(classes, seed, _VAL_DRAW)]


def _check_val(counts: Sequence[int], per_class: int, class_names: Sequence[str], keep: int) -> None:
    """Refuse more validation labels than a class has, beside ``keep`` images for training."""
    label = int(np.argmin(counts))
    if per_class > counts[label] - keep:
        raise GraftError(
            f"Expected `data.val_labels_per_class` to be at most {counts[label] - keep}, but got "
            f"{per_class}: class {class_names[label]!r} has {counts[label]} images to choose validation from"
            f"{', and one must train' if keep else ''}."
        )


def _check_shots(
    counts: Sequence[int],
    shots: int | None,
    per_class_val: int,
    class_names: Sequence[str],
    share: float | None = None,
) -> None:
    """Refuse more shots than the smallest class has; ``share`` says how validation follows the shots."""
    label = int(np.argmin(counts))
    available = counts[label]
    if shots is None or shots + per_class_val <= available:
        return

    def fits(k: int) -> bool:
        return k + (per_class_val if share is None else _count_in_proportion(k, share, None)) <= available

    largest = next((k for k in range(min(shots, available), 0, -1) if fits(k)), None)
    limit = f"at most {largest}" if largest else "smaller, and no number works"
    raise GraftError(
        f"Expected `data.labels_per_class` to be {limit}, but got {shots}: class {class_names[label]!r} has "
        f"{available} images in the training pool, and {shots} to train + {per_class_val} to validate are "
        f"{shots + per_class_val}."
    )


def _sort_and_hash(train: Int64Array, val: Int64Array, test: Int64Array) -> Split:
    parts = [np.sort(part).astype(np.int64) for part in (train, val, test)]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part.astype("<i8").tobytes())
    return Split(train=parts[0], val=parts[1], test=parts[2], digest=digest.hexdigest())
