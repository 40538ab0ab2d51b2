"""List a folder as it is, with all its faults: where `graft.data.folder` refuses, this goes on and tells."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from graft.data.decode import IMAGE_SUFFIXES
from graft.data.findings import Finding, find, say_count
from graft.data.folder import SPLIT_NAMES, is_special
from graft.data.image_set import NO_SPLIT, TRAIN
from graft.errors import GraftError


@dataclass(frozen=True)
class Item:
    """An image: its name (a path relative to the root), its split and its label."""

    name: str
    split: int
    label: str


@dataclass(frozen=True)
class Listing:
    """What a source holds.

    Attributes:
        items: All images, readable or not.
        classes: Class names of each split, those without an image included.
        findings: What was wrong while listing.
        digest: Of an opened set, empty for files that nobody has opened.
    """

    items: tuple[Item, ...]
    classes: dict[int, tuple[str, ...]]
    findings: tuple[Finding, ...] = ()
    digest: str = ""


@dataclass
class _Walk:
    """What a walk has met so far, as names relative to ``root``; the root's own name is empty."""

    root: Path
    items: list[Item] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    misplaced: list[str] = field(default_factory=list)


def list_folder(root: Path) -> Listing:
    """List the images under ``root`` and all faults of the folder itself.

    Raises:
        GraftError: The root is missing, or is a file.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise GraftError(
            f"Expected `data.root` to be a folder of images, but {root} {what}. Give the folder that holds a "
            "folder per class; for a list of images say data=table data.table=/path/to/table.csv."
        )
    walk = _Walk(root)
    folders, files = _list_inside(walk, "")
    _note_outside(walk, files)
    splits = _find_splits(walk, folders)
    classes: dict[int, tuple[str, ...]] = {}
    for split, places in splits.items():
        labels: list[str] = []
        for place in places:
            inside, loose = _list_inside(walk, place) if place else (folders, [])
            _note_outside(walk, loose)
            for folder in inside:
                labels.append(_leaf(folder))
                _walk_class(walk, folder, split, labels[-1])
        classes[split] = tuple(dict.fromkeys(labels))
    for kind, message, paths in (
        ("stray_file", "{} passed over, no image: {}.", walk.strays),
        ("misplaced_image", "{} passed over, outside every class folder: {}.", walk.misplaced),
    ):
        if paths:
            words = message.format(say_count(len(paths), "file"), _say(sorted(paths)))
            walk.findings.append(find(kind, words, sorted(paths), whole_set=True))
    return Listing(tuple(walk.items), classes, tuple(walk.findings))


def _find_splits(walk: _Walk, folders: list[str]) -> dict[int, list[str]]:
    """Map each split to its folders; complain of what no loader would accept."""
    named = [name for name in folders if name.lower() in SPLIT_NAMES and _holds_folder(walk.root / name)]
    if not named:
        return {NO_SPLIT: [""]}
    splits: dict[int, list[str]] = {}
    for name in named:
        splits.setdefault(SPLIT_NAMES[name.lower()], []).append(name)
    others = [name for name in folders if name not in named]
    if others:
        words = f"The folder holds both splits ({_say(named)}) and classes ({_say(others)})."
        walk.findings.append(find("layout", words, others))
    for places in splits.values():
        if len(places) > 1:
            walk.findings.append(find("layout", f"The folders {_say(places)} both mean one split.", places))
    if TRAIN not in splits:
        walk.findings.append(find("layout", f"There is no folder train beside {_say(named)}.", named))
    return dict(sorted(splits.items()))


def _walk_class(walk: _Walk, folder: str, split: int, label: str) -> None:
    """Collect the images of a class at any depth; links to folders inside are not followed."""
    folders, files = _list_inside(walk, folder, follow=False)
    for name in files:
        if _is_image(name) and not is_special(walk.root / name):
            walk.items.append(Item(name, split, label))
        else:
            walk.strays.append(name)
    for inside in folders:
        _walk_class(walk, inside, split, label)


def _list_inside(walk: _Walk, folder: str, *, follow: bool = True) -> tuple[list[str], list[str]]:
    """Return folders and files inside, sorted and without hidden ones, and note what cannot be entered.

    Args:
        walk: Takes the findings.
        folder: Where to look.
        follow: Whether a link to a folder counts as a folder: so does a class, but nothing below it.
    """
    try:
        with os.scandir(walk.root / folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        words = f"{folder or 'The root'} cannot be listed: {error.strerror}."
        walk.findings.append(find("unreadable_folder", words, [folder]))
        return [], []
    folders, files = [], []
    for entry in found:
        if entry.name.startswith("."):
            continue
        name = f"{folder}/{entry.name}" if folder else entry.name
        if entry.is_symlink() and not _enter_link(walk, name, follow):
            continue
        if not entry.is_dir():
            files.append(name)
        elif not (follow and entry.name.startswith("__")):  # an archive's ``__MACOSX``; in a class it counts
            folders.append(name)
    return folders, files


def _enter_link(walk: _Walk, name: str, follow: bool) -> bool:
    """Whether a link leads to something to read; what does not is noted."""
    path = walk.root / name
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            walk.findings.append(find("symlink_loop", f"{name} is a link to itself.", [name]))
            return False
        return True  # a link to nowhere: a file that cannot be decoded, if it is called like an image
    if not path.is_dir():
        return True
    target = path.resolve()
    if path.parent.resolve().is_relative_to(target):
        walk.findings.append(find("symlink_loop", f"{name} is a link to a folder around it.", [name]))
        return False
    if not follow:
        words = f"{name} is a link to {target.name}; images behind it are passed over."
        walk.findings.append(find("linked_folder", words, [name]))
    return follow


def _note_outside(walk: _Walk, files: Iterable[str]) -> None:
    for name in files:
        (walk.misplaced if _is_image(name) else walk.strays).append(name)


def _is_image(name: str) -> bool:
    """Whether a file is called like an image; a dot alone makes no ending."""
    stem, dot, ending = _leaf(name).rpartition(".")
    return bool(stem) and f"{dot}{ending}".lower() in IMAGE_SUFFIXES


def _leaf(name: str) -> str:
    return name.rpartition("/")[2]


def _holds_folder(folder: Path) -> bool:
    try:
        return any(path.is_dir() and not path.name.startswith((".", "__")) for path in folder.iterdir())
    except OSError:
        return True  # a split that cannot be listed is still meant as one


def _say(names: list[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
