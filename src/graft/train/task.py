"""The LightningModule: a classifier, its loss, its parameter groups and its evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
import torch.distributed
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from graft.config.schema import OptimConfig
from graft.model.classifier import Classifier
from graft.model.freeze import parameter_groups
from graft.train.evaluation import Evaluation, gather
from graft.train.losses import Loss
from graft.train.metrics import CHEAP, measure
from graft.train.optim import Plateau, build_optimizer, schedule_factor


class Recorder(Protocol):
    """Takes the numbers of a run; filled by whoever records runs."""

    def record(self, metrics: Mapping[str, float], step: int) -> None:
        """Take ``metrics`` as they stand after ``step`` optimizer steps."""

    def flush(self) -> None:
        """Make sure that what was taken outlives this process."""


@dataclass
class _RunningLoss:
    """Training losses since the last validation; no part of the module, where setting a value is slow."""

    total: Tensor | None = None
    count: int = 0

    def add(self, loss: Tensor) -> None:
        self.total = loss if self.total is None else self.total + loss
        self.count += 1


class TransferTask(pl.LightningModule):
    """Trains what is not frozen, evaluates everything.

    Args:
        classifier: Backbone and head, frozen as the run wants.
        optim: Optimizer, schedule and penalties.
        loss: One value per image.
        total_steps: Optimizer steps of the whole run.
        metric: Measured at every validation beside the cheap ones.
    """

    def __init__(
        self,
        classifier: Classifier,
        optim: OptimConfig,
        loss: Loss,
        total_steps: int,
        metric: str = "accuracy",
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.optim = optim
        self.loss = loss
        self.total_steps = total_steps
        self.names = tuple(dict.fromkeys((*CHEAP, metric)))
        self.groups = parameter_groups(classifier)
        self.trained = [parameter for members in self.groups.values() for _, parameter in members]
        self.optimizer: Optimizer | None = None
        self.evaluation: Evaluation | None = None
        self.metrics: dict[str, float] = {}
        self._parts: list[Evaluation] = []
        self._running = _RunningLoss()
        self.plateau = (
            Plateau(optim.decay_factor, optim.plateau_checks) if optim.schedule == "plateau" else None
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the head's outputs ``(N, outputs)`` for normalised images ``(N, C, H, W)``."""
        outputs: Tensor = self.classifier(images)
        return outputs

    def training_step(self, batch: Mapping[str, Any], _: int) -> Tensor:
        """Return the loss of one share of an effective batch; shares add up to the batch's mean."""
        outputs = self.classifier(batch["image"])
        losses = self.loss(outputs, batch["label"])
        if "other_label" in batch:  # a mixed image has two labels at once, see `graft.data.mixing`
            others = self.loss(outputs, batch["other_label"])
            losses = batch["share"] * losses + (1 - batch["share"]) * others
        total: Tensor = (losses * batch["weight"]).sum()
        self._running.add(total.detach())
        return total + self._penalty() if self.optim.l1 or self.optim.l2 else total

    def _penalty(self) -> Tensor:
        """L1, and lambda/2 of the squared L2 norm, of everything that trains."""
        penalty = torch.zeros((), device=self.device)
        for parameter in self.trained:
            if self.optim.l1:
                penalty = penalty + self.optim.l1 * parameter.abs().sum()
            if self.optim.l2:
                penalty = penalty + self.optim.l2 / 2 * parameter.square().sum()
        return penalty

    def pop_train_loss(self) -> float:
        """Return the mean training loss since the last call, over all processes, penalties left out."""
        if self._running.total is None:
            return float("nan")
        mean = self._running.total / self._running.count
        self._running = _RunningLoss()
        return float(torch.stack(self.everyone(mean.reshape(1))).mean())

    def partial_loss(self) -> tuple[float, int]:
        """Return the sum of this process's training losses since the last validation, and their number."""
        running = self._running
        return (0.0 if running.total is None else float(running.total)), running.count

    def resume_partial_loss(self, loss_sum: float, micro_batches: int) -> None:
        """Go on from what `partial_loss` returned."""
        total = torch.tensor(loss_sum, device=self.device) if micro_batches else None
        self._running = _RunningLoss(total, micro_batches)

    def configure_optimizers(self) -> Any:
        """Return the optimizer over all named groups and the schedule, stepped at every optimizer step."""
        self.optimizer = optimizer = build_optimizer(self.optim, self.groups)
        factor, plateau = schedule_factor(self.optim, self.total_steps), self.plateau
        schedule = LambdaLR(optimizer, lambda step: factor(step) * (plateau.multiple if plateau else 1.0))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def rates(self) -> dict[str, float]:
        """Return the current learning rate of every group."""
        groups = self.optimizer.param_groups if self.optimizer else []
        return {f"lr/{group['name']}": float(group["lr"]) for group in groups}

    def on_validation_epoch_start(self) -> None:
        """Forget the scores of the evaluation before, and let all processes measure the same network."""
        self._parts = []
        if self.trainer.world_size > 1:
            self._share_buffers()

    on_test_epoch_start = on_validation_epoch_start

    def _share_buffers(self) -> None:
        """Give every process the buffers of the first one.

        DDP does so before a training step only: after the last one each process has BatchNorm statistics of
        its own, and would measure, and remember, another network than the one that is kept.
        """
        for buffer in self.classifier.buffers():
            torch.distributed.broadcast(buffer, src=0)

    def validation_step(self, batch: Mapping[str, Any], _: int) -> None:
        """Keep the scores of a batch; images that only fill up a batch are left out."""
        real = batch["weight"] > 0
        outputs = self.classifier(batch["image"])
        self._parts.append(Evaluation(batch["index"][real], batch["label"][real], outputs[real].float()))

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Measure the validation images; a plateau schedule listens."""
        self._measure(self.names)
        if self.plateau is not None and self.optimizer is not None:
            drop = self.plateau.observe(self.metrics["loss"])
            for group in self.optimizer.param_groups:
                group["lr"] *= drop

    def on_test_epoch_end(self) -> None:
        """Measure the test images, in every way."""
        self._measure(None)

    def _measure(self, names: Sequence[str] | None) -> None:
        """Gather the scores of all processes and measure them."""
        gathered = gather(self._parts, self.everyone)
        self._parts = []
        self.evaluation = Evaluation(gathered.index.cpu(), gathered.label.cpu(), gathered.outputs.cpu())
        self.metrics = measure(self.evaluation, self.loss, names)

    def everyone(self, tensor: Tensor) -> list[Tensor]:
        """Return this tensor from every process; lengths may differ along the first axis."""
        if self.trainer.world_size == 1:
            return [tensor]
        length = torch.tensor([tensor.shape[0]], device=tensor.device)
        lengths = [torch.zeros_like(length) for _ in range(self.trainer.world_size)]
        torch.distributed.all_gather(lengths, length)
        longest = int(max(int(size) for size in lengths))
        padded = tensor.new_zeros((longest, *tensor.shape[1:]))
        padded[: tensor.shape[0]] = tensor
        gathered = [torch.zeros_like(padded) for _ in lengths]
        torch.distributed.all_gather(gathered, padded)
        return [part[: int(size)] for part, size in zip(gathered, lengths, strict=True)]
