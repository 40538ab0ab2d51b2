"""Decode once: every image as the network's uint8 input, in one memory-mapped file that all runs share."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
from filelock import FileLock

from graft.data.cache import write_whole
from graft.data.decode import FileReader
from graft.data.decoders import start_decoders
from graft.data.image_set import ImageSet, Progress, UInt8Array
from graft.data.preprocessing import Preprocessing
from graft.data.transforms import to_input
from graft.errors import GraftError

_WORTH_THREADS = 64
"""Fewer images are decoded before threads would pay."""

_WORTH_VALUES = 100_000
"""Images of fewer values take longer to hand over than to decode."""

_WORTH_PROCESSES = 3000
"""Fewer small files are decoded before processes have started."""

_MOST_PROCESSES = 8
"""More would wait for the one that writes."""

_CHUNK_BYTES, _LEAST_CHUNK, _MOST_CHUNK = 1_000_000, 16, 256
"""Small files are handed to a process so many at a time that their inputs have about these bytes."""

_AHEAD = 8
"""Images per thread that may be decoded before they are written; or chunks of small ones."""

PIXELS_VERSION = 1
"""Part of the file's name: raise it when code changes the pixels."""

Item = TypeVar("Item")
Result = TypeVar("Result")

_verified: set[tuple[str, int, int, int]] = set()
"""Files whose sha256 this process has checked, as (path, size, mtime_ns, inode)."""


def prepare_pixels(
    images: ImageSet, preprocessing: Preprocessing, cache_root: Path, progress: Progress | None = None
) -> UInt8Array:
    """Return all images as the network's input, from the cache when they are there and whole.

    Args:
        images: The set to decode.
        preprocessing: Size, crop, interpolation and channels; mean and std are applied later.
        cache_root: Folder of the cache.
        progress: Called with (done, total) while images are decoded.

    Returns:
        A read-only memory map, uint8 ``(N, C, size, size)``.

    Raises:
        GraftError: An image cannot be decoded, or the cache cannot be written.
    """
    shape = (len(images), preprocessing.channels, preprocessing.size, preprocessing.size)
    path = cache_root / "pixels" / f"{hash_geometry(images.digest, preprocessing)}.npy"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"))
        lock.acquire()
    except OSError as error:
        raise GraftError(
            f"Expected to write into {path.parent}, but got: {error.strerror or error}. "
            "Choose another place with `paths.root`."
        ) from error
    try:
        kept = _open_whole(path, shape)
        if kept is not None:
            return kept
        _decode_all(images, preprocessing, shape, path, progress)
        decoded = _open_whole(path, shape)
    finally:
        lock.release()
    if decoded is None:
        raise GraftError(f"Expected {path} to hold what was just written, but it does not: check the disk.")
    return decoded


def hash_geometry(digest: str, preprocessing: Preprocessing) -> str:
    """Name the pixels of a set by all that can change them, and by nothing else."""
    facts = preprocessing.to_dict()
    del facts["mean"], facts["std"]
    text = json.dumps([PIXELS_VERSION, digest, facts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def _decode_all(
    images: ImageSet,
    preprocessing: Preprocessing,
    shape: tuple[int, int, int, int],
    path: Path,
    progress: Progress | None,
) -> None:
    """Decode image after image straight into the file, then write its sha256 beside it."""
    digest = hashlib.sha256()

    def write(file: IO[bytes]) -> None:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for index, content in enumerate(_decode_in_order(images, preprocessing)):
            digest.update(content)
            file.write(content)
            if progress is not None and (index + 1 == len(images) or (index + 1) % 200 == 0):
                progress(index + 1, len(images))

    path.with_suffix(".sha256").unlink(missing_ok=True)
    write_whole(path, write)
    write_whole(path.with_suffix(".sha256"), lambda file: file.write(digest.hexdigest().encode()))


def _decode_in_order(images: ImageSet, preprocessing: Preprocessing) -> Iterator[bytes]:
    """Yield image after image, decoded side by side where that pays.

    The first image is decoded alone: some sets are read into memory by it. Large ones are decoded by threads,
    since Pillow lets others run meanwhile; small ones by processes, if they are files.
    """

    def convert(image: UInt8Array) -> bytes:
        # NumPy copies: torch would wake its own threads for each image, and they would stand in our way.
        return to_input(image, preprocessing).numpy().tobytes()

    first, rest, cores = images.read(0), range(1, len(images)), _count_cores()
    content = convert(first)
    yield content
    if cores > 1 and first.size >= _WORTH_VALUES and len(images) >= _WORTH_THREADS:
        # Threads that silence warnings each for themselves would leave them silenced for all.
        with warnings.catch_warnings():
            yield from _work_ahead(lambda index: convert(images.read(index)), rest, cores + 1)
    elif cores > 1 and isinstance(images.read, FileReader) and len(images) >= _WORTH_PROCESSES:
        size = min(max(_CHUNK_BYTES // len(content), _LEAST_CHUNK), _MOST_CHUNK)
        chunks = [rest[start : start + size] for start in range(0, len(rest), size)]
        files, processes = images.read.files, min(cores, _MOST_PROCESSES)
        with warnings.catch_warnings(), start_decoders(processes) as decoders:

            def convert_all(chunk: range) -> list[bytes]:
                found = decoders.decode([files[index] for index in chunk])
                return [
                    convert(images.read(index) if image is None else image)
                    for index, image in zip(chunk, found, strict=True)
                ]

            for contents in _work_ahead(convert_all, chunks, processes + 1):
                yield from contents
    else:
        yield from (convert(images.read(index)) for index in rest)


def _work_ahead(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Yield ``work`` of each item in order, done by threads; memory stays bounded, as few are ahead.

    One thread more than can work at a time keeps the others busy while one waits for Python's lock.
    """
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[Result]] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(work, item))
                if len(ahead) > _AHEAD * threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _count_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _open_whole(path: Path, shape: tuple[int, int, int, int]) -> UInt8Array | None:
    """Open the pixels, or return ``None`` where they are missing or damaged: to be decoded again."""
    try:
        pixels: UInt8Array = np.load(path, mmap_mode="r", allow_pickle=False)
        expected = path.with_suffix(".sha256").read_text()
        state = path.stat()
    except (OSError, ValueError, EOFError):
        return None
    if pixels.shape != shape or pixels.dtype != np.uint8:
        return None
    identity = (str(path), state.st_size, state.st_mtime_ns, state.st_ino)
    if identity not in _verified:
        if hashlib.sha256(pixels.data).hexdigest() != expected:
            return None
        _verified.add(identity)
    return pixels
