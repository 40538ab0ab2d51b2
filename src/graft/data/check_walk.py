"""List a folder as it is, with all its faults: where `graft.data.folder` refuses, this goes on and tells."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from graft.data.decode import IMAGE_SUFFIXES
from graft.data.findings import Finding, find, say_count
from graft.data.folder import SPLIT_NAMES
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
    """

    items: tuple[Item, ...]
    classes: dict[int, tuple[str, ...]]
    findings: tuple[Finding, ...] = ()


@dataclass
class _Walk:
    """What a walk has met so far, as names relative to ``root``."""

    root: Path
    items: list[Item] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    misplaced: list[str] = field(default_factory=list)

    def name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def list_folder(root: Path) -> Listing:
    """List the images under ``root`` and all faults of the folder itself.

    Raises:
        GraftError: The root is missing, or is a file.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise GraftError(f"Expected `data.root` to be a folder of images, but {root} {what}.")
    walk = _Walk(root)
    folders, files = _list_inside(walk, root)
    _note_outside(walk, files)
    splits = _find_splits(walk, folders)
    classes: dict[int, tuple[str, ...]] = {}
    for split, places in splits.items():
        names: list[str] = []
        for place in places:
            inside, loose = (folders, []) if place == root else _list_inside(walk, place)
            _note_outside(walk, loose)
            for folder in inside:
                names.append(folder.name)
                _walk_class(walk, folder, split, folder.name)
        classes[split] = tuple(dict.fromkeys(names))
    for kind, message, paths in (
        ("stray_file", "{} passed over, no image by its ending.", walk.strays),
        ("misplaced_image", "{} passed over, outside every class folder.", walk.misplaced),
    ):
        if paths:
            words = message.format(say_count(len(paths), "file"))
            walk.findings.append(find(kind, words, sorted(paths), whole_set=True))
    return Listing(tuple(walk.items), classes, tuple(walk.findings))


def _find_splits(walk: _Walk, folders: list[Path]) -> dict[int, list[Path]]:
    """Map each split to its folders; complain of what no loader would accept."""
    named = [folder for folder in folders if folder.name.lower() in SPLIT_NAMES and _holds_folder(folder)]
    if not named:
        return {NO_SPLIT: [walk.root]}
    splits: dict[int, list[Path]] = {}
    for folder in named:
        splits.setdefault(SPLIT_NAMES[folder.name.lower()], []).append(folder)
    others = [folder for folder in folders if folder not in named]
    if others:
        words = f"The folder holds both splits ({_say(named)}) and classes ({_say(others)})."
        walk.findings.append(find("layout", words, map(walk.name, others)))
    for places in splits.values():
        if len(places) > 1:
            words = f"The folders {_say(places)} both mean one split."
            walk.findings.append(find("layout", words, map(walk.name, places)))
    if TRAIN not in splits:
        words = f"There is no folder train beside {_say(named)}."
        walk.findings.append(find("layout", words, map(walk.name, named)))
    return dict(sorted(splits.items()))


def _walk_class(walk: _Walk, folder: Path, split: int, label: str) -> None:
    """Collect the images of a class at any depth; links to folders inside are not followed."""
    folders, files = _list_inside(walk, folder, follow=False)
    for path in files:
        if path.suffix.lower() in IMAGE_SUFFIXES:
            walk.items.append(Item(walk.name(path), split, label))
        else:
            walk.strays.append(walk.name(path))
    for inside in folders:
        _walk_class(walk, inside, split, label)


def _list_inside(walk: _Walk, folder: Path, *, follow: bool = True) -> tuple[list[Path], list[Path]]:
    """Return folders and files inside, sorted and without hidden ones, and note what cannot be entered.

    Args:
        walk: Takes the findings.
        folder: Where to look.
        follow: Whether a link to a folder counts as a folder: so does a class, but nothing below it.
    """
    try:
        with os.scandir(folder) as entries:
            found = sorted((Path(entry.path) for entry in entries), key=lambda path: path.name)
    except OSError as error:
        name = walk.name(folder)
        walk.findings.append(find("unreadable_folder", f"{name} cannot be listed: {error.strerror}.", [name]))
        return [], []
    folders, files = [], []
    for path in found:
        if path.name.startswith(".") or (path.name.startswith("__") and path.is_dir()):
            continue
        if path.is_symlink() and not _enter_link(walk, path, follow):
            continue
        (folders if path.is_dir() else files).append(path)
    return folders, files


def _enter_link(walk: _Walk, path: Path, follow: bool) -> bool:
    """Whether a link leads to something to read; what does not is noted."""
    name = walk.name(path)
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


def _note_outside(walk: _Walk, files: Iterable[Path]) -> None:
    for path in files:
        place = walk.misplaced if path.suffix.lower() in IMAGE_SUFFIXES else walk.strays
        place.append(walk.name(path))


def _holds_folder(folder: Path) -> bool:
    try:
        return any(path.is_dir() and not path.name.startswith((".", "__")) for path in folder.iterdir())
    except OSError:
        return True  # a split that cannot be listed is still meant as one


def _say(folders: list[Path]) -> str:
    names = [folder.name for folder in folders]
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
