"""Scores of a whole split, gathered from all processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torchmetrics.functional.classification as tm
from torch import Tensor

from graft.train.losses import class_scores


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
        matrix = tm.multiclass_confusion_matrix(
            self.predicted, self.label, num_classes=classes, validate_args=False
        )
        return np.asarray(matrix.numpy(), dtype=np.int64)

    def worst_errors(self, limit: int = 25) -> list[dict[str, int | float]]:
        """Return the wrong predictions of the highest probability, the surest first.

        Each has index, true, predicted, and the probability that was given to the predicted class.
        """
        probability, predicted = self.scores.double().softmax(dim=1).max(dim=1)
        wrong = torch.nonzero(predicted != self.label)[:, 0]
        worst = wrong[probability[wrong].argsort(descending=True, stable=True)][:limit]
        return [
            {
                "index": int(self.index[row]),
                "true": int(self.label[row]),
                "predicted": int(predicted[row]),
                "probability": float(probability[row]),
            }
            for row in worst.tolist()
        ]


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
