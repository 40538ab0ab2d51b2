"""Classes of unequal size: weights for the loss, an order that draws them equally often, the fair metric."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from graft.config.names import TOP
from graft.config.schema import DataConfig
from graft.data.image_set import TRAIN, ImageSet, Int64Array
from graft.errors import GraftError

Float64Array = npt.NDArray[np.float64]

#: The largest class over the smallest above which accuracy hides the small ones.
_UNEQUAL = 3


def weigh_classes(data: DataConfig, counts: Int64Array) -> list[float] | None:
    """Return the weight of each class in the loss, or None where none is asked for.

    The mean weight over the training images is 1, so that a learning rate means what it means without
    weights. A class without a training image counts as if it had one: it has a say in validation only.

    Args:
        data: Names the rule.
        counts: Training images of each class, ``(classes,)``.
    """
    if data.balance not in _WEIGHTS:
        return None
    raw = _WEIGHTS[data.balance](np.maximum(counts, 1).astype(np.float64), data.balance_beta)
    mean = (raw * counts).sum() / counts.sum()
    return [float(weight) for weight in raw / mean]


def _inverse_frequency(counts: Float64Array, beta: float) -> Float64Array:
    return np.asarray(1 / counts)


def _effective_number(counts: Float64Array, beta: float) -> Float64Array:
    """Source: Cui et al. 2019, Class-Balanced Loss Based on Effective Number of Samples, equation 2."""
    return np.asarray((1 - beta) / (1 - beta**counts))


_WEIGHTS: dict[str, Callable[[Float64Array, float], Float64Array]] = {
    "class_weights": _inverse_frequency,
    "effective_number": _effective_number,
}


class BalancedOrder:
    """Passes in which every class is drawn equally often, as a pure function of (seed, number of the pass).

    A pass has as many draws as there are images. Each class has a stream of its own: its images in one random
    order after the other; a pass takes the next part of every stream. So the classes of a pass differ by at
    most one draw, and over all passes the images of a class do, too.

    Args:
        indices: The training images, ``(n,)``.
        labels: Class of each of them, ``(n,)``.
        seed: Seed of the orders.
    """

    def __init__(self, indices: Int64Array, labels: Int64Array, seed: int) -> None:
        self.seed = seed
        self.draws = len(indices)
        self.members = [np.sort(indices[labels == label]) for label in np.unique(labels)]

    def __call__(self, number: int) -> Int64Array:
        """Return the images of pass ``number``, counted from 0, in order: ``(n,)``."""
        classes = len(self.members)
        parts = []
        for rank, members in enumerate(self.members):
            # Over all ranks floor((draws + rank) / classes) adds up to the draws, whatever their number.
            start, end = ((passes * self.draws + rank) // classes for passes in (number, number + 1))
            parts.append(self._stream(rank, members, start, end))
        return np.random.default_rng([self.seed, number]).permutation(np.concatenate(parts))

    def _stream(self, rank: int, members: Int64Array, start: int, end: int) -> Int64Array:
        """Return the draws ``start`` to ``end`` of one class."""
        first, last = start // len(members), -(-end // len(members))
        rounds = [
            np.random.default_rng([self.seed, rank, turn, 1]).permutation(members)
            for turn in range(first, last)
        ]
        drawn = np.concatenate([members[:0], *rounds])
        return np.asarray(drawn[start - first * len(members) : end - first * len(members)], dtype=np.int64)


def choose_metric(images: ImageSet, metric: str) -> str:
    """Return what ``metric=auto`` means: accuracy, unless classes differ by more than three times in size.

    The images that no official split keeps from training are counted, before any label budget: so all arms
    and budgets of a comparison have the same metric.

    Args:
        images: The images of the run.
        metric: The metric that is asked for.

    Raises:
        GraftError: The metric has no meaning with so few classes.
    """
    classes = len(images.class_names)
    if metric == "top5_accuracy" and classes <= TOP:
        raise GraftError(
            f"Expected more than {TOP} classes with `metric=top5_accuracy`, but {images.name} has {classes}. "
            "Use `metric=accuracy`."
        )
    pool = images.labels if images.official is None else images.labels[images.official == TRAIN]
    counts = np.bincount(pool, minlength=classes)
    return "balanced_accuracy" if counts.max() > _UNEQUAL * counts.min() else "accuracy"
