"""Decode every image once and keep what a check needs: size, content, colours, sketch, or the fault.

Files are measured by processes side by side; what was measured is known again by path, size, time of change
and inode, so that a second time only asks the file system. Files with a fault are tried again each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from graft.data.cache import write_whole
from graft.data.decode import decode_image
from graft.data.image_set import Progress, UInt8Array
from graft.data.near_duplicates import NEAR_VERSION, SKETCH_BYTES, sketch_image
from graft.errors import GraftError

MEASURE_VERSION = 1
"""Part of the cache's name: raise it when code changes what is measured."""

_IDENTITY = {"size": ("<i8", ()), "mtime_ns": ("<i8", ()), "inode": ("<i8", ())}
_MEASURED = {
    "height": ("<i4", ()),
    "width": ("<i4", ()),
    "channels": ("u1", ()),
    "content": ("u1", (16,)),
    "mean": ("<f4", (3,)),
    "square": ("<f4", (3,)),
    "sketch": ("u1", (SKETCH_BYTES,)),
}
_ROW = np.dtype([(name, kind, shape) for name, (kind, shape) in (_IDENTITY | _MEASURED).items()])
Rows = npt.NDArray[np.void]

_CHUNK = 100
_MOST_PROCESSES = 32
_WORTH_PROCESSES = 400
"""Fewer new files are measured before the processes would have started."""


@dataclass(frozen=True, eq=False)
class Measurements:
    """What is known of each image.

    Attributes:
        rows: One record per image, ``(N,)``; zeros where the image has a fault.
        faults: Why an image cannot be decoded, empty where it can.
    """

    rows: Rows
    faults: tuple[str, ...]

    @property
    def sound(self) -> npt.NDArray[np.int64]:
        """Indices of the images that can be decoded."""
        return np.array([index for index, fault in enumerate(self.faults) if not fault], dtype=np.int64)


def measure_files(
    root: Path, names: Sequence[str], cache_root: Path, progress: Progress | None = None
) -> Measurements:
    """Measure the files ``names`` under ``root``, each only once in its life.

    Args:
        root: The folder.
        names: Paths relative to it.
        cache_root: Folder of the cache.
        progress: Called with (done, total).
    """
    place = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:32]
    path = cache_root / "check" / f"{place}-{MEASURE_VERSION}-{NEAR_VERSION}.npz"
    known_names, known = _read_known(path)
    rows, faults = np.zeros(len(names), dtype=_ROW), [""] * len(names)
    for column, values in zip(_IDENTITY, _identify_all(root, names), strict=True):
        rows[column] = values
    at, of = _match(names, rows, known_names, known)
    rows[at] = known.rows[of]
    measured = np.zeros(len(names), dtype=np.bool_)
    measured[at] = True
    new = np.flatnonzero(~measured).tolist()
    try:
        found = _measure_all([root / names[index] for index in new])
        for chunk, (some, why) in zip(_cut(new), found, strict=True):
            for column in _MEASURED:
                rows[column][chunk] = some[column]
            for index, fault in zip(chunk, why, strict=True):
                faults[index] = fault.replace(f"{root}{os.sep}", "")
            measured[chunk] = True
            if progress is not None:
                progress(int(measured.sum()), len(names))
    finally:  # an interrupted check goes on where it was
        if new:
            sound = [index for index in np.flatnonzero(measured).tolist() if not faults[index]]
            here = {names[index] for index in sound}
            others = [index for index, name in enumerate(known_names) if name not in here]
            kept = [*(names[index] for index in sound), *(known_names[index] for index in others)]
            together = np.concatenate([rows[sound], known.rows[others]])
            _write_known(path, kept, Measurements(together, ("",) * len(kept)))
    return Measurements(rows, tuple(faults))


def _identify_all(root: Path, names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return size, time of change and inode of each file, ``(3, N)``; zeros for a link to nowhere."""
    states = np.zeros((3, len(names)), dtype=np.int64)
    for index, name in enumerate(names):
        try:
            # A `Path` costs more than the call, and there is one for each file of a large set.
            state = os.stat(f"{root}{os.sep}{name}")  # noqa: PTH116
        except OSError:
            continue
        states[:, index] = state.st_size, state.st_mtime_ns, state.st_ino & (2**63 - 1)
    return states


def _match(
    names: Sequence[str], rows: Rows, known_names: Sequence[str], known: Measurements
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return which files have not changed since they were measured, and where they were then."""
    known_at = {name: index for index, name in enumerate(known_names)}
    before = np.array([known_at.get(name, -1) for name in names], dtype=np.int64)
    at = np.flatnonzero(before >= 0)
    same = np.ones(len(at), dtype=np.bool_)
    for column in _IDENTITY:
        same &= rows[column][at] == known.rows[column][before[at]]
    return at[same], before[at[same]]


def measure_images(
    read: Callable[[int], UInt8Array],
    count: int,
    digest: str,
    cache_root: Path,
    progress: Progress | None = None,
) -> Measurements:
    """Measure images that are no files of their own, known again by the digest of their set.

    Args:
        read: Decodes image ``index``.
        count: Number of images.
        digest: sha256 of the set.
        cache_root: Folder of the cache.
        progress: Called with (done, total).
    """
    path = cache_root / "check" / f"{digest[:32]}-{MEASURE_VERSION}-{NEAR_VERSION}.npz"
    names, known = _read_known(path)
    if len(names) == count:
        return known
    rows = np.zeros(count, dtype=_ROW)
    faults = []
    for index in range(count):
        faults.append(_measure(partial(read, index), rows[index : index + 1]))
        if progress is not None and (index + 1 == count or (index + 1) % _CHUNK == 0):
            progress(index + 1, count)
    measured = Measurements(rows, tuple(faults))
    _write_known(path, [str(index) for index in range(count)], measured)
    return measured


def _measure_all(files: list[Path]) -> Iterator[tuple[Rows, list[str]]]:
    """Measure chunk after chunk, in processes where it is worth their start."""
    chunks = [[str(file) for file in chunk] for chunk in _cut(files)]
    workers = min(_count_cores(), _MOST_PROCESSES)
    if len(files) < _WORTH_PROCESSES or workers == 1:
        yield from map(_measure_chunk, chunks)
        return
    try:
        # Not forked: a process that has started threads, as torch does, must not be.
        with ProcessPoolExecutor(workers, get_context("spawn"), _leave_interrupts) as pool:
            yield from pool.map(_measure_chunk, chunks)
    except BrokenProcessPool as error:
        raise GraftError(
            "Expected to decode all images, but a process died while it did: is there an image too large for "
            "the memory? What was decoded is kept; the same command goes on from there."
        ) from error


def _count_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _leave_interrupts() -> None:
    """Leave Ctrl-C to the process that waits for this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _measure_chunk(files: list[str]) -> tuple[Rows, list[str]]:
    rows = np.zeros(len(files), dtype=_ROW)
    faults = [
        _measure(partial(decode_image, Path(file)), rows[index : index + 1])
        for index, file in enumerate(files)
    ]
    return rows, faults


def _measure(read: Callable[[], UInt8Array], row: Rows) -> str:
    """Fill the one record of ``row``, and return the fault of an image that cannot be decoded."""
    try:
        pixels = read()
    except GraftError as error:
        return str(error)
    except Exception as error:  # a decoder may raise anything on a damaged file; that is what is looked for
        return f"Expected an image, but decoding it raised {type(error).__name__}: {error}."
    flat = pixels.reshape(-1, pixels.shape[2])
    row["height"], row["width"], row["channels"] = pixels.shape
    digest = hashlib.blake2b(str(pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    row["content"] = np.frombuffer(digest.digest(), dtype=np.uint8)
    row["mean"], row["square"] = _average(flat)
    row["sketch"] = sketch_image(pixels)
    return ""


def _average(flat: UInt8Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean and mean square of each channel of ``(P, C)`` values, in [0, 1]."""
    values = np.arange(256) / 255.0
    counts = np.stack([np.bincount(channel, minlength=256) for channel in flat.T]) / len(flat)
    return counts @ values, counts @ values**2


def _cut(items: list[Any]) -> list[list[Any]]:
    return [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]


def _read_known(path: Path) -> tuple[list[str], Measurements]:
    """Read what was measured before; a damaged file only costs measuring again."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            names, faults = json.loads(kept["text"].tobytes())
            rows = kept["rows"]
    except Exception:  # zip, JSON and NumPy each have errors of their own for a damaged file
        return [], Measurements(np.zeros(0, dtype=_ROW), ())
    if rows.dtype != _ROW or not len(rows) == len(names) == len(faults):
        return [], Measurements(np.zeros(0, dtype=_ROW), ())
    return names, Measurements(rows, tuple(faults))


def _write_known(path: Path, names: Sequence[str], measured: Measurements) -> None:
    text = np.frombuffer(json.dumps([list(names), list(measured.faults)]).encode(), dtype=np.uint8)
    write_whole(path, lambda file: np.savez(file, rows=measured.rows, text=text))
