"""Many heads in one pass: runs that share features train side by side, each as if it were alone.

Every head keeps its own task: its loss, its optimizer and schedule, its order of images, its best validation.
What is shared is the walk: one loop, one reading of features for all heads that draw the same images, and one
start of everything. The arithmetic of a head is that of its own run, operation by operation, so its weights
are equal to the bit on a CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from graft.config.schema import Config
from graft.data.batches import Batch, EvaluationBatches, TrainingBatches
from graft.data.datamodule import ImageDataModule
from graft.errors import DivergedError, RunInterrupted
from graft.model.classifier import Classifier
from graft.reuse.stepping import Schedules, Stepper
from graft.train.callbacks import BestWeights, record_round
from graft.train.fit import Budget, Fitted, build_run_loss, count_images, without_advice
from graft.train.metrics import measure
from graft.train.stop import StopRequest
from graft.train.task import Recorder, TransferTask


@dataclass(frozen=True)
class HeadRun:
    """One run of a group.

    Attributes:
        config: Its configuration.
        classifier: Its head, on a backbone that is left out whole.
        batches: Its images; they come as features.
        draw: Runs of the same number draw the same images in the same order.
        recorder: Takes its numbers.
    """

    config: Config
    classifier: Classifier
    batches: ImageDataModule
    draw: int
    recorder: Recorder


@dataclass
class _Side:
    """A head in training."""

    run: HeadRun
    task: TransferTask
    best: BestWeights
    stepper: Stepper | None = None
    failure: Exception | None = None
    steps: int = 0

    @property
    def trains(self) -> bool:
        return self.failure is None and not self.best.exhausted


class FusedTask(pl.LightningModule):
    """Drives the tasks of a group, one optimizer step of each after the other.

    Args:
        sides: The heads.
        budget: Steps and validations, the same for all.
        stop: Looked at between steps.
        progress: Told the optimizer steps done.
    """

    def __init__(
        self,
        sides: Sequence[_Side],
        budget: Budget,
        stop: StopRequest,
        progress: Callable[[int], None] | None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.tasks = torch.nn.ModuleList([side.task for side in sides])
        self.sides = sides
        self.budget = budget
        self.stop = stop
        self.progress = progress
        self.step = 0

    def setup(self, stage: str) -> None:
        """Let every task know its trainer."""
        for side in self.sides:
            side.task.trainer = self.trainer

    def configure_optimizers(self) -> list[Optimizer]:
        """Make the optimizer and the schedule of every head; the heads step by themselves."""
        made = [side.task.configure_optimizers() for side in self.sides]
        schedules = Schedules(self.budget.total_steps)
        for side, parts in zip(self.sides, made, strict=True):
            rates = parts["lr_scheduler"]["scheduler"].base_lrs
            side.stepper = Stepper(side.task, rates, schedules.find(side.task.optim))
        return [parts["optimizer"] for parts in made]

    def training_step(self, batch: Mapping[int, Batch], batch_idx: int) -> None:
        """Take one optimizer step with every head that still trains."""
        if self.stop.signum:
            raise RunInterrupted(self.stop.signum)
        training = [(side, side.stepper) for side in self.sides if side.trains and side.stepper is not None]
        losses = [side.task.training_step(batch[side.run.draw], 0) for side, _ in training]
        for _, stepper in training:
            stepper.clear()
        torch.autograd.backward(
            losses
        )  # the heads share no parameter: each gets the gradient of its own loss
        for own, stepper in training:
            stepper.step()
            own.steps += 1
        self.step += 1
        if self.progress is not None:
            self.progress(self.step)

    def on_validation_epoch_start(self) -> None:
        """Forget the scores of the evaluation before."""
        for side in self.sides:
            side.task.on_validation_epoch_start()

    def validation_step(self, batch: tuple[int, Batch], _: int) -> None:
        """Score one batch with every head that still trains on images of the same draw."""
        draw, images = batch
        for side in self.sides:
            if side.run.draw == draw and side.trains:
                side.task.validation_step(images, 0)

    def on_validation_epoch_end(self) -> None:
        """Measure every head, and stop those that diverged or no longer improve."""
        for side in self.sides:
            if not side.trains:
                continue
            side.task.on_validation_epoch_end()
            try:
                side.best.observe(side.task, self.step)
                record_round(side.task, self.step, side.run.recorder)
            except DivergedError as error:
                side.failure = error
        if not any(side.trains for side in self.sides):
            self.trainer.should_stop = True

    def on_test_epoch_start(self) -> None:
        """Go back to the best weights of every head."""
        for side in self.sides:
            if side.failure is None:
                side.best.restore(side.task)
                side.task.on_test_epoch_start()

    def test_step(self, batch: tuple[int, Batch], batch_idx: int) -> None:
        """Score one batch of test images."""
        draw, images = batch
        for side in self.sides:
            if side.run.draw == draw and side.failure is None:
                side.task.test_step(images, 0)

    def on_test_epoch_end(self) -> None:
        """Measure every head on the test images, in every way."""
        for side in self.sides:
            if side.failure is None:
                side.task.on_test_epoch_end()


@dataclass(frozen=True)
class Cut:
    """A head that diverged.

    Attributes:
        failure: What to raise.
        steps: Optimizer steps done until then.
        seconds: Its share of the time of the group.
    """

    failure: Exception
    steps: int
    seconds: float


def fit_group(
    runs: Sequence[HeadRun],
    budget: Budget,
    *,
    stop: StopRequest,
    progress: Callable[[int], None] | None = None,
) -> list[Fitted | Cut]:
    """Train the heads of a group, choose the best validation of each, test each once.

    Args:
        runs: The group; all take the same steps.
        budget: How long to train.
        stop: Looked at between optimizer steps.
        progress: Told the optimizer steps done.

    Returns:
        What came out of each run, or why it diverged, in their order. Its seconds are a run's share of the
        time of the whole group, in proportion to the steps that it took.

    Raises:
        RunInterrupted: It was asked to stop.
    """
    config = runs[0].config
    sides = []
    for run in runs:
        loss = build_run_loss(run.config, run.batches)
        task = TransferTask(run.classifier, run.config.optim, loss, budget.total_steps, run.config.metric)
        sides.append(_Side(run, task, BestWeights(run.config.metric, run.config.trainer.patience)))
    fused = FusedTask(sides, budget, stop, progress)
    trainer = pl.Trainer(
        accelerator=config.trainer.accelerator,
        devices=1,
        precision=config.trainer.precision,  # type: ignore[arg-type]
        max_epochs=-(-budget.total_steps // budget.steps_per_round),
        limit_val_batches=1.0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    with without_advice(), stop.waiting():
        started = time.perf_counter()
        trainer.fit(fused, train_dataloaders=_load_training(fused), val_dataloaders=_load(fused, "val"))
        seconds_per_step = (time.perf_counter() - started) / max(1, sum(side.steps for side in sides))
        trainer.test(fused, dataloaders=_load(fused, "test"), verbose=False)
    return [_describe(side, side.steps * seconds_per_step) for side in sides]


def _describe(side: _Side, seconds: float) -> Fitted | Cut:
    if side.failure is not None:
        return Cut(side.failure, side.steps, seconds)
    assert side.best.evaluation is not None
    assert side.task.evaluation is not None
    return Fitted(
        best_step=side.best.step,
        validation=measure(side.best.evaluation, side.task.loss),
        test=side.task.evaluation,
        test_metrics=side.task.metrics,
        steps=side.steps,
        train_seconds=seconds,
        images_seen=count_images(side.run.batches, side.steps),
    )


@dataclass(frozen=True)
class _TrainingRounds(Dataset[Any]):
    """The batches of every draw, one optimizer step at a time."""

    draws: Mapping[int, TrainingBatches]

    def __getitem__(self, step: int) -> dict[int, Batch]:
        return {draw: batches[step, 0] for draw, batches in self.draws.items()}


@dataclass(frozen=True)
class _Steps:
    """The steps of the round that the task is in."""

    task: FusedTask

    def __iter__(self) -> Iterator[int]:
        budget, start = self.task.budget, self.task.step
        end = min((start // budget.steps_per_round + 1) * budget.steps_per_round, budget.total_steps)
        yield from range(start, end)


@dataclass(frozen=True)
class _Evaluations(Dataset[Any]):
    """The evaluation batches of every draw, one after the other."""

    parts: Sequence[tuple[int, EvaluationBatches]]
    places: Sequence[tuple[int, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, item: int) -> tuple[int, Batch]:
        part, place = self.places[item]
        draw, batches = self.parts[part]
        return draw, batches[place]


def _load_training(task: FusedTask) -> DataLoader[Any]:
    draws = {}
    for side in task.sides:
        data = side.run.batches
        if side.run.draw not in draws:
            draws[side.run.draw] = TrainingBatches(
                data.find_inputs, data.labels, data.schedule, 0, 1, 1, data.image_weights
            )
    return DataLoader(_TrainingRounds(draws), sampler=_Steps(task), batch_size=None)


def _load(task: FusedTask, split: str) -> DataLoader[Any]:
    parts: dict[int, EvaluationBatches] = {}
    for side in task.sides:
        data = side.run.batches
        if side.run.draw not in parts:
            indices = np.asarray(getattr(data.split, split))
            parts[side.run.draw] = EvaluationBatches(
                data.inputs, data.labels, indices, 0, 1, data.evaluation_batch_size, data.limit_batches
            )
    listed = list(parts.items())
    places = [(part, place) for part, (_, batches) in enumerate(listed) for place in range(len(batches))]
    return DataLoader(_Evaluations(listed, places), batch_size=None)
