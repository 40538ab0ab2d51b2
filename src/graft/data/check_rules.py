"""Rules on classes, sizes and colours: what a listing and its measurements say about a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from graft.config.schema import DataConfig
from graft.data.check_walk import Item, Listing
from graft.data.findings import SPLIT_WORDS, Finding, find, say_count
from graft.data.image_set import NO_SPLIT, TEST, TRAIN, VAL
from graft.data.measure import Measurements
from graft.data.near_duplicates import SMALLEST_SIDE
from graft.data.preprocessing import Preprocessing

LARGEST_IMBALANCE = 3.0
"""Largest class over smallest; beyond it graft chooses balanced accuracy."""
LARGEST_ASPECT = 3.0
"""Longer side over shorter: beyond it a central square crop sees less than a third."""
LARGEST_ENLARGEMENT = 2.0
"""Network's input over an image's shorter side."""
FEW_IMAGES = 5
"""Images of a class below which a split leaves almost nothing to train, choose or test by."""
LARGEST_MEAN_GAP = 1.0
"""Distance of the channel means from the expected ones, in expected standard deviations."""
STD_RATIO = (1 / 3, 3.0)
"""Channel standard deviation over the expected one: photographs have about 0.25, and 0.5 may be expected."""

Counts = dict[int, Counter[str]]


@dataclass(frozen=True)
class ColourStatistics:
    """Mean and standard deviation of each channel over all images, each image counting the same."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def count_images(items: Sequence[Item], measured: Measurements) -> Counts:
    """Count the images that can be decoded, per split and label."""
    counts: Counts = {}
    for index in measured.sound.tolist():
        counts.setdefault(items[index].split, Counter())[items[index].label] += 1
    return counts


def check_classes(listing: Listing, counts: Counts, config: DataConfig) -> Iterator[Finding]:
    """Look for classes that are missing, alone, empty, hardly named apart, small or large."""
    training = TRAIN if TRAIN in listing.classes else NO_SPLIT
    names = listing.classes.get(training, ())
    own = counts.get(training, Counter())
    if not any(listing.classes.values()):
        yield find("no_classes", "No image has a class.")
        return
    if len(names) == 1:
        yield find("one_class", f"There is one class only: {names[0]!r}.", [_place(training, names[0])])
    for name in names:
        if own[name] == 0:
            where = "" if training == NO_SPLIT else " for training"
            yield find("empty_class", f"Class {name!r} has no sound image{where}.", [_place(training, name)])
    yield from _compare_splits(listing, counts, names)
    yield from _compare_names({name for split in listing.classes.values() for name in split})
    yield from _compare_sizes({name: own[name] for name in names if own[name]}, config)


def _compare_splits(listing: Listing, counts: Counts, names: Sequence[str]) -> Iterator[Finding]:
    for split in (VAL, TEST):
        if split not in listing.classes or TRAIN not in listing.classes:
            continue
        word, here = SPLIT_WORDS[split], counts.get(split, Counter())
        for name in listing.classes[split]:
            if name not in names:
                words = f"Class {name!r} has {say_count(here[name], 'image')} in {word} and none in train."
                yield find("class_only_in_evaluation", words, [_place(split, name)])
        for name in names:
            if not here[name]:
                words = f"Class {name!r} has no image in {word}."
                yield find("class_missing_from_split", words, [_place(split, name)])


def _compare_names(names: set[str]) -> Iterator[Finding]:
    alike: dict[str, list[str]] = {}
    for name in sorted(names):
        alike.setdefault("".join(name.casefold().split()), []).append(name)
    for group in alike.values():
        if len(group) > 1:
            listed = " and ".join(map(repr, group))
            yield find("similar_names", f"{listed} differ by case or spaces only.", group)


def _compare_sizes(sizes: dict[str, int], config: DataConfig) -> Iterator[Finding]:
    """Compare the numbers of training images (with those a split is still carved from) per class."""
    if not sizes:
        return
    k = config.labels_per_class
    for name, size in sizes.items():
        if k is not None and size < k:
            words = f"Class {name!r} has {say_count(size, 'image')}; data.labels_per_class asks for {k:,}."
            yield find("fewer_than_k", words, [name])
        elif size < FEW_IMAGES:
            yield find("few_images", f"Class {name!r} has {say_count(size, 'image')}.", [name])
    most, least = max(sizes, key=sizes.__getitem__), min(sizes, key=sizes.__getitem__)
    if sizes[most] > LARGEST_IMBALANCE * sizes[least]:
        words = (
            f"Class {most!r} has {say_count(sizes[most], 'image')}, {least!r} has {sizes[least]:,}: "
            f"{sizes[most] / sizes[least]:.1f} times as many."
        )
        yield find("imbalance", words, [most, least])


def check_images(items: Sequence[Item], measured: Measurements) -> Iterator[Finding]:
    """Report what cannot be decoded, and very long or high images."""
    for item, fault in zip(items, measured.faults, strict=True):
        if fault:
            yield find("unreadable_image", fault, [item.name], leave_out=[item.name])
    sound = measured.sound
    height, width = (measured.rows[side][sound].astype(np.float64) for side in ("height", "width"))
    aspect = np.maximum(height, width) / np.maximum(np.minimum(height, width), 1)
    odd = sound[aspect > LARGEST_ASPECT].tolist()
    if odd:
        worst = int(sound[int(np.argmax(aspect))])
        words = (
            f"{say_count(len(odd), 'image')} more than {LARGEST_ASPECT:g} times as long as wide; the oddest, "
            f"{items[worst].name}, has {measured.rows['width'][worst]} x {measured.rows['height'][worst]} px."
        )
        yield find("odd_aspect", words, (items[index].name for index in odd), whole_set=True)
    tiny = sound[np.minimum(height, width) < SMALLEST_SIDE].tolist()
    if tiny:
        words = (
            f"{say_count(len(tiny), 'image')} with a side below {SMALLEST_SIDE} px, compared exactly only."
        )
        names = (items[index].name for index in tiny)
        yield find("near_duplicates_unknown", words, names, whole_set=True)


def check_preprocessing(
    items: Sequence[Item],
    measured: Measurements,
    statistics: ColourStatistics | None,
    expected: Preprocessing,
) -> Iterator[Finding]:
    """Compare sizes and colours with what the network's weights expect."""
    sound = measured.sound
    shorter = np.minimum(measured.rows["height"][sound], measured.rows["width"][sound])
    small = sound[shorter * LARGEST_ENLARGEMENT < expected.size].tolist()
    if small:
        words = (
            f"{say_count(len(small), 'image')} of {len(sound):,} with a shorter side below half of the "
            f"network's {expected.size} px; the median is {int(np.median(shorter))} px."
        )
        yield find("small_images", words, (items[index].name for index in small), whole_set=True)
    if statistics is None:
        return
    mean, std = _fit_channels(statistics, len(expected.mean))
    gaps = [abs(m - e) / s for m, e, s in zip(mean, expected.mean, expected.std, strict=True)]
    ratios = [own / s for own, s in zip(std, expected.std, strict=True)]
    if max(gaps) > LARGEST_MEAN_GAP or min(ratios) < STD_RATIO[0] or max(ratios) > STD_RATIO[1]:
        words = (
            f"Channel means are {_numbers(mean)}, expected {_numbers(expected.mean)}; "
            f"standard deviations are {_numbers(std)}, expected {_numbers(expected.std)}."
        )
        yield find("channel_statistics", words)


def measure_colours(measured: Measurements) -> ColourStatistics | None:
    """Return mean and standard deviation over all images: one value when all are gray, else three."""
    rows = measured.rows[measured.sound]
    if len(rows) == 0:
        return None
    gray = rows["channels"] == 1
    first, square = rows["mean"].astype(np.float64), rows["square"].astype(np.float64)
    first[gray], square[gray] = first[gray][:, :1], square[gray][:, :1]
    channels = 1 if gray.all() else 3
    mean, squares = first.mean(axis=0)[:channels], square.mean(axis=0)[:channels]
    std = np.sqrt(np.maximum(squares - mean**2, 0))
    return ColourStatistics(tuple(mean.tolist()), tuple(std.tolist()))


def _fit_channels(own: ColourStatistics, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Repeat gray for three channels, average colours for one."""
    if len(own.mean) == channels:
        return own.mean, own.std
    if channels == 3:
        return own.mean * 3, own.std * 3
    return (sum(own.mean) / 3,), (sum(own.std) / 3,)


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.3f}" for value in values) + ")"


def _place(split: int, name: str) -> str:
    return name if split == NO_SPLIT else f"{SPLIT_WORDS[split]}/{name}"
