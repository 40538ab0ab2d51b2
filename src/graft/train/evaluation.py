"""Scores of a whole split, gathered from all processes, and the metrics computed from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torchmetrics.functional.classification as tm
from torch import Tensor

from graft.train.losses import Loss, class_scores


@dataclass(frozen=True)
class Evaluation:
    """What a classifier said of each image of a split, each image once.

    Attributes:
        index: Position in the data set ``(N,)``, ascending.
        label: True classes ``(N,)``.
        outputs: Raw outputs of the head ``(N, outputs)``, float32 on the CPU.
    """

    index: Tensor
    label: Tensor
    outputs: Tensor

    @property
    def scores(self) -> Tensor:
        """Class scores ``(N, classes)``."""
        return class_scores(self.outputs)

    @property
    def predicted(self) -> Tensor:
        """Predicted classes ``(N,)``."""
        return self.scores.argmax(dim=1)

    def confusion(self) -> npt.NDArray[np.int64]:
        """Return counts ``(classes, classes)``: rows are true classes, columns are predicted ones."""
        classes = self.scores.shape[1]
        matrix = tm.multiclass_confusion_matrix(self.predicted, self.label, num_classes=classes)
        return np.asarray(matrix.numpy(), dtype=np.int64)


def gather(parts: list[Evaluation], everyone: Callable[[Tensor], list[Tensor]]) -> Evaluation:
    """Join the parts of all processes, in the order of the data set.

    Args:
        parts: What this process saw, batch by batch.
        everyone: Returns the tensors of all processes, given this process's; lengths may differ.

    Raises:
        RuntimeError: When an image was counted twice; that would be a defect of the loader.
    """
    index = torch.cat(everyone(torch.cat([part.index for part in parts])))
    label = torch.cat(everyone(torch.cat([part.label for part in parts])))
    outputs = torch.cat(everyone(torch.cat([part.outputs for part in parts])))
    order = index.argsort()
    index = index[order]
    if bool((index[1:] == index[:-1]).any()):
        raise RuntimeError("an image was evaluated twice")
    return Evaluation(index, label[order], outputs[order])


def measure(evaluation: Evaluation, loss: Loss) -> dict[str, float]:
    """Return every metric of a split by its name in ``config/names.py``."""
    classes = evaluation.scores.shape[1]
    values = {
        name: metric(evaluation.predicted, evaluation.label, classes) for name, metric in METRICS.items()
    }
    return {name: float(value) for name, value in values.items()} | {
        "loss": float(loss(evaluation.outputs, evaluation.label).mean())
    }


def _accuracy(predicted: Tensor, label: Tensor, classes: int) -> Tensor:
    return tm.multiclass_accuracy(predicted, label, num_classes=classes, average="micro")


def _balanced_accuracy(predicted: Tensor, label: Tensor, classes: int) -> Tensor:
    """Mean recall over the classes that occur."""
    recall = tm.multiclass_recall(predicted, label, num_classes=classes, average="none")
    return recall[torch.bincount(label, minlength=classes) > 0].mean()


def _macro_f1(predicted: Tensor, label: Tensor, classes: int) -> Tensor:
    return tm.multiclass_f1_score(predicted, label, num_classes=classes, average="macro")


METRICS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
}
