"""Stored activations as they lie on disk: what is there, what is damaged, what may go. Needs no torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

#: Raise it when code changes activations or the layout of an entry.
STORE_VERSION = 1

#: The files of an entry.
FILES = ("about.json", "rows.bin", "journal.jsonl")

#: Bytes of one number, by the name of its type.
ITEM_BYTES: Mapping[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2}

_READ_BYTES = 16 << 20


@dataclass(frozen=True)
class EntryName:
    """What activations depend on.

    Attributes:
        data: Digest of the images.
        preprocessing: How images become inputs, mean and std included.
        backbone: Architecture with its options.
        weights: What fills the frozen stages: a sha256, or how they were drawn.
        boundary: The last frozen stage, 1 to 5, or the name of a node.
        precision: Arithmetic of the frozen stages.
        view: Which augmented version of the images, None for the images themselves.
        dtype: What the activations are rounded to, None for nothing: they are kept as they were computed.
        computed_by: Kind of device and version of torch, which the last digits depend on; None: not known.
    """

    data: str
    preprocessing: Mapping[str, Any]
    backbone: str
    weights: str
    boundary: str
    precision: str
    view: str | None = None
    dtype: str | None = None
    computed_by: str | None = None

    @property
    def digest(self) -> str:
        """A short name of all this, hex."""
        facts = asdict(self)
        for name in ("dtype", "computed_by"):  # without them activations are named as they always were
            if facts[name] is None:
                del facts[name]
        text = json.dumps([STORE_VERSION, facts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:40]


@dataclass(frozen=True)
class StoredEntry:
    """One entry as it lies on disk.

    Attributes:
        digest: Its name.
        disk_bytes: What it takes.
        used: When it was opened last, unix seconds.
        about: Its number of images, shape and type of numbers, and what its activations depend on; empty
            where that cannot be read, or belongs to another folder.
        filled: Whether a journal speaks of activations.
    """

    digest: str
    disk_bytes: int
    used: float
    about: Mapping[str, Any]
    filled: bool

    @property
    def state(self) -> str:
        """``whole``, ``foreign`` for what is no entry, or ``unfinished`` for one without activations."""
        if not self.about:
            return "foreign"
        return "whole" if self.filled else "unfinished"


def list_entries(root: Path) -> list[StoredEntry]:
    """Return what is stored under ``root``."""
    found = []
    for folder in sorted(root.glob("*")) if root.is_dir() else []:
        with contextlib.suppress(OSError):  # another process may be throwing it away
            if folder.suffix != ".lock":
                found.append(_look_at(folder) if folder.is_dir() else _look_at_stray(folder))
    return found


def _look_at(folder: Path) -> StoredEntry:
    files = {path.name: path.lstat() for path in folder.rglob("*")}
    filled = "journal.jsonl" in files and files["journal.jsonl"].st_size > 0
    about = read_about(folder) if all(is_own_file(path) for path in folder.iterdir()) else {}
    disk_bytes = sum(_count_bytes(state) for state in files.values())
    return StoredEntry(folder.name, disk_bytes, folder.stat().st_mtime, about, filled)


def _look_at_stray(file: Path) -> StoredEntry:
    """Describe what is no folder, and so no entry."""
    state = file.lstat()
    return StoredEntry(file.name, _count_bytes(state), state.st_mtime, {}, filled=False)


def _count_bytes(state: os.stat_result) -> int:
    """Return what a file takes on the disk; holes take nothing."""
    return int(getattr(state, "st_blocks", -(-state.st_size // 512))) * 512


def is_own_file(path: Path) -> bool:
    """Whether what lies in the folder of an entry is one of the files that belong there."""
    return path.name in FILES and path.is_file()


def read_about(folder: Path) -> dict[str, Any]:
    """Return what an entry says of itself, empty where it says nothing that fits it."""
    try:
        said = json.loads((folder / "about.json").read_text())
        sound = EntryName(**said["name"]).digest == folder.name and said["dtype"] in ITEM_BYTES
        # Whole numbers only: 64.0 and true would do for arithmetic, and not for the shape of an array.
        sound = sound and type(said["count"]) is int and said["count"] >= 0
        sound = sound and all(type(side) is int and side > 0 for side in said["shape"])
    except (OSError, ValueError, TypeError, KeyError):
        return {}
    return dict(said) if sound else {}


def read_journal(folder: Path) -> Iterator[tuple[str, list[tuple[int, int]], str]]:
    """Yield the lines of a journal: each as it is, its stretches of rows (first, end), and their hash."""
    journal = folder / "journal.jsonl"
    for line in journal.read_text(errors="replace").splitlines() if journal.exists() else []:
        try:
            said = json.loads(line)
            yield line, [(int(first), int(end)) for first, end in said["rows"]], str(said["sha256"])
        except (ValueError, KeyError, TypeError):
            continue  # the last line of a process that was killed


def count_rows(folder: Path) -> int:
    """Return how many images an entry speaks of."""
    spans = sorted(span for _, spans, _ in read_journal(folder) for span in spans)
    count = reached = 0
    for first, end in spans:
        count += max(0, end - max(first, reached))
        reached = max(reached, end)
    return count


def is_damaged(folder: Path) -> bool:
    """Read a whole entry and say whether a hash of it is wrong."""
    about = read_about(folder)
    if not about:
        return True
    row_bytes = math.prod(about["shape"]) * ITEM_BYTES[about["dtype"]]
    try:
        with (folder / "rows.bin").open("rb") as file:
            return any(
                _hash(file, spans, row_bytes) != expected for _, spans, expected in read_journal(folder)
            )
    except OSError:
        return True


def _hash(file: Any, spans: Sequence[tuple[int, int]], row_bytes: int) -> str:
    digest = hashlib.sha256()
    for first, end in spans:
        file.seek(first * row_bytes)
        left = (end - first) * row_bytes
        while left > 0 and (content := file.read(min(left, _READ_BYTES))):
            digest.update(content)
            left -= len(content)
    return digest.hexdigest()


def hold_entry(root: Path, digest: str) -> FileLock:
    """Return the lock of an entry; a process may take one that it holds again."""
    return FileLock(root / f"{digest}.lock", is_singleton=True)


def remove_entry(root: Path, digest: str) -> bool:
    """Throw an entry away, and say whether it is gone; one that another process holds stays.

    Files that another process has mapped live on until it lets go of them. The lock file stays: whoever
    waits for it must not wait for another one than whoever comes next.
    """
    try:
        with hold_entry(root, digest).acquire(timeout=0):
            throw_away(root / digest)
    except (Timeout, OSError):
        return False
    return not os.path.lexists(root / digest)


def throw_away(place: Path) -> None:
    """Delete an entry, or what lies in the place of one, as far as that can be deleted."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)


def evict(root: Path, disk_bytes: int, keep: Sequence[str] = ()) -> tuple[list[StoredEntry], int]:
    """Throw away the least recently used entries until the others take at most ``disk_bytes``.

    Args:
        root: Where the entries are.
        disk_bytes: What they may take; below 0 for none at all.
        keep: Digests of entries that stay.

    Returns:
        What is gone, and the bytes that are left.
    """
    entries = sorted(list_entries(root), key=lambda entry: entry.used)
    used, gone = sum(entry.disk_bytes for entry in entries), []
    for entry in entries:
        if used <= disk_bytes:
            break
        if entry.digest not in keep and remove_entry(root, entry.digest):
            used -= entry.disk_bytes
            gone.append(entry)
    return gone, used
