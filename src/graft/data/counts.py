"""How many images of each class go where: budgets of labels, and what a class can give."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graft.errors import GraftError


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


def count_of(key: str, size: float, available: int) -> int:
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


def check_sum(test_size: float, val_size: float) -> None:
    """Refuse fractions that leave nothing to train on."""
    if test_size < 1 and val_size < 1 and test_size + val_size >= 1:
        raise GraftError(
            "Expected `data.test_size` and `data.val_size` to add up to less than 1, so that images "
            f"are left for training, but got {test_size:g} + {val_size:g}."
        )


def count_val(
    counts: Sequence[int],
    val_size: float,
    labels_per_class: int | None,
    val_labels_per_class: int | None,
    class_names: Sequence[str],
) -> list[int]:
    """Count the validation images of each class, carved from the pool."""
    # Not read, and so not judged, where the labels of each class are given.
    total = 0 if val_labels_per_class is not None else count_of("data.val_size", val_size, sum(counts))
    if labels_per_class is None and val_labels_per_class is None:
        if total == 0:
            raise GraftError(
                "Expected `data.val_size` to be at least one image, because validation chooses; got "
                f"{val_size!r} of {sum(counts)} images."
            )
        return allocate(total, counts, "data.val_size")
    if labels_per_class is None:
        per_class = val_labels_per_class or 0
        check_val(counts, per_class, class_names, keep=1)
    else:
        share = total / (sum(counts) - total)
        per_class = count_in_proportion(labels_per_class, share, val_labels_per_class)
        check_shots(counts, labels_per_class, per_class, class_names, None if val_labels_per_class else share)
    return [per_class] * len(counts)


def count_in_proportion(shots: int, share: float, asked: int | None) -> int:
    """Count the validation images of a class beside ``shots`` for training, at least one."""
    return asked if asked is not None else max(1, round(shots * share))


def check_val(counts: Sequence[int], per_class: int, class_names: Sequence[str], keep: int) -> None:
    """Refuse more validation labels than a class has, beside ``keep`` images for training."""
    label = int(np.argmin(counts))
    if per_class > counts[label] - keep:
        raise GraftError(
            f"Expected `data.val_labels_per_class` to be at most {counts[label] - keep}, but got "
            f"{per_class}: class {class_names[label]!r} has {counts[label]} images to choose validation from"
            f"{', and one must train' if keep else ''}."
        )


def check_shots(
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
        return k + (per_class_val if share is None else count_in_proportion(k, share, None)) <= available

    largest = next((k for k in range(min(shots, available), 0, -1) if fits(k)), None)
    limit = f"at most {largest}" if largest else "smaller, and no number works"
    raise GraftError(
        f"Expected `data.labels_per_class` to be {limit}, but got {shots}: class {class_names[label]!r} has "
        f"{available} images in the training pool, and {shots} to train + {per_class_val} to validate are "
        f"{shots + per_class_val}."
    )
