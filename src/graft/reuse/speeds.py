"""How fast this machine computes the stages of a network and reads what it kept: measured once, and kept."""

from __future__ import annotations

import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graft.data.measured import measure_once
from graft.data.transforms import normalise
from graft.reuse.cost import Chain
from graft.reuse.prefix import Prefix

_REPEATS = 2
_READ_ROWS, _READ_BYTES = 256, 64 << 10


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
    found = measure_once(folder, "speeds", (*same, torch.__version__, threads), lambda: _measure(prefix))
    stages = range(1, prefix.depth + 1)
    return Chain(
        seconds=[found[f"seconds/{stage}"] for stage in stages],
        sizes=[int(found[f"bytes/{stage}"]) for stage in stages],
        bytes_per_second=found["read"],
    )


def _measure(prefix: Prefix) -> dict[str, float]:
    prefix.backbone.eval().to(prefix.device)
    rows = np.arange(prefix.batch_size) % len(prefix.pixels)
    pixels = torch.from_numpy(np.array(prefix.pixels[rows])).to(prefix.device)
    found = {"read": _measure_reading()}
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
            found[f"bytes/{stage}"] = float(x[0].numel() * x.element_size())
    return found


def _measure_reading() -> float:
    """Return how many bytes a second are read from a file through a memory map, in pieces."""
    with tempfile.TemporaryFile() as file:
        file.write(bytes(_READ_ROWS * _READ_BYTES))
        file.flush()
        rows = np.memmap(file, dtype=np.uint8, mode="r", shape=(_READ_ROWS, _READ_BYTES))
        order = np.random.default_rng(0).permutation(_READ_ROWS)
        started = time.perf_counter()
        np.array(rows[order])
        return _READ_ROWS * _READ_BYTES / (time.perf_counter() - started)


def _wait(x: Tensor) -> None:
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
