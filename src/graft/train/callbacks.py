"""What happens at each validation: remember the best weights, stop early, record the numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from graft.config.names import METRICS
from graft.errors import DivergedError, GraftError
from graft.plan.halving import Halving
from graft.train.evaluation import Evaluation
from graft.train.task import Recorder, TransferTask

_SECONDS_BETWEEN_NEWS = 0.2

#: The parts of an `Evaluation`.
_SEEN = ("index", "label", "outputs")


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

    @property
    def exhausted(self) -> bool:
        """Whether the run no longer improves, for as long as it may."""
        return self.patience is not None and self._since_best >= self.patience

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare this validation with the best one so far."""
        assert isinstance(pl_module, TransferTask)
        self.observe(pl_module, trainer.global_step)
        if self.exhausted:
            trainer.should_stop = True

    def observe(self, task: TransferTask, step: int) -> None:
        """Compare the validation that ``task`` has just had, after ``step`` optimizer steps.

        Raises:
            GraftError: The metric has no meaning on these images.
        """
        standing = rank_validation(task.metrics, self.metric)
        self._since_best += 1
        if self.best is None or standing > self.best:
            self.best, self.step, self.evaluation = standing, step, task.evaluation
            self._state = {
                name: tensor.detach().clone() for name, tensor in task.classifier.trainable_state().items()
            }
            self._since_best = 0

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return what is remembered: values as JSON takes them, and tensors."""
        if self.evaluation is None:
            return {"standing": None, "step": 0, "since_best": 0}, {}
        seen = {name: getattr(self.evaluation, name) for name in _SEEN}
        tensors = {f"best.{name}": tensor for name, tensor in self._state.items()}
        values = {"standing": self.best, "step": self.step, "since_best": self._since_best}
        return values, tensors | {f"seen.{name}": tensor for name, tensor in seen.items()}

    def load(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Remember what `state` returned."""
        if values["standing"] is None:
            return
        value, loss = values["standing"]
        self.best, self.step, self._since_best = (value, loss), values["step"], values["since_best"]
        self.evaluation = Evaluation(**{name: tensors[f"seen.{name}"] for name in _SEEN})
        self._state = {
            name.removeprefix("best."): tensor for name, tensor in tensors.items() if name.startswith("best.")
        }

    def restore(self, task: TransferTask) -> None:
        """Put the best weights back into ``task``."""
        current = task.classifier.trainable_state()
        with torch.no_grad():
            for name, tensor in self._state.items():
                current[name].copy_(tensor)


def rank_validation(metrics: Mapping[str, float], metric: str) -> tuple[float, float]:
    """Return where a validation stands among others: the larger the better, the lower loss of equal ones.

    Raises:
        GraftError: The metric has no meaning on these images.
    """
    if metric not in metrics:
        raise GraftError(
            f"Expected validation images on which `metric={metric}` has a meaning, but got "
            "images of one class. Raise `data.val_labels_per_class` or `data.val_size`, or use "
            "`metric=accuracy`."
        )
    value = metrics[metric]
    return (value if METRICS[metric].higher_is_better else -value, -metrics["loss"])


class Judge(pl.Callback):
    """Lets somebody else decide at every validation whether the run goes on.

    Args:
        metric: Name of the validation metric.
        halving: Who decides.
        total_steps: Optimizer steps of the whole run.
        before: Optimizer steps at the latest validation that an earlier process had, 0 for none.
    """

    def __init__(self, metric: str, halving: Halving, total_steps: int, before: int = 0) -> None:
        self.metric, self.halving, self.total_steps = metric, halving, total_steps
        self._before = before / total_steps

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ask.

        Raises:
            PrunedError: The run is cut.
        """
        assert isinstance(pl_module, TransferTask)
        before, self._before = self._before, trainer.global_step / self.total_steps
        self.halving.judge(pl_module.metrics[self.metric], before, self._before)


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
        record_round(pl_module, trainer.global_step, self.recorder)


def record_round(task: TransferTask, step: int, recorder: Recorder | None) -> None:
    """Hand over the training loss, the validation metrics and the rates after ``step`` optimizer steps.

    Raises:
        DivergedError: A loss is NaN or infinite.
    """
    train_loss = task.pop_train_loss()
    if recorder is not None:
        numbers = {"train/loss": train_loss}
        numbers |= {f"val/{name}": value for name, value in task.metrics.items()}
        recorder.record(numbers | task.rates(), step)
    if not (math.isfinite(train_loss) and math.isfinite(task.metrics["loss"])):
        raise DivergedError(
            f"The loss became {train_loss} by step {step}. Try a lower `optim.lr`, "
            "a warm-up (`optim.warmup=0.1`) or `optim.gradient_clip=1`."
        )
