"""What no sharing can avoid, run alone: the bare loops that `reuse.py` holds its times against."""

from __future__ import annotations

import contextlib
import copy
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torchvision.models import get_model

from graft.data.transforms import normalise
from graft.inputs import View, build_model, open_view
from graft.model.classifier import Classifier
from graft.model.freeze import parameter_groups
from graft.plan.spec import RunSpec
from graft.train.optim import build_optimizer, schedule_factor

EVALUATED = 256


def write_random_weights(folder: Path, name: str) -> str:
    """Write the state dict of a network as it is drawn, for those who have no weights at hand."""
    torch.manual_seed(0)
    file = folder / f"{name}.safetensors"
    save_file(get_model(name, num_classes=10).state_dict(), file)
    return str(file)


@contextlib.contextmanager
def plain_torch() -> Iterator[None]:
    """Let Adam ask for GPUs as it does where Lightning is not imported: quickly."""
    before = os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    yield
    if before is not None:
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = before


@torch.no_grad()
def send(classifier: Classifier, view: View, rows: np.ndarray, depth: int) -> Tensor:
    """Return what leaves stage ``depth`` for images ``rows``, 64 at a time."""
    classifier.eval()
    parts = []
    for start in range(0, len(rows), 64):
        pixels = torch.from_numpy(np.array(view.pixels[rows[start : start + 64]]))
        x = normalise(pixels, view.preprocessing)
        for stage in range(1, depth + 1):
            x = classifier.backbone.stage(stage)(x)
        parts.append(x)
    classifier.train()
    return torch.cat(parts)


def count_images(specs: Sequence[RunSpec]) -> int:
    """Return the number of images that runs draw, each once."""
    splits = [open_view(spec).split for spec in specs]
    return len(np.unique(np.concatenate([part for one in splits for part in (one.train, one.val, one.test)])))


def time_pass(specs: Sequence[RunSpec]) -> float:
    """Return the seconds of one pass of all their images through the frozen stages."""
    view = open_view(specs[0])
    splits = [open_view(spec).split for spec in specs]
    rows = np.unique(np.concatenate([part for one in splits for part in (one.train, one.val, one.test)]))
    classifier, _ = build_model(specs[0], view.images)
    send(classifier, view, rows[:64], 5)
    started = time.perf_counter()
    send(classifier, view, rows, max(spec.config.transfer.freeze_depth for spec in specs))
    return time.perf_counter() - started


def time_suffixes(specs: Sequence[RunSpec]) -> float:
    """Return the seconds of training and validating what is not frozen, one run after another.

    The activations before it are ready; where nothing is frozen, so are the normalised images.
    """
    total = 0.0
    models: dict[int, Classifier] = {}
    kept: dict[int, list[Tensor]] = {}
    for spec in specs:
        view = open_view(spec)
        if spec.seed not in models:
            models[spec.seed] = build_model(spec, view.images)[0]
        depth = spec.config.transfer.freeze_depth
        alone = depth < 5 or len(specs) == 1
        classifier = models[spec.seed] if alone else Classifier(
            models[spec.seed].backbone, copy.deepcopy(models[spec.seed].head)
        )  # fmt: skip
        rows = [view.split.train, view.split.val]
        if spec.seed not in kept:
            classifier.backbone.entry = 0
            kept[spec.seed] = [send(classifier, view, part, depth) for part in rows]
        ready = kept[spec.seed]
        labels = [torch.from_numpy(view.images.labels[part]) for part in rows]
        classifier.backbone.entry = depth
        with plain_torch():
            measured = _train(spec, classifier, ready, labels)
            total += sum(sum(steps) + validating for steps, validating in measured)
    return total


def time_parts(spec: RunSpec, epochs: int, images: int) -> float:
    """Return what `time_suffixes` would for so many epochs of so many images, from some of both.

    Of steps the median counts, as it does where runs are extended.
    """
    view, depth = open_view(spec), spec.config.transfer.freeze_depth
    classifier = build_model(spec, view.images)[0]
    rows = [view.split.train, view.split.val]
    ready = [send(classifier, view, part, depth) for part in rows]
    classifier.backbone.entry = depth
    with plain_torch():
        measured = _train(
            spec, classifier, ready, [torch.from_numpy(view.images.labels[part]) for part in rows]
        )
    steps = [step for epoch, _ in measured[1:] for step in epoch]
    validating = statistics.median(seconds for _, seconds in measured[1:])
    return epochs * (statistics.median(steps) * (images // spec.config.data.batch_size) + validating)


def _train(
    spec: RunSpec, classifier: Classifier, ready: Sequence[Tensor], labels: Sequence[Tensor]
) -> list[tuple[list[float], float]]:
    """Train, and return the seconds of each epoch's steps and of its validation."""
    seconds = []
    epochs, count = spec.config.trainer.epochs, len(ready[0])
    batch = spec.config.data.batch_size
    steps = count // batch
    optimizer = build_optimizer(spec.config.optim, parameter_groups(classifier))
    schedule = LambdaLR(optimizer, schedule_factor(spec.config.optim, epochs * steps))
    for _ in range(epochs):
        took = []
        order = torch.randperm(count)
        classifier.train()
        for step in range(steps):
            started = time.perf_counter()
            rows = order[step * batch : (step + 1) * batch]
            loss = F.cross_entropy(classifier(ready[0][rows]), labels[0][rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            took.append(time.perf_counter() - started)
        trained = time.perf_counter()
        classifier.eval()
        with torch.no_grad():
            said = [classifier(ready[1][i : i + EVALUATED]) for i in range(0, len(ready[1]), EVALUATED)]
        (torch.cat(said).argmax(1) == labels[1]).float().mean().item()
        seconds.append((took, time.perf_counter() - trained))
    return seconds
