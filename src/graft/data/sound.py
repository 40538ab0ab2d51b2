"""Open only what is sound: images that cause errors stop the work, or are left out by name.

Nothing is put in their place. The digest of a set changes with what is left out, and so does the run key: a
folder or table without its bad images has the digest of the same after they were deleted.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import replace
from pathlib import Path

import numpy as np

from graft.config.schema import DataConfig
from graft.data.cache import write_whole
from graft.data.catalog import open_images
from graft.data.check import CheckReport, Expect, Listen, check_source, choose_left_out, find_root
from graft.data.check_duplicates import near_duplicate_groups
from graft.data.decode import FileReader
from graft.data.facts import FACTS
from graft.data.findings import KINDS, WARNING, say_count
from graft.data.folder import identify_files
from graft.data.image_set import NO_SPLIT, TRAIN, ImageSet, Int64Array
from graft.data.table import open_table


def open_sound_images(
    config: DataConfig, cache_root: Path, expect: Expect, reports: Path, progress: Listen | None = None
) -> tuple[ImageSet, CheckReport, tuple[str, ...]]:
    """Check a source and open it without the images that `data.on_error` allows to leave out.

    Args:
        config: The `data` group.
        cache_root: Folder of the cache.
        expect: What the network expects of images with 1 or 3 channels.
        reports: Folder of reports; a quarantine list is written to ``check-<name>/quarantine.txt`` in it.
        progress: Shows how far decoding and comparing are.

    Returns:
        The set, what was found, and the names of the images, or rows of a table, that are left out, sorted.

    Raises:
        GraftError: An error stops, or leaving images out does not help.
    """
    report = check_source(config, cache_root, expect, progress)
    left_out = choose_left_out(report.findings, config.on_error)
    names = tuple(sorted(left_out))
    if names and config.on_error == "quarantine-list":
        text = "".join(f"{name}\n" for name in names).encode("utf-8", "surrogateescape")
        write_whole(reports / f"check-{report.name}" / "quarantine.txt", lambda file: file.write(text))
    root = find_root(config) if config.name in _OPENERS else None
    if names and root is not None:
        images = _OPENERS[config.name](config, root, report, left_out, cache_root)
    else:
        images = open_images(config, cache_root)
    images = _keep_copies_together(images, root, cache_root)
    return replace(images, likenesses=_find_likenesses(images, report)), report, names


def _find_likenesses(images: ImageSet, report: CheckReport) -> Int64Array:
    """Return the group of each image that is left, as the check found it."""
    group = {item.name: one for item, one in zip(report.items, report.likenesses.tolist(), strict=True)}
    return np.array([group[name] for name in images.item_ids], dtype=np.int64)


def _keep_copies_together(images: ImageSet, root: Path | None, cache_root: Path) -> ImageSet:
    """Make one group of what shows nearly the same picture, so that no split divides it.

    Official splits stay as they are, and groups that a user gave come first.
    """
    if images.official is not None or images.groups is not None:
        return images
    groups = near_duplicate_groups(images, cache_root, root=root)
    if len(np.unique(groups)) == len(groups):
        return images
    digest = hashlib.sha256(images.digest.encode() + groups.astype("<i8").tobytes()).hexdigest()
    return replace(images, groups=groups.astype(str), digest=digest)


_NAMED = 5
"""Images that a run names among those left out."""


def describe_findings(report: CheckReport, left_out: Sequence[str]) -> tuple[str, ...]:
    """Return what a run should say of a checked set, one line a kind of warning."""
    kinds = Counter(finding.kind for finding in report.findings if finding.severity == WARNING)
    lines = [f"{KINDS[kind].title}: {count} found by the check" for kind, count in kinds.items()]
    if left_out:
        named = ", ".join(left_out[:_NAMED]) + (", ..." if len(left_out) > _NAMED else "")
        counted = say_count(len(left_out), "image")
        lines.append(f"left out because of errors, as `data.on_error` allows: {counted}: {named}")
    return tuple(lines)


def _open_rest_of_table(
    config: DataConfig, root: Path, report: CheckReport, names: Set[str], cache_root: Path
) -> ImageSet:
    return open_table(Path(config.table or "").expanduser(), root, cache_root, without=names)


def _open_rest_of_folder(
    config: DataConfig, root: Path, report: CheckReport, names: Set[str], cache_root: Path
) -> ImageSet:
    """Open the images of a checked folder but those called ``names``, as `graft.data.folder` would."""
    training = TRAIN if TRAIN in report.classes else NO_SPLIT
    class_names = report.classes[training]
    position = {name: label for label, name in enumerate(class_names)}
    items = [item for item in report.items if item.name not in names]
    items.sort(key=lambda item: (item.split, position[item.label], item.name))
    files = tuple(root / item.name for item in items)
    identities = identify_files(root, list(files), cache_root, None)
    digest = hashlib.sha256(json.dumps(class_names).encode())
    for item, identity in zip(items, identities, strict=True):
        words = [item.name, position[item.label], identity["size"], identity["sha256"]]
        digest.update(json.dumps(words).encode())
    splits = np.array([item.split for item in items], dtype=np.int8)
    return ImageSet(
        name="folder",
        class_names=class_names,
        labels=np.array([position[item.label] for item in items], dtype=np.int64),
        official=None if training == NO_SPLIT else splits,
        item_ids=tuple(item.name for item in items),
        digest=digest.hexdigest(),
        channels=1 if all(identity["gray"] for identity in identities) else 3,
        facts=FACTS["folder"],
        read=FileReader(files),
    )


#: How the sources are opened whose images can be left out: those of files.
_OPENERS = {"folder": _open_rest_of_folder, "table": _open_rest_of_table}
