"""Activations of frozen stages on disk: computed once, named by everything that can change them.

An entry is a folder. Its ``rows.bin`` has a place for the activation of every image of the set; places that
nobody asked for stay holes and cost no disk. Its ``journal.jsonl`` says which rows are there: a line with the
hash of some rows is added only after those rows are safely on disk. A process that is killed while it writes
leaves rows that no line speaks of, and so nothing that is seen.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import Timeout
from torch import Tensor

from graft.data.image_set import Int64Array
from graft.reuse.entries import (
    EntryName,
    evict,
    hold_entry,
    is_own_file,
    list_entries,
    read_about,
    read_journal,
    remove_entry,
    throw_away,
)

#: How activations lie on disk; numpy knows no bfloat16.
_ON_DISK: Mapping[torch.dtype, type[np.generic]] = {
    torch.float32: np.float32,
    torch.float16: np.float16,
    torch.bfloat16: np.uint16,
}
DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}

_SECONDS_BETWEEN_LOOKS = 0.2

#: Journal lines whose hashes this process has checked or written, with the inode of the rows they speak of.
_verified: set[tuple[int, str]] = set()


@dataclass
class Entry:
    """The activations after one boundary, as far as they are there.

    Attributes:
        folder: Where it lies.
        count: Images of the set.
        shape: Shape of one activation.
        dtype: Numbers that it is made of.
        faults: What was found damaged when it was opened, and is computed again.
    """

    folder: Path
    count: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    faults: list[str] = field(default_factory=list)
    _there: npt.NDArray[np.bool_] = field(init=False)
    _rows: Any = field(init=False)
    _wrong: set[str] = field(init=False)

    def __post_init__(self) -> None:
        size = self.count * self.row_bytes
        with (self.folder / "rows.bin").open("ab") as file:
            if file.tell() < size:
                file.truncate(size)  # holes: no disk is used
        mapped = np.memmap(
            self.folder / "rows.bin", dtype=_ON_DISK[self.dtype], mode="r+", shape=(self.count, *self.shape)
        )
        self._rows = np.asarray(mapped)  # a plain array on the same memory is indexed faster
        self.refresh()

    @property
    def row_bytes(self) -> int:
        """Bytes of one activation."""
        return math.prod(self.shape) * self.dtype.itemsize

    def refresh(self) -> None:
        """Look at what is there now; rows whose hash is wrong are not."""
        self._there = np.zeros(self.count, dtype=np.bool_)
        self._wrong = set()
        inode = (self.folder / "rows.bin").stat().st_ino
        for line, spans, expected in read_journal(self.folder):
            if not all(0 <= first <= end <= self.count for first, end in spans):
                continue  # speaks of no image of this set
            rows = _expand(spans)
            if (inode, line) not in _verified and self._hash(rows) != expected:
                self._there[rows] = False
                self._wrong.add(line)
                self.faults.append(f"{len(rows)} activations in {self.folder}")
                continue
            _verified.add((inode, line))
            self._there[rows] = True

    def disown_damaged(self) -> None:
        """Take from the journal what it says of damaged rows, so that they are found damaged but once.

        For whoever holds the entry. What is computed again may differ in its last digits from what was there.
        """
        if self._wrong:
            sound = [line for line, _, _ in read_journal(self.folder) if line not in self._wrong]
            _write(self.folder / "journal.jsonl", "".join(f"{line}\n" for line in sound))
            self._wrong = set()

    def missing(self, rows: Int64Array) -> Int64Array:
        """Return which of ``rows`` are not there yet, ascending."""
        wanted = np.unique(rows)
        return np.asarray(wanted[~self._there[wanted]], dtype=np.int64)

    def is_whole(self, rows: Int64Array) -> bool:
        """Whether all of ``rows`` are there, and nothing is damaged."""
        return not self.faults and len(self.missing(rows)) == 0

    def write(self, rows: Int64Array, values: Tensor) -> None:
        """Store activations ``(n, *shape)`` of ``rows`` ``(n,)``, ascending; seen once all is on disk.

        Raises:
            OSError: The disk is full or cannot be written; nothing of it is seen then.
        """
        array = _to_disk(values.detach().to(self.dtype).cpu())
        file = os.open(self.folder / "rows.bin", os.O_WRONLY)
        try:
            for first, last in _spans(rows):  # written, not mapped: a full disk is an error, and no signal
                content = memoryview(array[first:last].tobytes())
                _write_all(file, content, int(rows[first]) * self.row_bytes)
            os.fsync(file)
        finally:
            os.close(file)
        line = json.dumps({"rows": _compress(rows), "sha256": self._hash(rows)})
        with (self.folder / "journal.jsonl").open("a") as journal:
            journal.write(f"\n{line}\n")  # a line that a killed process left unfinished ends here
            journal.flush()
            os.fsync(journal.fileno())
            _verified.add(((self.folder / "rows.bin").stat().st_ino, line))
        self._there[rows] = True

    def read(self, rows: Int64Array) -> Tensor:
        """Return the activations of ``rows`` ``(n,)`` as ``(n, *shape)``."""
        values = torch.from_numpy(np.ascontiguousarray(self._rows[rows]))
        return values.view(torch.bfloat16) if self.dtype == torch.bfloat16 else values

    def _hash(self, rows: Int64Array) -> str:
        digest = hashlib.sha256()
        for first, last in _spans(rows):
            digest.update(np.ascontiguousarray(self._rows[rows[first] : rows[last - 1] + 1]).data)
        return digest.hexdigest()


class ActivationStore:
    """Entries under one folder, within a budget.

    Args:
        root: The folder.
        disk_bytes: Most that all entries may take; the least recently used make room.
    """

    def __init__(self, root: Path, disk_bytes: int) -> None:
        self.root = root
        self.disk_bytes = disk_bytes

    def open(self, name: EntryName, count: int, shape: Sequence[int], dtype: torch.dtype) -> Entry:
        """Open an entry, made when it is not there; one that is not what its name says is thrown away.

        Raises:
            OSError: The folder cannot be written.
        """
        folder = self.root / name.digest
        about = {"count": count, "shape": list(shape), "dtype": str(dtype).removeprefix("torch.")}
        about["name"] = asdict(name)
        with self.locked(name):
            foreign = _is_foreign(folder, about)
            if foreign:
                throw_away(folder)
            folder.mkdir(exist_ok=True)
            if not (folder / "about.json").exists():
                _write(folder / "about.json", json.dumps(about))
            os.utime(folder)
            entry = Entry(folder, count, tuple(shape), dtype)
            entry.disown_damaged()
            if foreign:
                entry.faults.append(f"{folder}, which held something else and was thrown away")
            return entry

    def start_anew(self, name: EntryName, entry: Entry, needed: int) -> Entry | None:
        """Empty an entry that alone stands in the way of ``needed`` bytes; None where others do, too.

        Raises:
            OSError: The folder cannot be written.
        """
        sizes = {one.digest: one.disk_bytes for one in list_entries(self.root)}
        own = sizes.pop(name.digest, 0)
        if own == 0 or sum(sizes.values()) + needed > self.disk_bytes:
            return None
        # What is mapped still takes its place on the disk: only the budget is won by this.
        if needed > shutil.disk_usage(self.root).free or not remove_entry(self.root, name.digest):
            return None
        fresh = self.open(name, entry.count, entry.shape, entry.dtype)
        fresh.faults.extend(entry.faults)
        return fresh

    def count_stored(self, name: EntryName, rows: Int64Array) -> int:
        """Return how many of ``rows`` ``(n,)``, each there once, an entry speaks of; no hash is looked at."""
        folder = self.root / name.digest
        about = read_about(folder)
        try:
            spans = [span for _, spans, _ in read_journal(folder) for span in spans] if about else []
            count = int(about["count"]) if about else 0
        except (OSError, KeyError, TypeError, ValueError):  # thrown away meanwhile, or damaged
            return 0
        sound = [(first, last) for first, last in spans if 0 <= first <= last <= count]
        return int(np.isin(rows, _expand(sound)).sum())

    def find(self, name: EntryName) -> Entry | None:
        """Open an entry only where there is one."""
        folder = self.root / name.digest
        about = read_about(folder)
        try:
            return Entry(folder, int(about["count"]), tuple(about["shape"]), DTYPES[about["dtype"]])
        except (OSError, KeyError, ValueError, TypeError, OverflowError, MemoryError):  # no entry, or damaged
            return None

    @contextlib.contextmanager
    def locked(self, name: EntryName, look: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold an entry: whoever else wants to compute it waits, and then finds it there.

        Who holds it may ask for it again.

        Args:
            name: Of the entry.
            look: Called again and again while another process holds it; what it raises ends the waiting.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        lock = hold_entry(self.root, name.digest)
        while True:
            try:
                lock.acquire(timeout=_SECONDS_BETWEEN_LOOKS)
                break
            except Timeout:
                if look is not None:
                    look()
        try:
            yield
        finally:
            lock.release()

    def make_room(self, needed: int, keep: Sequence[str] = ()) -> bool:
        """Throw away the least recently used entries until ``needed`` bytes fit; say whether they do.

        Entries that another process holds stay.

        Args:
            needed: Bytes that are about to be written.
            keep: Digests of entries that stay.
        """
        _, used = evict(self.root, self.disk_bytes - needed, keep)
        free = shutil.disk_usage(self.root).free if self.root.exists() else needed
        return used + needed <= self.disk_bytes and needed <= free


def _to_disk(values: Tensor) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = (
        values.view(torch.uint16) if values.dtype == torch.bfloat16 else values
    ).numpy()
    return array


def _spans(rows: Int64Array) -> Iterator[tuple[int, int]]:
    """Yield (first, last) positions of stretches of consecutive rows."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    edges = [0, *breaks.tolist(), len(rows)]
    yield from ((first, last) for first, last in itertools.pairwise(edges) if last > first)


def _compress(rows: Int64Array) -> list[list[int]]:
    return [[int(rows[first]), int(rows[last - 1]) + 1] for first, last in _spans(rows)]


def _expand(spans: Sequence[tuple[int, int]]) -> Int64Array:
    parts = [np.arange(first, last, dtype=np.int64) for first, last in spans]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def _write_all(file: int, content: memoryview, place: int) -> None:
    while content:
        written = os.pwrite(file, content, place)
        content, place = content[written:], place + written


def _is_foreign(folder: Path, about: Mapping[str, Any]) -> bool:
    """Say whether something else than the entry that ``about`` describes lies in its place."""
    if not folder.is_dir():
        return os.path.lexists(folder)
    if not all(is_own_file(path) for path in folder.iterdir()):
        return True
    return (folder / "about.json").exists() and read_about(folder) != json.loads(json.dumps(about))


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.write_text(text)
    beside.replace(path)
