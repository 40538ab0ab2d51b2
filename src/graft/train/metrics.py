"""What is measured of the scores of a split: numbers by name, and the numbers of each class.

Rules for classes that are rare: macro precision, recall and F1 are means over the classes that occur in truth
or prediction, 0 where nothing was predicted or nothing is there; balanced accuracy and average precision
over the classes that occur; the area under the ROC over those that occur beside another one. A number that
has no meaning on a split is left out: no class occurs beside another, or there are not more than five.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
import torchmetrics.functional.classification as tm
from torch import Tensor

from graft.config.names import TOP
from graft.train.evaluation import Evaluation
from graft.train.losses import Loss

Float64Array = npt.NDArray[np.float64]

#: Bins of confidence, all of the same width.
_CALIBRATION_BINS = 15

#: Measured at every validation; the others cost more, and only the chosen weights are worth it.
CHEAP = ("accuracy", "balanced_accuracy", "macro_f1", "loss")


@dataclass(frozen=True)
class Scored:
    """The scores of a split, seen in the ways that metrics need, each computed at most once.

    Attributes:
        evaluation: What the classifier said.
        loss: What training minimises, one value per image.
    """

    evaluation: Evaluation
    loss: Loss

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """Images by true and predicted class, ``(classes, classes)``."""
        return self.evaluation.confusion()

    @cached_property
    def support(self) -> npt.NDArray[np.int64]:
        """Images of each class, ``(classes,)``."""
        return np.asarray(self.counts.sum(axis=1))

    @cached_property
    def probabilities(self) -> Tensor:
        """Softmax of the class scores, float64 ``(N, classes)``."""
        return self.evaluation.scores.double().softmax(dim=1)

    @cached_property
    def by_class(self) -> dict[str, Float64Array]:
        """Precision, recall and F1 of each class, ``(classes,)``; 0 where there is nothing to divide by."""
        right = np.diag(self.counts).astype(np.float64)
        predicted = self.counts.sum(axis=0)
        return {
            "precision": _divide(right, predicted),
            "recall": _divide(right, self.support),
            "f1": _divide(2 * right, predicted + self.support),
        }

    def macro(self, name: str) -> float:
        """Return the mean over the classes that occur in truth or prediction."""
        occurs = self.counts.sum(axis=0) + self.support > 0
        return float(self.by_class[name][occurs].mean())

    def each_against_the_rest(
        self, score: Callable[[Tensor, Tensor], Tensor], classes: npt.NDArray[np.bool_]
    ) -> float | None:
        """Return the mean of a metric of two classes over ``classes`` of them, None without any."""
        label = self.evaluation.label
        values = [
            float(score(self.probabilities[:, number], (label == number).long()))
            for number in np.flatnonzero(classes).tolist()
        ]
        return float(np.mean(values)) if values else None


def measure(evaluation: Evaluation, loss: Loss, names: Iterable[str] | None = None) -> dict[str, float]:
    """Return the metrics of a split by their names in ``config/names.py``.

    Args:
        evaluation: What the classifier said.
        loss: What training minimises.
        names: Which ones; ``None`` for all that have a meaning on this split.
    """
    scored = Scored(evaluation, loss)
    values = {name: METRICS[name](scored) for name in (METRICS if names is None else names)}
    return {name: value for name, value in values.items() if value is not None}


def describe_classes(evaluation: Evaluation, class_names: Iterable[str]) -> list[dict[str, object]]:
    """Return name, images, precision, recall and F1 of each class, for a table."""
    scored = Scored(evaluation, lambda outputs, labels: outputs[:, 0])
    columns = scored.by_class
    return [
        {"class": name, "images": int(scored.support[number])}
        | {key: float(values[number]) for key, values in columns.items()}
        for number, name in enumerate(class_names)
    ]


def _divide(one: Float64Array, other: npt.NDArray[np.int64]) -> Float64Array:
    return np.divide(one, other, out=np.zeros(len(one)), where=other > 0)


def _accuracy(scored: Scored) -> float:
    return float(np.trace(scored.counts) / scored.counts.sum())


def _balanced_accuracy(scored: Scored) -> float:
    """Mean recall over the classes that occur."""
    return float(scored.by_class["recall"][scored.support > 0].mean())


def _top5_accuracy(scored: Scored) -> float | None:
    scores, label = scored.evaluation.scores, scored.evaluation.label
    if scores.shape[1] <= TOP:
        return None
    return float((scores.topk(TOP, dim=1).indices == label[:, None]).any(dim=1).double().mean())


def _auroc(scored: Scored) -> float | None:
    """Each class against the rest; with two classes that is the one area that there is."""
    beside = (scored.support > 0) & (scored.support < scored.support.sum())
    return scored.each_against_the_rest(
        lambda score, truth: tm.binary_auroc(score, truth, validate_args=False), beside
    )


def _average_precision(scored: Scored) -> float | None:
    return scored.each_against_the_rest(
        lambda score, truth: tm.binary_average_precision(score, truth, validate_args=False),
        scored.support > 0,
    )


def _calibration_error(scored: Scored) -> float:
    """Mean distance of confidence and accuracy over bins, weighted by their images.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, equation 5.
    """
    return float(
        tm.multiclass_calibration_error(
            scored.probabilities,
            scored.evaluation.label,
            num_classes=scored.probabilities.shape[1],
            n_bins=_CALIBRATION_BINS,
            norm="l1",
            validate_args=False,
        )
    )


def _nll(scored: Scored) -> float:
    """Negative log-likelihood of the softmax of the scores, whatever loss was trained, without weights."""
    return float(F.cross_entropy(scored.evaluation.scores.double(), scored.evaluation.label))


def _loss(scored: Scored) -> float:
    return float(scored.loss(scored.evaluation.outputs, scored.evaluation.label).mean())


METRICS: Mapping[str, Callable[[Scored], float | None]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "macro_precision": lambda scored: scored.macro("precision"),
    "macro_recall": lambda scored: scored.macro("recall"),
    "macro_f1": lambda scored: scored.macro("f1"),
    "top5_accuracy": _top5_accuracy,
    "auroc": _auroc,
    "average_precision": _average_precision,
    "calibration_error": _calibration_error,
    "nll": _nll,
    "loss": _loss,
}
