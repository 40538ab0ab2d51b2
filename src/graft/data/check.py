"""The pre-flight: read every image of a source, and say what is wrong before an hour is wasted on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from graft.config.schema import DataConfig
from graft.data.catalog import open_images
from graft.data.check_duplicates import (
    check_copies,
    check_likenesses,
    group_copies,
    join_likenesses,
    pair_likenesses,
)
from graft.data.check_rules import (
    ColourStatistics,
    Counts,
    check_classes,
    check_images,
    check_preprocessing,
    count_images,
    measure_colours,
)
from graft.data.check_walk import Item, Listing, list_folder
from graft.data.copies import keep_likenesses
from graft.data.decode import decode_image
from graft.data.findings import ERROR, SEVERITIES, Finding, list_findings, sort_findings
from graft.data.image_set import NO_SPLIT, ImageSet, Int64Array, Progress, UInt8Array
from graft.data.measure import Measurements, measure_files, measure_images
from graft.data.preprocessing import Preprocessing
from graft.data.table_rows import Sheet, read_sheet
from graft.errors import GraftError

Expect = Callable[[int], Preprocessing]
"""Returns what the network expects of images with so many channels."""


Listen = Callable[[str], Progress]
"""Makes what takes the news of a piece of work, named in words."""

_Measured = tuple[str, Listing, Measurements, Callable[[int], UInt8Array]]
"""Name of a source, its images, what is known of them, and what decodes one."""


@dataclass(frozen=True, eq=False)
class CheckReport:
    """What a check found.

    Attributes:
        name: The data set's, or the folder's own.
        findings: Errors first.
        items: All images that were listed.
        classes: Class names of each split.
        counts: Images that can be decoded, per split and label.
        colours: Statistics of the channels, ``None`` without a sound image.
        expected: What the network expects.
        read: Decodes the image with index ``index`` of ``items``.
        seconds: How long reading and comparing took.
        likenesses: Group of each item, ``(N,)``, those that show nearly the same picture.
    """

    name: str
    findings: tuple[Finding, ...]
    items: tuple[Item, ...]
    classes: dict[int, tuple[str, ...]]
    counts: Counts
    colours: ColourStatistics | None
    expected: Preprocessing
    read: Callable[[int], UInt8Array]
    seconds: float
    likenesses: Int64Array

    @property
    def has_errors(self) -> bool:
        """Whether training on these images would be a mistake."""
        return any(finding.severity == ERROR for finding in self.findings)

    def count(self, severity: str) -> int:
        """Return the number of findings of a severity."""
        assert severity in SEVERITIES
        return sum(finding.severity == severity for finding in self.findings)


def check_source(
    config: DataConfig,
    cache_root: Path,
    expect: Expect,
    progress: Listen | None = None,
) -> CheckReport:
    """Check the source that ``config`` names.

    Args:
        config: The `data` group.
        cache_root: Folder of the cache; what was decoded once is not decoded again.
        expect: What the network expects of images with 1 or 3 channels.
        progress: Shows how far decoding and comparing are.

    Raises:
        GraftError: There is no such source, folder or file at all.
    """
    started = time.perf_counter()
    listen = progress or (lambda words: _ignore)
    name, listing, measured, read = _SOURCES.get(config.name, _measure_set)(config, cache_root, listen)
    copies = group_copies(measured)
    pairs = pair_likenesses(measured, copies, cache_root, listen("comparing images"))
    likenesses = join_likenesses(copies, pairs)
    if listing.digest:  # runs on such a set do not check it: they know what is kept here
        keep_likenesses(listing.digest, likenesses, cache_root)
    counts, colours = count_images(listing.items, measured), measure_colours(measured)
    seconds = time.perf_counter() - started
    expected = expect(_count_channels(measured))
    findings = [
        *listing.findings,
        *check_classes(listing, counts, config),
        *check_images(listing.items, measured),
        *check_copies(listing.items, copies),
        *check_likenesses(listing.items, likenesses, pairs),
        *check_preprocessing(listing.items, measured, colours, expected),
    ]
    return CheckReport(
        name=name,
        findings=sort_findings(findings),
        items=listing.items,
        classes=listing.classes,
        counts=counts,
        colours=colours,
        expected=expected,
        read=read,
        seconds=seconds,
        likenesses=likenesses,
    )


def _measure_folder(config: DataConfig, cache_root: Path, listen: Listen) -> _Measured:
    root = find_root(config)
    listing = list_folder(root)
    return _measure_listing(root.name, root, listing, cache_root, listen)


def _measure_table(config: DataConfig, cache_root: Path, listen: Listen) -> _Measured:
    root, table = find_root(config), Path(config.table or "").expanduser()
    listing = list_sheet(read_sheet(table, root))
    return _measure_listing(table.stem, root, listing, cache_root, listen)


def _measure_listing(name: str, root: Path, listing: Listing, cache_root: Path, listen: Listen) -> _Measured:
    names = [item.name for item in listing.items]
    measured = measure_files(root, names, cache_root, listen("decoding images"))
    return name, listing, measured, partial(_read_file, root, names)


def _measure_set(config: DataConfig, cache_root: Path, listen: Listen) -> _Measured:
    images = open_images(config, cache_root, listen("reading images"))
    measured = measure_images(images.read, len(images), images.digest, cache_root, listen("decoding images"))
    return config.name, list_images(images), measured, images.read


#: Sources whose files are read here, one by one, because what opens them stops at the first fault.
_SOURCES = {"folder": _measure_folder, "table": _measure_table}


def list_images(images: ImageSet) -> Listing:
    """List an opened set as `list_folder` lists a folder; images that are in no split are left out of it."""
    splits = [NO_SPLIT] * len(images) if images.official is None else images.official.tolist()
    items = tuple(
        Item(name, split, images.class_names[label])
        for name, split, label in zip(images.item_ids, splits, images.labels.tolist(), strict=True)
    )
    classes = dict.fromkeys(sorted(set(splits)), images.class_names)
    return Listing(items, classes, digest=images.digest)


def list_sheet(sheet: Sheet) -> Listing:
    """List the rows of a table as `list_folder` lists a folder; rows that cannot be used are findings."""
    items = tuple(
        Item(row.item_id, NO_SPLIT if row.split is None else row.split, row.label) for row in sheet.rows
    )
    return Listing(items, sheet.classes, sheet.findings)


def choose_left_out(findings: Sequence[Finding], on_error: str) -> frozenset[str]:
    """Return the images that must be left out so that no error remains.

    Args:
        findings: Of a report.
        on_error: The knob `data.on_error`: ``stop`` refuses any error; ``skip`` and ``quarantine-list`` leave
            images out, where that helps.

    Raises:
        GraftError: There is an error, and it stops, or leaving images out does not help.
    """
    errors = [finding for finding in findings if finding.severity == ERROR]
    stopping = [finding for finding in errors if on_error == "stop" or not finding.leave_out]
    if stopping:
        way_out = (
            "They can be left out: data.on_error=skip, or quarantine-list, which writes their list too."
            if all(finding.leave_out for finding in errors)
            else "Leaving images out does not help here."
        )
        raise GraftError(
            f"Expected images without errors, but found {list_findings(stopping)}\n"
            f"`graft check` shows them. {way_out}"
        )
    return frozenset(name for finding in errors for name in finding.leave_out)


def find_root(config: DataConfig) -> Path:
    """Return the folder of a source of files; a table's paths start where it lies unless told otherwise."""
    if config.root is None and config.table is None:
        raise GraftError("Expected `data.root` to be the folder that holds your images, but got nothing.")
    place = Path(config.root) if config.root is not None else Path(config.table or "").parent
    return place.expanduser().resolve()


def _read_file(root: Path, names: Sequence[str], index: int) -> UInt8Array:
    return decode_image(root / names[index])


def _count_channels(measured: Measurements) -> int:
    """Return 1 when every sound image is gray, else 3."""
    sound = measured.sound
    return 1 if len(sound) and (measured.rows["channels"][sound] == 1).all() else 3


def _ignore(done: int, total: int) -> None:
    """Take news that nobody watches."""
