"""How fast graft feeds images, beside torchvision's ImageFolder and DataLoader in the same process.

    python benchmarks/loading.py <folder of small images>

Large: 2,000 JPEGs of 500x375 pixels, mosaics of the folder's images at 40 to 120 kB each, resized to 256 and
cropped to 224. Small: 10,000 of the folder's images at 32x32. Both sides read the same files, give float
batches of 32 that are normalised, and start with nothing but the files; the first epoch has everything that
happens once: listing, hashing, decoding, writing and checking the cache, starting processes. The plain side
is taken at its best number of workers, which the first of three interleaved repeats finds.

Claims, of medians: the first epoch at least 0.9 times as fast as the plain side's; later ones at least 5
times for the large images and 10 times for the small ones. And memory is flat: its peak in the second half of
20 epochs is that of the first half, give or take two batches, which come and go.

Run it on a quiet machine. It writes loading.json and loading.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms._presets import ImageClassification

from graft import __version__
from graft.config.schema import DataConfig
from graft.data.catalog import open_images
from graft.data.datamodule import ImageDataModule
from graft.data.pixels import prepare_pixels
from graft.data.preprocessing import Preprocessing
from graft.data.schedule import count_steps_per_pass
from graft.data.splits import Split

BATCH = 32
CLASSES = 10
WORKERS = (0, 1, 2)
REPEATS = 3
#: Own memory and mapped files together; a large batch as float32 has 19 MB.
MOST_GROWTH_MB = 40
SIDE = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Case: (size, resize, least ratio of the first epoch, least ratio of later ones).
CASES = {"large": (224, 256, 0.9, 5.0), "small": (SIDE, SIDE, 0.9, 10.0)}

Epoch = Callable[[], Iterator[Tensor]]


def read_tiles(source: Path, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return up to ``count`` images of the folder, uint8 ``(N, 32, 32, 3)``."""
    endings = {".jpg", ".jpeg", ".png"}
    files = sorted(file for file in source.rglob("*") if file.suffix.lower() in endings)
    chosen = rng.choice(len(files), min(count, len(files)), replace=False)
    return np.stack(
        [np.asarray(Image.open(files[i]).convert("RGB").resize((SIDE, SIDE))) for i in chosen.tolist()]
    )


def compose_large(folder: Path, count: int, tiles: np.ndarray, rng: np.random.Generator) -> list[int]:
    """Write mosaics of 500x375 pixels, and return the sizes of the files in bytes."""
    rows, columns, sizes = 8, 10, []
    for index in range(count):
        drawn = tiles[rng.integers(0, len(tiles), (rows, columns))]
        mosaic = drawn.transpose(0, 2, 1, 3, 4).reshape(rows * SIDE, columns * SIDE, 3)
        image = Image.fromarray(mosaic).resize((500, 400), Image.Resampling.BICUBIC).crop((0, 0, 500, 375))
        file = folder / f"class{index % CLASSES}" / f"{index:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file, quality=int(rng.integers(72, 90)))
        sizes.append(file.stat().st_size)
    return sizes


def compose_small(folder: Path, count: int, tiles: np.ndarray, rng: np.random.Generator) -> list[int]:
    """Write images of 32x32 pixels as JPEG, and return the sizes of the files in bytes."""
    sizes = []
    for index in range(count):
        file = folder / f"class{index % CLASSES}" / f"{index:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tiles[index % len(tiles)]).save(file, quality=95)
        sizes.append(file.stat().st_size)
    return sizes


def open_naive(folder: Path, size: int, resize: int, workers: int) -> Epoch:
    """Open the folder as torchvision's own examples do."""
    transform = ImageClassification(crop_size=size, resize_size=resize, mean=MEAN, std=STD)
    loader = DataLoader(
        ImageFolder(folder, transform), batch_size=BATCH, shuffle=True, num_workers=workers,
        persistent_workers=workers > 0,
    )  # fmt: skip
    return lambda: (images for images, _ in loader)


def open_graft(folder: Path, size: int, resize: int, cache: Path) -> tuple[Epoch, ImageDataModule]:
    """Open the folder as a run does, with every image in training."""
    images = open_images(DataConfig(name="folder", root=str(folder)), cache)
    preprocessing = Preprocessing(3, size, resize, "bilinear", True, MEAN, STD)
    pixels = prepare_pixels(images, preprocessing, cache)
    steps = count_steps_per_pass(len(images), BATCH)
    none = np.array([], dtype=np.int64)
    data = ImageDataModule(
        pixels=pixels, labels=images.labels, split=Split(np.arange(len(images)), none, none, ""),
        preprocessing=preprocessing, batch_size=BATCH, seed=0, steps_per_round=steps, total_steps=10**6,
    )  # fmt: skip
    trainer = SimpleNamespace(global_step=0, global_rank=0, world_size=1, training=True)
    data.trainer = trainer  # type: ignore[assignment]

    def epoch() -> Iterator[Tensor]:
        for batch in data.train_dataloader():
            yield data.on_after_batch_transfer(batch, 0)["image"]
        trainer.global_step += steps

    return epoch, data


def count_images(epoch: Epoch) -> int:
    return sum(len(images) for images in epoch())


def read_memory() -> dict[str, int]:
    """Return this process's own memory and the pages it maps from files, MB."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {key: int(status[key].split()[0]) // 1024 for key in ("RssAnon", "RssFile")}


def largest_difference(folder: Path, data: ImageDataModule, size: int, resize: int) -> float:
    """Compare graft's first images with torchvision's own transform of the same files."""
    transform = ImageClassification(crop_size=size, resize_size=resize, mean=MEAN, std=STD)
    files = [file for file, _ in ImageFolder(folder).samples[:50]]
    theirs = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
    batch = {"image": torch.from_numpy(np.array(data.pixels[:50])), "step": 0, "part": 0}
    return float((data.on_after_batch_transfer(batch, 0)["image"] - theirs).abs().max())


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = action()
    return time.perf_counter() - started, result


def find_best(times: dict[int, list[float]]) -> int:
    """Return the number of workers with the least median."""
    return min(times, key=lambda workers: median(times[workers]))


class Case:
    """Both sides on one folder of images."""

    def __init__(self, name: str, folder: Path, work: Path) -> None:
        self.name, self.folder, self.work = name, folder, work
        self.size, self.resize, self.first_bound, self.later_bound = CASES[name]
        self.plain_first: dict[int, list[float]] = defaultdict(list)
        self.plain_later: dict[int, list[float]] = defaultdict(list)
        self.graft_first: list[float] = []

    def run_plain(self, workers: int) -> None:
        """Time the first and the second epoch of ImageFolder and DataLoader."""

        def begin() -> Epoch:
            epoch = open_naive(self.folder, self.size, self.resize, workers)
            count_images(epoch)
            return epoch

        seconds, epoch = timed(begin)
        self.plain_first[workers].append(seconds)
        self.plain_later[workers].append(timed(lambda: count_images(epoch))[0])

    def run_graft(self) -> tuple[Epoch, ImageDataModule]:
        """Time graft's first epoch, from an empty cache."""
        cache = self.work / f"cache-{self.name}-{len(self.graft_first)}"

        def begin() -> tuple[Epoch, ImageDataModule]:
            epoch, data = open_graft(self.folder, self.size, self.resize, cache)
            count_images(epoch)
            return epoch, data

        seconds, opened = timed(begin)
        self.graft_first.append(seconds)
        return opened

    def measure(self, epochs: int) -> dict[str, Any]:
        """Time first epochs by turns, then graft's later ones, and look at the memory after each."""
        for repeat in range(REPEATS):
            best = {find_best(self.plain_first), find_best(self.plain_later)} if repeat else WORKERS
            if repeat % 2:
                opened = self.run_graft()
            for workers in best:
                self.run_plain(workers)
            if not repeat % 2:
                opened = self.run_graft()
        epoch, data = opened
        later, memory = [], []
        for _ in range(epochs):
            later.append(timed(lambda: count_images(epoch))[0])
            memory.append(read_memory())
        return self.summarise(later, memory) | {
            "images": len(data.pixels),
            "largest_difference": largest_difference(self.folder, data, self.size, self.resize),
        }

    def summarise(self, later: list[float], memory: list[dict[str, int]]) -> dict[str, Any]:
        """Reduce the times to medians, and say whether the claims hold."""
        best_first, best_later = find_best(self.plain_first), find_best(self.plain_later)
        plain_first, plain_later = median(self.plain_first[best_first]), median(self.plain_later[best_later])
        totals, half = [sum(after.values()) for after in memory], len(memory) // 2
        growth = max(totals[half:]) - max(totals[:half])
        result: dict[str, Any] = {
            "plain_first_seconds": plain_first,
            "plain_later_seconds": plain_later,
            "plain_first_best_workers": best_first,
            "plain_later_best_workers": best_later,
            "plain_first_all": dict(self.plain_first),
            "plain_later_all": dict(self.plain_later),
            "graft_first_seconds": median(self.graft_first),
            "graft_later_seconds": median(later),
            "graft_first_all": self.graft_first,
            "graft_later_all": later,
            "first_ratio": plain_first / median(self.graft_first),
            "first_bound": self.first_bound,
            "later_ratio": plain_later / median(later),
            "later_bound": self.later_bound,
            "memory_mb": memory,
            "memory_peak_mb": max(totals),
            "memory_growth_mb": growth,
        }
        result["holds"] = (
            result["first_ratio"] >= self.first_bound
            and result["later_ratio"] >= self.later_bound
            and growth <= MOST_GROWTH_MB
        )
        return result


def describe_machine() -> dict[str, str]:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": model,
        "cores": str(len(os.sched_getaffinity(0))),
        "load before": f"{os.getloadavg()[0]:.1f}",
        "torch threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "graft": __version__,
    } | {package: version(package) for package in ("torch", "torchvision", "pillow")}


def render(report: dict[str, Any]) -> str:
    lines = [
        "# Feeding images",
        "",
        "Made by `python benchmarks/loading.py <folder of small images>`; see its docstring.",
        "",
        f"Medians of {REPEATS} interleaved repeats. "
        + ", ".join(f"{key} {value}" for key, value in report["machine"].items())
        + ".",
        "",
        "| images | epoch | ImageFolder + DataLoader, s | graft, s | times as fast | at least | holds |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for name, case in report["cases"].items():
        for which in ("first", "later"):
            ratio, bound = case[f"{which}_ratio"], case[f"{which}_bound"]
            lines.append(
                f"| {case['images']:,} {name} | {which} | {case[f'plain_{which}_seconds']:.2f} "
                f"| {case[f'graft_{which}_seconds']:.2f} | {ratio:.2f} | {bound:g} "
                f"| {'yes' if ratio >= bound else 'NO'} |"
            )
    for name, case in report["cases"].items():
        first, last = case["memory_mb"][0], case["memory_mb"][-1]
        said = (
            f"{name}: 90 % of the files have {case['file_kb_low']:.1f} to {case['file_kb_high']:.1f} kB; "
            f"DataLoader is best with {case['plain_first_best_workers']} workers in the first epoch, with "
            f"{case['plain_later_best_workers']} later; largest difference of values "
            f"{case['largest_difference']:g}. Memory after the first and the last epoch of "
            f"{len(case['memory_mb'])}: own {first['RssAnon']} and {last['RssAnon']} MB, mapped files "
            f"{first['RssFile']} and {last['RssFile']} MB; peak {case['memory_peak_mb']} MB, higher in the "
            f"second half than in the first by {case['memory_growth_mb']} MB (at most {MOST_GROWTH_MB})."
        )
        lines += ["", said]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="folder of small images, searched at any depth")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--large", type=int, default=2000)
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    report: dict[str, Any] = {"machine": describe_machine(), "repeats": REPEATS, "cases": {}}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        tiles = read_tiles(given.source, 10_000, rng)
        composers = {"large": (compose_large, given.large), "small": (compose_small, given.small)}
        for case, (compose, count) in composers.items():
            sizes = compose(work / case, count, tiles, rng)
            low, high = np.percentile(sizes, [5, 95]) / 1000
            measured = Case(case, work / case, work).measure(given.epochs)
            report["cases"][case] = measured | {"file_kb_low": float(low), "file_kb_high": float(high)}
    text = render(report)
    print(text)
    (given.out / "loading.json").write_text(json.dumps(report, indent=1) + "\n")
    (given.out / "loading.md").write_text(text)
    return 0 if all(case["holds"] for case in report["cases"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
