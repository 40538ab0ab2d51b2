"""How fast this machine computes the stages of a network and reads what it kept: measured once, and kept."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from graft.data.measured import measure_once
from graft.data.transforms import normalise
from graft.reuse.cost import Chain
from graft.reuse.prefix import Prefix
from graft.train.memory import find_free_memory

_REPEATS = 2
_READ_ROWS, _READ_BYTES = 256, 64 << 10

#: A disk that has not given the whole probe by then is slow enough to know.
_READ_SECONDS = 0.3

#: Share of the free memory that files may fill while runs go on.
_HELD_SHARE = 0.5


def measure_chain(folder: Path, network: str, prefix: Prefix) -> Chain:
    """Return what each stage of a network costs here, for one image.

    Args:
        folder: Where measurements are kept.
        network: Architecture with its options.
        prefix: The network, up to the deepest boundary of interest.
    """
    device = prefix.device
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    same = (network, prefix.depth, prefix.pixels.shape[1:], prefix.precision, platform.node(), str(machine))
    threads = torch.get_num_threads() if device.type == "cpu" else 0
    found = measure_once(folder, "stages", (*same, torch.__version__, threads), lambda: _measure(prefix))
    disk = measure_once(
        folder, "disk", (platform.node(), _name_disk(folder)), lambda: measure_reading(folder)
    )
    stages = range(1, prefix.depth + 1)
    return Chain(
        seconds=[found[f"seconds/{stage}"] for stage in stages],
        sizes=[_count_bytes(found, stage, prefix.dtype) for stage in stages],
        bytes_per_second=disk["disk"],
        held_bytes=int(_HELD_SHARE * (find_free_memory() or 0)),
        held_bytes_per_second=disk["memory"],
        exact=prefix.dtype is None,
    )


def _count_bytes(found: dict[str, float], stage: int, dtype: torch.dtype | None) -> int:
    """Return the bytes of one activation as it is kept: rounded where the runs round it."""
    each = found[f"number_bytes/{stage}"] if dtype is None else dtype.itemsize
    return int(found[f"numbers/{stage}"] * each)


def _name_disk(folder: Path) -> int:
    """Return the number of the file system that holds a folder, or will."""
    while not folder.exists():
        folder = folder.parent
    return folder.stat().st_dev


def _measure(prefix: Prefix) -> dict[str, float]:
    prefix.backbone.eval().to(prefix.device)
    rows = np.arange(prefix.batch_size) % len(prefix.pixels)
    pixels = torch.from_numpy(np.array(prefix.pixels[rows])).to(prefix.device)
    found = dict[str, float]()
    with torch.no_grad(), prefix.arithmetic():
        x = normalise(pixels, prefix.preprocessing)
        for stage in range(1, prefix.depth + 1):
            module, given = prefix.backbone.stage(stage), x
            module(given)  # the first pass of a network costs more than those that follow
            times = []
            for _ in range(_REPEATS):
                started = time.perf_counter()
                x = module(given)
                _wait(x)
                times.append(time.perf_counter() - started)
            found[f"seconds/{stage}"] = min(times) / prefix.batch_size
            found[f"numbers/{stage}"] = float(x[0].numel())
            found[f"number_bytes/{stage}"] = float(x.element_size())
    return found


def measure_reading(folder: Path) -> dict[str, float]:
    """Return how many bytes a second are read through a memory map, in pieces: from disk, and from memory.

    Args:
        folder: On the disk in question. Where nothing can be written into it, or the system does not forget a
            file when it is asked to, both numbers are that of the memory.
    """
    with _open_probe(folder) as file:
        file.write(np.random.default_rng(0).bytes(_READ_ROWS * _READ_BYTES))  # some disks keep zeros nowhere
        file.flush()
        warm = _read_pieces(file, math.inf)
        with contextlib.suppress(OSError, AttributeError):  # not on every system, nor every file system
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return {"disk": min(warm, _read_pieces(file, _READ_SECONDS)), "memory": warm}


def _open_probe(folder: Path) -> IO[bytes]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder)
    except OSError:
        return tempfile.TemporaryFile()


def _read_pieces(file: IO[bytes], most_seconds: float) -> float:
    """Read rows of the probe in random order and return the bytes per second."""
    rows = np.memmap(file, dtype=np.uint8, mode="r", shape=(_READ_ROWS, _READ_BYTES))
    started, done = time.perf_counter(), 0
    for row in np.random.default_rng(0).permutation(_READ_ROWS):
        np.array(rows[row])
        done += 1
        if time.perf_counter() - started > most_seconds:
            break
    return done * _READ_BYTES / (time.perf_counter() - started)


def _wait(x: Tensor) -> None:
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
