"""The order of batches: a pure function of (seed, step), so that a run can go on from any step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from graft.data.image_set import Int64Array

Float32Array = npt.NDArray[np.float32]


class BatchSchedule:
    """Passes over images, each in an order of its own, cut into batches.

    A last batch of one joins the batch before: BatchNorm cannot train on a single image. Fewer images than
    ``batch_size`` are one batch.

    Args:
        indices: The training images, ``(n,)``.
        batch_size: Images per optimizer step.
        seed: Seed of the orders.
        order: Returns the ``n`` draws of a pass, by its number from 0; ``None`` for each image once.
    """

    def __init__(
        self,
        indices: Int64Array,
        batch_size: int,
        seed: int,
        order: Callable[[int], Int64Array] | None = None,
    ) -> None:
        if len(indices) == 0:
            raise ValueError("Expected at least one image to train on, but got none.")
        self.indices = np.asarray(indices, dtype=np.int64)
        self.batch_size = batch_size
        self.seed = seed
        self.steps_per_pass = count_steps_per_pass(len(indices), batch_size)
        self._draw = order or self._shuffle
        self._ordered: tuple[int, Int64Array] | None = None

    def batch(self, step: int) -> Int64Array:
        """Return the images of optimizer step ``step``, counted from 0 over the whole run."""
        number, position = divmod(step, self.steps_per_pass)
        order = self._order(number)
        start = position * self.batch_size
        last = position == self.steps_per_pass - 1
        return order[start:] if last else order[start : start + self.batch_size]

    def _order(self, number: int) -> Int64Array:
        """Return the order of one pass; the latest is kept, because steps come one after the other."""
        if self._ordered is None or self._ordered[0] != number:
            self._ordered = (number, self._draw(number))
        return self._ordered[1]

    def _shuffle(self, number: int) -> Int64Array:
        return np.random.default_rng([self.seed, number]).permutation(self.indices)


def count_steps_per_pass(images: int, batch_size: int) -> int:
    """Count the batches of one pass.

    >>> [count_steps_per_pass(n, 32) for n in (1, 31, 32, 33, 34, 65)]
    [1, 1, 1, 1, 2, 2]
    """
    full, rest = divmod(images, batch_size)
    return max(1, full + (rest > 1))


def share(
    batch: Int64Array, rank: int, world: int, micro: int, accumulate: int
) -> tuple[Int64Array, Float32Array]:
    """Return the part of one process and one micro-batch, with the weights that keep the loss whole.

    The sum of ``weight * loss`` over a part, averaged over processes (as DDP does with gradients) and over
    micro-batches (as gradient accumulation does), is the mean loss of the whole batch. A part that would be
    empty has one image with weight 0, because every process must take the step.

    Args:
        batch: Images of one optimizer step, ``(n,)``.
        rank: This process, from 0.
        world: Number of processes.
        micro: This micro-batch, from 0.
        accumulate: Micro-batches per optimizer step.

    Returns:
        Indices ``(m,)`` and weights ``(m,)``.
    """
    parts = world * accumulate
    part = batch[micro * world + rank :: parts]
    if len(part) == 0:
        return batch[:1], np.zeros(1, dtype=np.float32)
    return part, np.full(len(part), parts / len(batch), dtype=np.float32)
