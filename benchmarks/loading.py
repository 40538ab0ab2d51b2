"""How fast graft feeds images, beside torchvision's ImageFolder and DataLoader in the same run.

    python benchmarks/loading.py <folder of small images> [--epochs 20] [--large 2000] [--small 10000]

Large: JPEGs of 500x375 pixels, mosaics of the folder's images at 40 to 120 kB each, resized to 256 and
cropped to 224. Small: the folder's images at 32x32. Both sides read the same files, give float batches of 32
that are normalised, and start with nothing but the files; the first epoch has everything that happens once:
listing, hashing, decoding, writing and checking the cache. The naive side is taken at its best number of
workers.

Writes loading.json and loading.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms._presets import ImageClassification

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
NAIVE_EPOCHS = 2
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


def measure_case(name: str, folder: Path, work: Path, epochs: int) -> dict[str, Any]:
    """Time both sides on one folder; naive epochs lie on both sides of graft's first one."""
    size, resize, first_bound, later_bound = CASES[name]
    firsts, laters = {}, {}

    def run_naive(workers: int) -> None:
        opened = open_naive(folder, size, resize, workers)
        times = [timed(lambda: count_images(opened))[0] for _ in range(NAIVE_EPOCHS)]
        firsts.setdefault(workers, []).append(times[0])
        laters.setdefault(workers, []).extend(times[1:])

    def begin_graft(cache: Path) -> tuple[Epoch, ImageDataModule]:
        opened = open_graft(folder, size, resize, cache)
        count_images(opened[0])
        return opened

    ours_first, opened = [], None
    for attempt in range(2):
        for workers in WORKERS:
            run_naive(workers)
        seconds, opened = timed(lambda attempt=attempt: begin_graft(work / f"cache-{name}-{attempt}"))
        ours_first.append(seconds)
    epoch, data = opened
    later, memory = [], []
    for _ in range(epochs):
        later.append(timed(lambda: count_images(epoch))[0])
        memory.append(read_memory())
    best_first = min(median(times) for times in firsts.values())
    workers, best_later = min(((w, median(times)) for w, times in laters.items()), key=lambda pair: pair[1])
    return {
        "images": len(data.pixels),
        "naive_first_seconds": best_first,
        "naive_later_seconds": best_later,
        "naive_best_workers": workers,
        "naive_later_by_workers": {str(w): median(times) for w, times in laters.items()},
        "graft_first_seconds": median(ours_first),
        "graft_later_seconds": median(later),
        "first_ratio": best_first / median(ours_first),
        "first_bound": first_bound,
        "later_ratio": best_later / median(later),
        "later_bound": later_bound,
        "largest_difference": largest_difference(folder, data, size, resize),
        "memory_first_epoch_mb": memory[0],
        "memory_last_epoch_mb": memory[-1],
        "epochs": epochs,
    }


def describe_machine() -> dict[str, str]:
    cpu = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")),
        platform.processor(),
    )  # fmt: skip
    return {
        "date": date.today().isoformat(),
        "cpu": cpu,
        "cores": str(len(os.sched_getaffinity(0))),
        "load_average_before": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "pillow": Image.__version__,
    }


def write_report(report: dict[str, Any], folder: Path) -> None:
    (folder / "loading.json").write_text(json.dumps(report, indent=1) + "\n")
    machine = report["machine"]
    lines = [
        "# Feeding images",
        "",
        "Made by `python benchmarks/loading.py <folder of small images>`; see its docstring.",
        "",
        ", ".join(f"{key} {value}" for key, value in machine.items()),
        "",
        "| images | epoch | ImageFolder + DataLoader, s | graft, s | ratio | bound |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name, case in report["cases"].items():
        for which in ("first", "later"):
            lines.append(
                f"| {case['images']:,} {name} | {which} | {case[f'naive_{which}_seconds']:.2f} "
                f"| {case[f'graft_{which}_seconds']:.2f} | {case[f'{which}_ratio']:.1f} "
                f"| {case[f'{which}_bound']:g} |"
            )
    for name, case in report["cases"].items():
        first, last = case["memory_first_epoch_mb"], case["memory_last_epoch_mb"]
        said = (
            f"{name}: 90 % of the files have {case['file_kb_low']:.1f} to {case['file_kb_high']:.1f} kB; "
            f"DataLoader best with {case['naive_best_workers']} workers; largest difference of values "
            f"{case['largest_difference']:g}; memory after the first and last of {case['epochs']} epochs: "
            f"own {first['RssAnon']} and {last['RssAnon']} MB, mapped files {first['RssFile']} and "
            f"{last['RssFile']} MB."
        )
        lines += ["", said]
    (folder / "loading.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="folder of small images, searched at any depth")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--large", type=int, default=2000)
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    report: dict[str, Any] = {"machine": describe_machine(), "cases": {}}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        tiles = read_tiles(given.source, 10_000, rng)
        composers = {"large": (compose_large, given.large), "small": (compose_small, given.small)}
        for case, (compose, count) in composers.items():
            sizes = compose(work / case, count, tiles, rng)
            measured = measure_case(case, work / case, work, given.epochs)
            low, high = np.percentile(sizes, [5, 95]) / 1000
            report["cases"][case] = measured | {"file_kb_low": float(low), "file_kb_high": float(high)}
            print(json.dumps({case: report["cases"][case]}, indent=1), flush=True)
    write_report(report, given.out)


if __name__ == "__main__":
    main()
