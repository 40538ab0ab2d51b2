"""Images that are there more than once: exactly, by their decoded pixels, or nearly, by their sketches."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from graft.data.cache import write_whole
from graft.data.check_walk import Item
from graft.data.findings import SPLIT_WORDS, Finding, find
from graft.data.image_set import NO_SPLIT, ImageSet, Int64Array, Progress
from graft.data.measure import Measurements, measure_files, measure_images
from graft.data.near_duplicates import NEAR_VERSION, SMALLEST_SIDE, find_near_duplicates, join_groups


def group_copies(measured: Measurements) -> Int64Array:
    """Return the group of each image, ``(N,)``: the smallest index among those with the same pixels."""
    groups = np.arange(len(measured.rows), dtype=np.int64)
    sound = measured.sound
    if len(sound):
        _, first, inverse = np.unique(
            measured.rows["content"][sound], axis=0, return_index=True, return_inverse=True
        )
        groups[sound] = sound[first[inverse.ravel()]]
    return groups


def pair_likenesses(
    measured: Measurements, copies: Int64Array, cache_root: Path, progress: Progress | None = None
) -> Int64Array:
    """Return pairs of images that show the same picture, ``(P, 2)``, one of each group of copies.

    Args:
        measured: Sketches of all images.
        copies: From `group_copies`.
        cache_root: Folder of the cache.
        progress: Called with (done, total) images while they are compared.
    """
    rows = measured.rows
    sound = measured.sound
    large = np.minimum(rows["height"][sound], rows["width"][sound]) >= SMALLEST_SIDE
    compared = sound[large & (copies[sound] == sound)]
    sketches = np.ascontiguousarray(rows["sketch"][compared])
    key = hashlib.sha256(f"{NEAR_VERSION} {sketches.shape}".encode())
    key.update(sketches.data)
    path = cache_root / "check" / f"pairs-{key.hexdigest()[:32]}.npy"
    pairs = _read_pairs(path)
    if pairs is None:
        pairs = find_near_duplicates(sketches, progress)
        content = io.BytesIO()
        np.save(content, pairs)
        write_whole(path, lambda file: file.write(content.getvalue()))
    return np.asarray(compared[pairs], dtype=np.int64)


def near_duplicate_groups(
    images: ImageSet, cache_root: Path, progress: Progress | None = None, *, root: Path | None = None
) -> Int64Array:
    """Return the group of each image, ``(N,)``, so that a split can keep copies and near copies together.

    Args:
        images: The set, all of its images sound.
        cache_root: Folder of the cache.
        progress: Called with (done, total) images while they are measured and compared.
        root: Where ``images.item_ids`` are paths of files, the folder that holds them: they are then measured
            side by side, and what `graft check` has measured is not measured again.
    """
    if root is not None:
        measured = measure_files(root, images.item_ids, cache_root, progress)
    else:
        measured = measure_images(images.read, len(images), images.digest, cache_root, progress)
    copies = group_copies(measured)
    pairs = pair_likenesses(measured, copies, cache_root, progress)
    return join_likenesses(copies, pairs)


def check_copies(items: Sequence[Item], copies: Int64Array) -> Iterator[Finding]:
    """Report images with the same pixels: across labels, across splits, or within a class."""
    for members in _list_groups(copies):
        ours = [items[index] for index in members]
        names = [item.name for item in ours]
        labels = sorted({item.label for item in ours})
        splits = _say_splits(ours)
        if len(labels) > 1:
            pair = _choose_unlike(ours, "label")
            words = f"The same pixels are labelled {' and '.join(map(repr, labels))}: {_say_pair(pair)}."
            yield find("contradictory_labels", words, names, leave_out=names)
        if len(splits) > 1:
            pair = _choose_unlike(ours, "split")
            words = f"The same pixels are in {' and '.join(splits)}: {_say_pair(pair)}."
            yield find("leak", words, names, leave_out=_leave_evaluation(ours))
        elif len(labels) == 1:
            said = _say_pair((ours[0], ours[1]))
            words = f"{len(ours)} images of class {labels[0]!r} have the same pixels: {said}{_more(ours)}."
            yield find("duplicates", words, names)


def check_likenesses(items: Sequence[Item], groups: Int64Array, pairs: Int64Array) -> Iterator[Finding]:
    """Report images that show nearly the same picture, one finding per group of them.

    Args:
        items: All images.
        groups: From `join_likenesses`.
        pairs: From `pair_likenesses`.
    """
    linked: dict[int, list[tuple[int, int]]] = {}
    for first, second in pairs.tolist():
        linked.setdefault(int(groups[first]), []).append((first, second))
    members = {group[0]: group for group in _list_groups(groups)}
    for group, links in linked.items():
        ours = [items[index] for index in members[group]]
        splits, labels = _say_splits(ours), sorted({item.label for item in ours})
        if len(splits) > 1:
            pair = _choose_pair(items, links, "split")
            words = f"Nearly the same picture is in {' and '.join(splits)}: {_say_pair(pair)}."
            yield find("near_leak", words, _put_first(pair, ours), leave_out=_leave_evaluation(ours))
        if len(labels) > 1:
            pair = _choose_pair(items, links, "label")
            said = " and ".join(map(repr, labels))
            words = f"Nearly the same picture is labelled {said}: {_say_pair(pair)}."
            yield find("near_contradiction", words, _put_first(pair, ours))
        elif len(splits) == 1:
            pair = (items[links[0][0]], items[links[0][1]])
            said = f"{len(ours)} images of class {labels[0]!r}"
            words = f"{said} show nearly the same: {_say_pair(pair)}{_more(ours)}."
            yield find("near_duplicates", words, _put_first(pair, ours))


def _choose_pair(
    items: Sequence[Item], links: Sequence[tuple[int, int]], differing: str
) -> tuple[Item, Item]:
    """Return the first linked pair that differs in ``split`` or ``label``, else the very first."""
    pairs = [(items[first], items[second]) for first, second in links]
    unlike = (pair for pair in pairs if getattr(pair[0], differing) != getattr(pair[1], differing))
    return next(unlike, pairs[0])


def _choose_unlike(items: Sequence[Item], differing: str) -> tuple[Item, Item]:
    """Return the first item, and the first that differs from it in ``split`` or ``label``."""
    own = getattr(items[0], differing)
    return items[0], next(item for item in items if getattr(item, differing) != own)


def _more(items: Sequence[Item]) -> str:
    """Say that a pair is not all."""
    return ", ..." if len(items) > 2 else ""


def _put_first(pair: tuple[Item, Item], ours: Sequence[Item]) -> list[str]:
    """Name the pair that is spoken of, then the others of its group."""
    return list(dict.fromkeys(item.name for item in (*pair, *ours)))


def join_likenesses(copies: Int64Array, pairs: Int64Array) -> Int64Array:
    """Return the group of each image, ``(N,)``: groups of copies, joined by pairs of likenesses."""
    same = np.stack([np.arange(len(copies)), copies], axis=1)
    return join_groups(np.concatenate([same, pairs]), len(copies))


def _list_groups(groups: Int64Array) -> list[list[int]]:
    """Return the members of each group of two and more, in order of the first."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    return [part.tolist() for part in np.split(order, starts[1:]) if len(part) > 1]


def _say_splits(items: Sequence[Item]) -> list[str]:
    """Name the splits that the items are in; images of no split are one kind."""
    return [SPLIT_WORDS[split] for split in sorted({item.split for item in items})]


def _leave_evaluation(items: Sequence[Item]) -> list[str]:
    """Name the copies outside the last split: test is kept before val, and val before train."""
    last = max(item.split for item in items)
    return [item.name for item in items if item.split != last]


def _say_pair(pair: tuple[Item, Item]) -> str:
    return " and ".join(_say_item(item) for item in pair)


def _say_item(item: Item) -> str:
    """Name an image, and its split where the path does not."""
    word = SPLIT_WORDS[item.split]
    told = item.split == NO_SPLIT or item.name.startswith(f"{word}/")
    return item.name if told else f"{item.name} ({word})"


def _read_pairs(path: Path) -> Int64Array | None:
    try:
        pairs: Int64Array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return pairs if pairs.ndim == 2 and pairs.shape[1] == 2 else None
