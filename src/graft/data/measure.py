"""Decode every image once and keep what a check needs: size, content, colours, sketch, or the fault.

Files are measured by processes side by side; what was measured is known again by path, size, time of change
and inode, so that a second time only asks the file system.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
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

_IDENTITY = {"size": ("<i8", ()), "mtime_ns": ("<i8", ()), "inode": ("<u8", ())}
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
    known_at = {name: index for index, name in enumerate(known_names)}
    kept = list(zip(*(known.rows[column].tolist() for column in _IDENTITY), strict=True))
    rows = np.zeros(len(names), dtype=_ROW)
    faults = [""] * len(names)
    old, new = list[tuple[int, int]](), list[int]()
    for index, name in enumerate(names):
        identity = _identify(f"{root}{os.sep}{name}")
        before = known_at.get(name)
        if before is not None and identity == kept[before]:
            old.append((index, before))
            continue
        for column, value in zip(_IDENTITY, identity, strict=True):
            rows[column][index] = value
        new.append(index)
    for index, before in old:
        faults[index] = known.faults[before]
    to, of = np.array(old, dtype=np.int64).reshape(-1, 2).T
    rows[to] = known.rows[of]
    done = len(old)
    if progress is not None and new:
        progress(done, len(names))
    for chunk, (measured, found) in zip(_cut(new), _measure_all([root / names[i] for i in new]), strict=True):
        for column in _MEASURED:
            rows[column][chunk] = measured[column]
        for index, fault in zip(chunk, found, strict=True):
            faults[index] = fault.replace(f"{root}{os.sep}", "")
        done += len(chunk)
        if progress is not None:
            progress(done, len(names))
    if new or len(known_names) != len(names):
        _write_known(path, names, Measurements(rows, tuple(faults)))
    return Measurements(rows, tuple(faults))


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
    workers = min(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 32
    )
    if len(files) < _WORTH_PROCESSES or workers == 1:
        yield from map(_measure_chunk, chunks)
        return
    # Not forked: a process that has started threads, as torch does, must not be.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_measure_chunk, chunks)


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


def _identify(file: str) -> tuple[int, int, int]:
    """Return size, time of change and inode; zeros for a link to nowhere."""
    try:
        state = os.stat(file)  # noqa: PTH116 - a `Path` costs more than the call, for each file of a large set
    except OSError:
        return 0, 0, 0
    return state.st_size, state.st_mtime_ns, state.st_ino


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
