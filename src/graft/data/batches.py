"""Batches by step and by process: which images, with which weights, seen as what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from graft.data.image_set import Int64Array, UInt8Array
from graft.data.schedule import BatchSchedule, Float32Array, share

Batch = dict[str, Any]
"""image ``(n, C, H, W)``, label, index and weight ``(n,)``, and the ints step and part.

Mixed images have other_label and share ``(n,)``, too, see `graft.data.mixing`.
"""


class Rows(Protocol):
    """What a network sees of each image, by its position in the data set."""

    def read(self, rows: Int64Array) -> torch.Tensor:
        """Return the inputs of ``rows`` ``(n,)``, ``(n, ...)``."""


@dataclass(frozen=True)
class PixelRows:
    """Images as they are, to be augmented and normalised."""

    pixels: UInt8Array

    def read(self, rows: Int64Array) -> torch.Tensor:
        """Return uint8 ``(n, C, H, W)``."""
        return torch.from_numpy(self.pixels[rows])


@dataclass(frozen=True)
class Activations:
    """Activations of frozen stages, computed before the run: nothing is left to do to them.

    Attributes:
        plain: Of every image as it is.
        views: Of the deterministic versions of the training images; empty where training sees them as they
            are.
    """

    plain: Rows
    views: Sequence[Rows] = ()


class RoundSampler(Sampler[tuple[int, int]]):
    """Yields (step, micro-batch) from the trainer's step to the end of its round.

    It has no length on purpose: Lightning keeps the length of the first round, and would not validate after a
    last round that is shorter.
    """

    def __init__(
        self, steps_per_round: int, total_steps: int, accumulate: int, start: Callable[[], int]
    ) -> None:
        self.steps_per_round = steps_per_round
        self.total_steps = total_steps
        self.accumulate = accumulate
        self.start = start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        start = self.start()
        end = min((start // self.steps_per_round + 1) * self.steps_per_round, self.total_steps)
        for step in range(start, end):
            for micro in range(self.accumulate):
                yield step, micro


class TrainingBatches(Dataset[Batch]):
    """The part of one process of each micro-batch, by (step, micro-batch)."""

    def __init__(
        self,
        inputs: Callable[[int], Rows],
        labels: Int64Array,
        schedule: BatchSchedule,
        rank: int,
        world: int,
        accumulate: int,
        image_weights: Float32Array | None = None,
    ) -> None:
        self.inputs = inputs
        self.labels = labels
        self.schedule = schedule
        self.rank = rank
        self.world = world
        self.accumulate = accumulate
        self.image_weights = image_weights

    def __getitem__(self, item: tuple[int, int]) -> Batch:
        step, micro = item
        indices, weights = share(self.schedule.batch(step), self.rank, self.world, micro, self.accumulate)
        if self.image_weights is not None:
            weights = weights * self.image_weights[indices]
        part = micro * self.world + self.rank
        return _gather(self.inputs(step), self.labels, indices, weights, step, part)


class EvaluationBatches(Dataset[Batch], Sized):
    """The part of one process of each evaluation batch; all processes have equally many.

    Where a part would be empty, it has one image with weight 0.
    """

    def __init__(
        self,
        inputs: Rows,
        labels: Int64Array,
        indices: Int64Array,
        rank: int,
        world: int,
        batch_size: int,
        limit_batches: int | None,
    ) -> None:
        self.inputs = inputs
        self.labels = labels
        self.indices = indices
        self.rank = rank
        self.world = world
        self.stride = batch_size * world
        whole = -(-len(indices) // self.stride)
        self.length = whole if limit_batches is None else min(whole, limit_batches)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, item: int) -> Batch:
        if not 0 <= item < self.length:
            raise IndexError(item)
        batch = self.indices[item * self.stride : (item + 1) * self.stride]
        part = batch[self.rank :: self.world]
        weights = np.ones(len(part), dtype=np.float32)
        if len(part) == 0:
            part, weights = batch[:1], np.zeros(1, dtype=np.float32)
        return _gather(self.inputs, self.labels, part, weights, item, self.rank)


def _gather(
    inputs: Rows, labels: Int64Array, indices: Int64Array, weights: Any, step: int, part: int
) -> Batch:
    return {
        "image": inputs.read(indices),
        "label": torch.from_numpy(labels[indices]),
        "index": torch.from_numpy(np.ascontiguousarray(indices)),
        "weight": torch.from_numpy(weights),
        "step": step,
        "part": part,
    }
