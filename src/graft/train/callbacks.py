"""What happens at each validation: remember the best weights, stop early, record the numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import pytorch_lightning as pl
import torch
from torch import Tensor

from graft.config.names import METRICS
from graft.errors import DivergedError, GraftError
from graft.train.evaluation import Evaluation
from graft.train.task import Recorder, TransferTask

_SECONDS_BETWEEN_NEWS = 0.2


class BestWeights(pl.Callback):
    """Keeps a copy of what trains as it was at the best validation, and stops a run that no longer improves.

    With few validation images many checks have the same accuracy; the lower validation loss then decides.

    Args:
        metric: Name of the validation metric that chooses.
        patience: Validations without improvement before stopping, None for never.
    """

    def __init__(self, metric: str, patience: int | None) -> None:
        self.metric = metric
        self.patience = patience
        self.best: tuple[float, float] | None = None
        self.step = 0
        self.evaluation: Evaluation | None = None
        self._state: dict[str, Tensor] = {}
        self._since_best = 0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare this validation with the best one so far."""
        assert isinstance(pl_module, TransferTask)
        if self.metric not in pl_module.metrics:
            raise GraftError(
                f"Expected validation images on which `metric={self.metric}` has a meaning, but got "
                "images of one class. Raise `data.val_labels_per_class` or `data.val_size`, or use "
                "`metric=accuracy`."
            )
        value = pl_module.metrics[self.metric]
        standing = (value if METRICS[self.metric].higher_is_better else -value, -pl_module.metrics["loss"])
        if self.best is None or standing > self.best:
            self.best, self.step, self.evaluation = standing, trainer.global_step, pl_module.evaluation
            self._state = {
                name: tensor.detach().clone()
                for name, tensor in pl_module.classifier.trainable_state().items()
            }
            self._since_best = 0
            return
        self._since_best += 1
        if self.patience is not None and self._since_best >= self.patience:
            trainer.should_stop = True

    def restore(self, task: TransferTask) -> None:
        """Put the best weights back into ``task``."""
        current = task.classifier.trainable_state()
        with torch.no_grad():
            for name, tensor in self._state.items():
                current[name].copy_(tensor)


class RecordRounds(pl.Callback):
    """Hands the numbers of each validation to the recorder, and notices a run that diverged.

    Args:
        recorder: Takes the numbers; None on processes that do not record.
        progress: Told the optimizer steps done.
    """

    def __init__(self, recorder: Recorder | None, progress: Callable[[int], None] | None) -> None:
        self.recorder = recorder
        self.progress = progress
        self._shown = 0.0

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Say how far the run is, a few times a second."""
        if self.progress is not None and time.monotonic() - self._shown > _SECONDS_BETWEEN_NEWS:
            self._shown = time.monotonic()
            self.progress(trainer.global_step)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record training loss, validation metrics and rates."""
        assert isinstance(pl_module, TransferTask)
        if self.progress is not None:
            self.progress(trainer.global_step)
        train_loss = pl_module.pop_train_loss()
        if self.recorder is not None:
            numbers = {"train/loss": train_loss}
            numbers |= {f"val/{name}": value for name, value in pl_module.metrics.items()}
            self.recorder.record(numbers | pl_module.rates(), trainer.global_step)
        if not (math.isfinite(train_loss) and math.isfinite(pl_module.metrics["loss"])):
            raise DivergedError(
                f"The loss became {train_loss} by step {trainer.global_step}. Try a lower `optim.lr`, "
                "a warm-up (`optim.warmup=0.1`) or `optim.gradient_clip=1`."
            )
