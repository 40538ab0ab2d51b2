"""The user's own folder: a folder per class, either inside train/ val/ test/ or at one level.

Class names come from the training split, sorted, and are the same for every split. Files whose ending is not
an image's are passed over, and so is what is hidden.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graft.data.cache import write_whole
from graft.data.decode import IMAGE_SUFFIXES, FileReader, read_content
from graft.data.image_set import NO_SPLIT, TEST, TRAIN, VAL, Int8Array, Int64Array, Progress
from graft.errors import GraftError, expected_one_of

_SUFFIXES = tuple(IMAGE_SUFFIXES)
SPLIT_NAMES = {"train": TRAIN, "val": VAL, "validation": VAL, "valid": VAL, "test": TEST}


@dataclass(frozen=True, eq=False)
class FolderScan:
    """What a folder holds, in the order of split, class and path; ``ignored`` counts the other files."""

    class_names: tuple[str, ...]
    labels: Int64Array
    official: Int8Array | None
    item_ids: tuple[str, ...]
    digest: str
    channels: int
    ignored: int
    read: FileReader


def count_ignored(root: Path, used: int) -> int:
    """Count the files under ``root`` that are not hidden and not among the ``used`` images."""
    visible = 0
    for _, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        visible += sum(not name.startswith(".") for name in names)
    return max(0, visible - used)  # a class that is a link was used, and is not walked here


def scan_folder(root: Path, cache_root: Path, progress: Progress | None = None) -> FolderScan:
    """List and hash the images under ``root``; a file seen before is known by its size and time of change.

    Raises:
        GraftError: The folder is missing, empty, or not laid out as a folder per class; or a file is no
            image.
    """
    split_folders = _find_splits(root)
    class_names = _find_class_names(split_folders)
    files: list[Path] = []
    labels: list[int] = []
    official: list[int] = []
    for split, folder in sorted(split_folders.items()):
        for label, name in enumerate(class_names):
            found = list_images(folder / name)
            files += found
            labels += [label] * len(found)
            official += [split] * len(found)
    identities = identify_files(root, files, cache_root, progress)
    item_ids = _name_below(root, files)
    digest = hashlib.sha256(json.dumps(class_names).encode())
    for item_id, label, identity in zip(item_ids, labels, identities, strict=True):
        digest.update(json.dumps([item_id, label, identity["size"], identity["sha256"]]).encode())
    return FolderScan(
        class_names=class_names,
        labels=np.array(labels, dtype=np.int64),
        official=None if NO_SPLIT in split_folders else np.array(official, dtype=np.int8),
        item_ids=tuple(item_ids),
        digest=digest.hexdigest(),
        channels=1 if all(identity["gray"] for identity in identities) else 3,
        ignored=count_ignored(root, len(files)),
        read=FileReader(tuple(files)),
    )


def _find_splits(root: Path) -> dict[int, Path]:
    """Map each split to its folder; a folder of one level is all `NO_SPLIT`."""
    if not root.exists():
        raise GraftError(f"Expected `data.root` to be a folder of images, but {root} does not exist.")
    if not root.is_dir():
        raise GraftError(f"Expected `data.root` to be a folder of images, but {root} is a file.")
    folders = _list_folders(root)
    if not folders:
        raise GraftError(
            "Expected `data.root` to hold a folder per class, or train/ val/ test/ with a folder per class "
            f"in each, but {root} holds no folder."
        )
    # A class may be called "train": what makes a split is the classes inside it.
    named = [folder for folder in folders if folder.name.lower() in SPLIT_NAMES and _list_folders(folder)]
    if not named:
        return {NO_SPLIT: root}
    others = [folder.name for folder in folders if folder not in named]
    if others:
        raise GraftError(
            f"Expected {root} to hold either splits or classes, but it holds both: the splits "
            f"{', '.join(folder.name for folder in named)}, and {', '.join(others[:6])}. Move one kind away."
        )
    splits: dict[int, Path] = {}
    for folder in named:
        split = SPLIT_NAMES[folder.name.lower()]
        if split in splits:
            raise GraftError(
                f"Expected one folder per split in {root}, but got both {splits[split].name} and "
                f"{folder.name}."
            )
        splits[split] = folder
    if TRAIN not in splits:
        raise GraftError(
            f"Expected {root} to hold a folder train, but got only "
            f"{', '.join(folder.name for folder in named)}."
        )
    return splits


def _find_class_names(split_folders: dict[int, Path]) -> tuple[str, ...]:
    """Read the class names from training, and refuse what does not fit them."""
    training = split_folders.get(TRAIN, split_folders.get(NO_SPLIT))
    assert training is not None  # _find_splits returns one of the two
    names = tuple(folder.name for folder in _list_folders(training))
    if len(names) < 2:
        raise GraftError(f"Expected at least 2 classes, but {training} holds one: {names[0]!r}.")
    for name in names:
        if not _holds_image(training / name):
            raise GraftError(
                f"Expected an image in every class, but {training / name} holds none. Known endings: "
                f"{', '.join(sorted(IMAGE_SUFFIXES))}. Add images, or remove the folder."
            )
    for split, folder in split_folders.items():
        extra = [found.name for found in _list_folders(folder) if found.name not in names]
        if split in (VAL, TEST) and extra:
            hint = expected_one_of(f"a class in {folder}", extra[0], names)
            raise GraftError(f"{hint} The classes are those of {training}; this one has no training image.")
        if not any(_holds_image(folder / name) for name in names):
            raise GraftError(f"Expected images in {folder}, but its class folders hold none.")
    return names


def _list_folders(folder: Path) -> list[Path]:
    """List the folders inside, sorted, without hidden ones and the ``__MACOSX`` that archives leave.

    Raises:
        GraftError: The folder cannot be read, or a link in it leads back to what holds it.
    """
    try:
        inside = [
            path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))
        ]
    except OSError as error:
        raise GraftError(
            f"Expected to read the folder {folder}, but got: {error.strerror or error}."
        ) from error
    for path in inside:
        if path.is_symlink() and folder.resolve().is_relative_to(path.resolve()):
            raise GraftError(
                f"Expected a folder of images, but {path} is a link that leads back to "
                f"{path.resolve()}, which holds it. Remove the link."
            )
    return sorted(inside, key=lambda path: path.name)


def list_images(folder: Path) -> list[Path]:
    """List the images inside at any depth, sorted by path."""
    return sorted(_find_images(folder), key=lambda path: path.as_posix())


def _holds_image(folder: Path) -> bool:
    return next(_find_images(folder), None) is not None


def _find_images(folder: Path) -> Iterator[Path]:
    """Yield the images inside at any depth; links to folders are not followed."""

    def refuse(error: OSError) -> None:
        raise GraftError(f"Expected to read the folder {error.filename}, but got: {error.strerror}.")

    if folder.is_dir():
        for base, folders, names in os.walk(folder, onerror=refuse):
            folders[:] = [name for name in folders if not name.startswith(".")]
            inside = Path(base)
            for name in names:
                called_so = not name.startswith(".") and name.lower().endswith(_SUFFIXES)
                if called_so and not is_special(inside / name):
                    yield inside / name


def is_special(path: Path) -> bool:
    """Whether a path is a pipe, a socket or a device: reading it could wait for ever."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False  # whoever reads it says why it cannot be read
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _name_below(root: Path, files: Sequence[Path]) -> list[str]:
    """Return the paths relative to the root; `Path.relative_to` is slow, and there are many."""
    above = f"{root.as_posix().rstrip('/')}/"
    return [file.as_posix().removeprefix(above) for file in files]


def identify_files(
    root: Path, files: list[Path], cache_root: Path, progress: Progress | None
) -> list[dict[str, Any]]:
    """Return size, sha256 and grayness of each file, hashing only what changed since the last time.

    Args:
        root: Folder that holds the files; one list of identities is kept for each root.
        files: The files, each once.
        cache_root: Folder of the cache.
        progress: Called now and then with (done, total).

    Raises:
        GraftError: A file is missing, or no image.
    """
    place = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:32]
    path = cache_root / "folders" / f"{place}.json"
    known = _read_known(path)
    identities: dict[str, dict[str, Any]] = {}
    hashed = 0
    for done, (name, file) in enumerate(zip(_name_below(root, files), files, strict=True), start=1):
        state = _stat(file)
        identity = known.get(name)
        # The time of the inode, too: a copy may bring the old time of change along.
        times = {"size": state.st_size, "mtime_ns": state.st_mtime_ns, "ctime_ns": state.st_ctime_ns}
        if identity is None or any(identity[key] != value for key, value in times.items()):
            content, gray = read_content(file)
            sha256 = hashlib.sha256(content).hexdigest()
            identity = {**times, "sha256": sha256, "gray": gray}
            hashed += 1
        identities[name] = identity
        if progress is not None and (done == len(files) or done % 100 == 0):
            progress(done, len(files))
    if hashed:  # what else is known of the root stays: another set or table may lie there, too
        write_whole(path, lambda out: out.write(json.dumps(known | identities).encode()))
    return list(identities.values())


def _stat(file: Path) -> os.stat_result:
    try:
        return file.stat()
    except OSError as error:
        raise GraftError(
            f"Expected {file} to be an image, but got: {error.strerror or error}. Is it a link to nowhere?"
        ) from error


def _read_known(path: Path) -> dict[str, dict[str, Any]]:
    """Read the identities kept from the last time; a damaged list only costs hashing again."""
    fields = {"size", "mtime_ns", "ctime_ns", "sha256", "gray"}
    try:
        known = json.loads(path.read_bytes())
        return {name: identity for name, identity in known.items() if fields <= identity.keys()}
    except (OSError, ValueError, AttributeError):
        return {}
