"""Feeds Lightning: batches by step, parts by process, pixels straight from the shared map.

A Lightning epoch is one *round*: the optimizer steps between two validations. Where a round starts is read
from the trainer's count of optimizer steps, so a run that is resumed, even inside a round, sees exactly the
batches that an uninterrupted one would. The trainer must not replace the sampler:
``Trainer(use_distributed_sampler=False)``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from graft.config.schema import AugmentConfig
from graft.data.balance import BalancedOrder
from graft.data.batches import (
    Activations,
    Batch,
    EvaluationBatches,
    PixelRows,
    RoundSampler,
    Rows,
    TrainingBatches,
)
from graft.data.image_set import Int64Array, UInt8Array
from graft.data.mixing import mix_images
from graft.data.preprocessing import Preprocessing
from graft.data.schedule import BatchSchedule, Float32Array
from graft.data.splits import Split
from graft.data.transforms import augment_views, build_augmentation, normalise, seed_generator
from graft.errors import GraftError

#: Keeps the numbers that mix images apart from those that augment them.
_MIXING = 1


class ImageDataModule(pl.LightningDataModule):
    """The batches of one run.

    Args:
        pixels: All images, uint8 ``(N, C, H, W)``.
        labels: Class of each image, ``(N,)``.
        split: Which images train, choose and test.
        preprocessing: For mean and std.
        batch_size: Images per optimizer step, over all processes and micro-batches.
        seed: Draws the order of batches and the augmentation.
        augment: Augmentation, mixing and views; ``None`` for none of them.
        balance: Whether ``sampler`` draws every class equally often.
        accumulate: Micro-batches per optimizer step.
        workers: Processes that read batches; 0 for none.
        limit_batches: Batches of each evaluation, or ``None`` for all.
        steps_per_round: Optimizer steps between validations; the last round may be shorter.
        total_steps: Optimizer steps of the run.
        image_weights: How much each image counts in training, ``(N,)``, relative to the mean over the
            training images; ``None`` for all alike.
        activations: Come in the place of images, ``None`` for none.
    """

    def __init__(
        self,
        *,
        pixels: UInt8Array,
        labels: Int64Array,
        split: Split,
        preprocessing: Preprocessing,
        batch_size: int,
        seed: int,
        steps_per_round: int,
        total_steps: int,
        augment: AugmentConfig | None = None,
        balance: str = "none",
        accumulate: int = 1,
        workers: int = 0,
        limit_batches: int | None = None,
        image_weights: npt.NDArray[np.float64] | None = None,
        activations: Activations | None = None,
    ) -> None:
        super().__init__()
        # A memory map indexes faster through a plain array on the same memory.
        self.pixels = np.asarray(pixels)
        self.inputs: Rows = activations.plain if activations else PixelRows(self.pixels)
        self.activations = activations
        self.labels = np.asarray(labels, dtype=np.int64)
        self.image_weights = _relative(image_weights, split.train)
        self.split = split
        self.preprocessing = preprocessing
        order = BalancedOrder(split.train, self.labels[split.train], seed) if balance == "sampler" else None
        self.schedule = BatchSchedule(split.train, batch_size, seed, order)
        self.seed = seed
        self.steps_per_round = steps_per_round
        self.total_steps = total_steps
        self.accumulate = accumulate
        self.workers = workers
        self.limit_batches = limit_batches
        self.evaluation_batch_size = max(batch_size, 256 if preprocessing.size <= 64 else 64)
        self.augment = augment or AugmentConfig()
        self._augment = build_augmentation(self.augment.name)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the micro-batches of the round that the trainer is in."""
        trainer = self._require_trainer()
        batches = TrainingBatches(
            self.find_inputs,
            self.labels,
            self.schedule,
            trainer.global_rank,
            trainer.world_size,
            self.accumulate,
            self.image_weights,
        )
        sampler = RoundSampler(
            self.steps_per_round, self.total_steps, self.accumulate, start=lambda: trainer.global_step
        )
        return self._load(batches, sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return validation, each image once over all processes."""
        return self._load_evaluation(self.split.val)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return test, each image once over all processes."""
        return self._load_evaluation(self.split.test)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment training images, normalise all, and mix training images, on the device they are on."""
        if self.activations is not None:
            return batch
        training = self._require_trainer().training
        images = self._augment_batch(batch) if training and self.augment.name != "none" else batch["image"]
        ready = {**batch, "image": normalise(images, self.preprocessing)}
        if not training or not (self.augment.mixup or self.augment.cutmix):
            return ready
        generator = seed_generator(self.seed, batch["step"], batch["part"], _MIXING)
        mixed = mix_images(ready["image"], self.augment.mixup, self.augment.cutmix, generator)
        other = batch["label"][mixed.partner]
        return {**ready, "image": mixed.images, "other_label": other, "share": mixed.share}

    def _augment_batch(self, batch: Batch) -> torch.Tensor:
        """Return fresh versions of the images, or the view whose turn it is in this pass."""
        if self.augment.views is None:
            return self._augment(batch["image"], seed_generator(self.seed, batch["step"], batch["part"]))
        view = self._view(batch["step"])
        return augment_views(self._augment, batch["image"], batch["index"].tolist(), view, self.seed)

    def _view(self, step: int) -> int:
        """Return which version of the training images an optimizer step sees."""
        return step // self.schedule.steps_per_pass % (self.augment.views or 1)

    def find_inputs(self, step: int) -> Rows:
        """Return what an optimizer step reads of each image."""
        views = self.activations.views if self.activations else ()
        return views[self._view(step)] if views else self.inputs

    def _load_evaluation(self, indices: Int64Array) -> DataLoader[Batch]:
        trainer = self._require_trainer()
        batches = EvaluationBatches(
            self.inputs,
            self.labels,
            indices,
            trainer.global_rank,
            trainer.world_size,
            self.evaluation_batch_size,
            self.limit_batches,
        )
        return self._load(batches, None)

    def _load(self, batches: Dataset[Batch], sampler: Sampler[Any] | None) -> DataLoader[Batch]:
        return DataLoader(
            batches,
            sampler=sampler,
            batch_size=None,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def _require_trainer(self) -> pl.Trainer:
        if self.trainer is None:
            raise RuntimeError(
                "Expected the data module to be attached to a Trainer before it is asked for batches."
            )
        return self.trainer


def _relative(weights: npt.NDArray[np.float64] | None, train: Int64Array) -> Float32Array | None:
    """Divide weights by their mean over the training images, so that the loss keeps its scale.

    Raises:
        GraftError: Every training image has weight 0.
    """
    if weights is None:
        return None
    mean = float(weights[train].mean())
    if mean == 0:
        raise GraftError(
            "Expected a weight above 0 among the training images, but all that were drawn have weight 0. "
            "Raise the label budget, or leave images of weight 0 out of the table."
        )
    return (weights / mean).astype(np.float32)
