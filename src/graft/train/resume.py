"""Keeps a run on disk while it trains, takes it up again where it was, and stops it when it is asked to."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace

import pytorch_lightning as pl
import torch
import torch.distributed

from graft.errors import GraftError, RunFailedError, RunInterrupted
from graft.train.callbacks import BestWeights
from graft.train.checkpoint import Checkpoints, Cost, State
from graft.train.snapshot import (
    capture,
    draw_as_loader,
    is_sound,
    restore_before,
    restore_draws,
    restore_started,
)
from graft.train.stop import StopRequest
from graft.train.task import Recorder, TransferTask

#: Given the seconds of training so far, the optimizer steps done and the phase, returns what they cost.
Price = Callable[[float, int, str], Cost]

#: Share of a run's time that checkpoints at validations may take; short rounds do not get one each.
_LARGEST_SHARE = 0.05

#: What a checkpoint is taken to cost before the first was written, in seconds.
_FIRST_GUESS = 0.02

#: A training that took less is rather done again, should its process end before its result is recorded.
_WORTH_SECONDS = 1.0


class KeepState(pl.Callback):
    """Writes checkpoints, goes on from one, and answers requests to stop.

    Everything happens at the start of an optimizer step, where the draws of the loaders are behind and those
    of the step ahead: a state that is put back there meets exactly what it left. Only a stop in the middle of
    a validation is other: the state before it is written, and the validation is done again.

    Args:
        best: The best validation so far.
        recorder: Sends what is recorded before a checkpoint says that it was; None on processes that do not.
        checkpoints: Where to write; None for nowhere.
        stop: Whether the run is asked to stop.
        start: Where to go on; None for the beginning.
        keeps_loaders: Whether loaders live for the whole run, because processes read for them.
        price: Says what the run has cost, given its seconds, optimizer steps and phase; None: nobody asks.

    Attributes:
        notes: What the user should know of the writing.
    """

    def __init__(
        self,
        best: BestWeights,
        *,
        recorder: Recorder | None,
        checkpoints: Checkpoints | None,
        stop: StopRequest,
        start: State | None,
        keeps_loaders: bool,
        price: Price | None = None,
    ) -> None:
        self.best = best
        self.recorder = recorder
        self.checkpoints = checkpoints
        self.stop = stop
        self.start = start
        self.keeps_loaders = keeps_loaders
        self.price = price
        self.notes: list[str] = []
        self._earlier = start.seconds if start else 0.0
        self._started = self._written = time.monotonic()
        self._ended: float | None = None
        self._cost = _FIRST_GUESS
        self._saved_step = start.step if start else 0
        self._round_passed = False
        self._is_done = start is not None and start.phase == "done"
        self._draws_pending = start is not None
        self._validated = False

    @property
    def seconds(self) -> float:
        """Time of training so far, that of earlier processes included."""
        return self._earlier + (self._ended or time.monotonic()) - self._started

    def prepare(self, trainer: pl.Trainer, task: TransferTask) -> bool:
        """Put back what has to be there before the trainer starts, and say whether there is still training.

        Args:
            trainer: Not started yet.
            task: What trains.
        """
        self._started = self._written = time.monotonic()
        if self.start is None:
            return True
        restore_before(self.start, trainer, task, self.best)
        if self.start.phase == "validating":
            trainer.fit_loop.epoch_loop.max_steps = -1  # a last validation has to be done, too
        return not self._is_done

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put back what the trainer has made by now, and do a validation that was stopped in its middle."""
        assert isinstance(pl_module, TransferTask)
        self.stop.listen()
        self._check_agreement(pl_module)
        if self.start is None:
            return
        restore_started(self.start, trainer, pl_module)
        if self.start.phase == "validating":
            trainer.fit_loop.epoch_loop.max_steps = pl_module.total_steps
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let a loader that lives on draw what a new one draws: how images are read changes no result."""
        if self.keeps_loaders and trainer.current_epoch > 0:
            draw_as_loader()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do the same for validation."""
        if self.keeps_loaders and self._validated:
            draw_as_loader()
        self._validated = True

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Go on with the draws that were next; write a checkpoint where one is due; stop where asked to."""
        assert isinstance(pl_module, TransferTask)
        if self._draws_pending and self.start is not None:
            restore_draws(self.start, trainer.global_rank)
            if self.start.phase == "validating":
                draw_as_loader()
            self._draws_pending = False
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._look(trainer, pl_module, "training")

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object
    ) -> None:
        """Stop where asked to."""
        assert isinstance(pl_module, TransferTask)
        if self._draws_pending and self.start is not None:
            restore_draws(self.start, trainer.global_rank)
        self._look(trainer, pl_module, "validating")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember that a round is over."""
        self._round_passed = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Only the test is left."""
        assert isinstance(pl_module, TransferTask)
        self._ended = time.monotonic()
        self._look(trainer, pl_module, "done")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to signals again."""
        self.stop.listen()

    def on_test_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        """Stop where asked to."""
        assert isinstance(pl_module, TransferTask)
        self._look(trainer, pl_module, "done")

    def _look(self, trainer: pl.Trainer, task: TransferTask, phase: str) -> None:
        """Write a checkpoint when one is due or the run is to stop, and stop.

        Raises:
            RunInterrupted: The run is asked to stop.
        """
        due = self._is_due(phase, trainer.global_step) and trainer.is_global_zero
        signum, due = self._agree(task, due)
        if (due or signum) and self.checkpoints is not None and not self._is_done:
            self._save(self.checkpoints, trainer, task, phase)
        if signum:
            raise RunInterrupted(signum)

    def _agree(self, task: TransferTask, due: bool) -> tuple[int, bool]:
        """Return the signal that asked any process to stop, else 0, and whether any has a checkpoint due."""
        signum = self.stop.signum or 0
        if task.trainer.world_size == 1:
            return signum, due
        both = torch.tensor([signum, due], device=task.device)
        torch.distributed.all_reduce(both, torch.distributed.ReduceOp.MAX)
        return int(both[0]), bool(both[1])

    def _is_due(self, phase: str, step: int) -> bool:
        if self.checkpoints is None or phase == "validating" or step == self._saved_step:
            return False
        if phase == "done" and self.seconds < _WORTH_SECONDS:
            return False
        passed = time.monotonic() - self._written
        after_round = self._round_passed and passed * _LARGEST_SHARE >= self._cost
        return after_round or (phase == "training" and passed >= self.checkpoints.every_seconds)

    def _save(self, checkpoints: Checkpoints, trainer: pl.Trainer, task: TransferTask, phase: str) -> None:
        """Write a checkpoint; where that fails the run goes on, because its work is worth more."""
        begun = time.monotonic()
        state = capture(trainer, task, self.best, phase, self.seconds)
        if self.price is not None:
            state = replace(state, cost=self.price(state.seconds, state.step, phase))
        if trainer.is_global_zero and (phase == "done" or is_sound(task)):
            if self.recorder is not None:
                self.recorder.flush()
            try:
                checkpoints.write(state)
                self._is_done = phase == "done"
            except GraftError as error:
                self._complain(f"This run trained without a checkpoint from step {state.step} on. {error}")
        self._round_passed = False
        self._saved_step = trainer.global_step
        self._written = time.monotonic()
        self._cost = self._written - begun

    def _complain(self, line: str) -> None:
        """Say once that checkpoints cannot be written."""
        if not self.notes:
            self.notes.append(line)
            print(line, file=sys.stderr, flush=True)

    def _check_agreement(self, task: TransferTask) -> None:
        """Make sure that all processes go on from the same step.

        Raises:
            RunFailedError: They found different checkpoints.
        """
        step = torch.tensor([self.start.step if self.start else 0], device=task.device)
        steps = sorted({int(found) for found in task.everyone(step)})
        if len(steps) > 1:
            raise RunFailedError(
                f"Expected all processes to go on from the same checkpoint, but they found steps {steps}. "
                "`paths.root` has to be the same folder on every machine."
            )
