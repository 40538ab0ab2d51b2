"""Predict with a kept model: files in, a table of labels and probabilities out, batch by batch."""

from __future__ import annotations

import csv
import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from graft.config.schema import TrainerConfig
from graft.data.decode import IMAGE_SUFFIXES, decode_image
from graft.data.folder import list_images
from graft.data.image_set import UInt8Array
from graft.data.preprocessing import Preprocessing
from graft.data.transforms import to_input
from graft.deliver.kept import KeptModel
from graft.deliver.scorer import Scorer
from graft.errors import GraftError
from graft.model.feature_files import open_beside
from graft.model.features import EXTRACTION_BATCH, choose_device

#: Told (done, total).
Progress = Callable[[int, int], None]

Result = TypeVar("Result")


@dataclass(frozen=True)
class BadFile:
    """A file that is no image that can be read, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Scores:
    """What a model says of some files.

    Attributes:
        files: The files that could be read.
        scores: Class scores, float32 ``(n, classes)``.
        bad: The others.
    """

    files: tuple[Path, ...]
    scores: npt.NDArray[np.float32]
    bad: tuple[BadFile, ...]


def find_files(given: Sequence[Path]) -> list[Path]:
    """Return the files that are given, and the images inside the folders that are, at any depth.

    Raises:
        GraftError: Something is not there, or a folder holds no image.
    """
    missing = [str(path) for path in given if not path.exists()]
    if missing:
        raise GraftError(
            f"Expected files or folders of images, but these do not exist: {', '.join(missing)}."
        )
    found: dict[Path, None] = {}
    for path in given:
        inside = list_images(path) if path.is_dir() else [path]
        if not inside:
            known = ", ".join(sorted(IMAGE_SUFFIXES))
            raise GraftError(f"Expected images in {path}, but it holds none. Known endings: {known}.")
        found |= dict.fromkeys(inside)
    return list(found)


def check_files(files: Sequence[Path], progress: Progress | None = None) -> list[BadFile]:
    """Decode every file, and return those that are no whole images."""
    bad: list[BadFile] = []
    for done, batch in _work_ahead(_check, files):
        bad += [one for one in batch if one is not None]
        if progress is not None:
            progress(done, len(files))
    return bad


def score_files(
    scorer: Scorer, preprocessing: Preprocessing, files: Sequence[Path], device: torch.device
) -> Iterator[Scores]:
    """Score files batch by batch, prepared as the run prepared its own; memory does not grow with them.

    Args:
        scorer: The model; moved to ``device``.
        preprocessing: How an image becomes its input.
        files: The files.
        device: Where to compute.
    """

    def prepare(path: Path) -> UInt8Array | BadFile:
        try:
            return to_input(decode_image(path), preprocessing).numpy()
        except GraftError as error:
            return BadFile(path, str(error))

    scorer.to(device)
    for done, batch in _work_ahead(prepare, files):
        named = files[done - len(batch) : done]
        bad = tuple(one for one in batch if isinstance(one, BadFile))
        read = [(path, one) for path, one in zip(named, batch, strict=True) if not isinstance(one, BadFile)]
        if not read:
            yield Scores((), np.empty((0, 0), np.float32), bad)
            continue
        images = torch.from_numpy(np.stack([image for _, image in read])).to(device)
        with torch.no_grad():
            scores = scorer(images)
        yield Scores(tuple(path for path, _ in read), scores.cpu().numpy(), bad)


def write_predictions(
    kept: KeptModel, files: Sequence[Path], out: Path, progress: Progress | None = None
) -> list[BadFile]:
    """Write path, label and the probability of each class for every file that can be read, as CSV.

    Args:
        kept: The model.
        files: The files.
        out: Takes the place of what was there before when all is written.
        progress: Told how many files are done.

    Returns:
        The files that could not be read, which the table leaves out.

    Raises:
        GraftError: No file can be read, or the table cannot be written.
    """
    bad: list[BadFile] = []
    done = 0
    with open_beside(out) as raw:
        # A name of a file may hold bytes that are no text.
        text = io.TextIOWrapper(raw, encoding="utf-8", errors="surrogateescape", newline="")
        table = csv.writer(text)
        table.writerow(["path", "label", *(f"probability_{name}" for name in kept.class_names)])
        device = choose_device(_one_device(kept.config.trainer))
        for part in score_files(Scorer(kept), kept.preprocessing, files, device):
            for path, row in zip(part.files, _probabilities(part.scores), strict=True):
                label = kept.class_names[int(row.argmax())]
                table.writerow([os.fspath(path), label, *(f"{value:.9g}" for value in row)])
            bad += part.bad
            done += len(part.files) + len(part.bad)
            if progress is not None:
                progress(done, len(files))
        if len(bad) == len(files):
            raise GraftError(f"Expected at least one image, but none of {len(files)} files can be read.")
        text.flush()
        text.detach()  # the file itself is brought to the disk by who opened it
    return bad


def _probabilities(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the softmax of scores ``(N, classes)``; a ridge head's temperature is in its scores."""
    if not np.isfinite(scores).all():
        raise GraftError("Expected finite scores of the model, but got NaN or infinity: it has diverged.")
    powers = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True, initial=-np.inf))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _one_device(trainer: TrainerConfig) -> TrainerConfig:
    """Return what names the device here: a run on GPUs may be used where there is none."""
    accelerator = "cpu" if trainer.accelerator == "cpu" else "auto"
    return replace(trainer, accelerator=accelerator, devices=1, num_nodes=1)


def _check(path: Path) -> BadFile | None:
    try:
        decode_image(path)
    except GraftError as error:
        return BadFile(path, str(error))
    return None


def _work_ahead(work: Callable[[Path], Result], files: Sequence[Path]) -> Iterator[tuple[int, list[Result]]]:
    """Yield how many files are done and the results of a batch; threads do the next one meanwhile."""
    batches = [files[start : start + EXTRACTION_BATCH] for start in range(0, len(files), EXTRACTION_BATCH)]
    # Threads that silence warnings each for themselves would leave them silenced for all.
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        ahead: list[list[Future[Result]]] = []
        done = 0
        try:
            for batch in [*batches, []]:
                ahead.append([pool.submit(work, path) for path in batch])
                if len(ahead) == 2:
                    results = [future.result() for future in ahead.pop(0)]
                    done += len(results)
                    yield done, results
        finally:
            pool.shutdown(cancel_futures=True)
