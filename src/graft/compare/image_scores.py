"""Metrics as means over test images: one value per image, so that new images can be reckoned with.

Accuracy, top-5 accuracy and the log loss are such means by themselves; balanced accuracy and macro recall
are, with each image weighed by its class. The others are ratios, ranks or sums over bins: an image's value is
the metric plus its influence on it (the delta method), whose mean is the metric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax, softmax
from scipy.stats import rankdata

from graft.config.names import TOP

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

#: Bins of confidence of the calibration error, as the runs have it.
_BINS = 15


@dataclass(frozen=True)
class ImageScores:
    """A metric, image by image.

    Attributes:
        values: One value per test image ``(N,)``; the mean is the metric.
        unit: How much a value changes when its image turns right ``(N,)``; 0 where it may by any number.
        by_class: Whether the metric weighs classes, so that images are drawn anew inside each.
    """

    values: FloatArray
    unit: FloatArray
    by_class: bool = False


def score_images(metric: str, label: IntArray, scores: FloatArray) -> ImageScores | None:
    """Return a metric image by image, None for one that is no mean over images.

    Args:
        metric: Name of the metric, without a split.
        label: True classes ``(N,)``.
        scores: Class scores ``(N, classes)``.
    """
    score = _SCORES.get(metric)
    return score(label, scores) if score else None


def _is_right(label: IntArray, scores: FloatArray) -> FloatArray:
    return np.asarray(scores.argmax(axis=1) == label, dtype=np.float64)


def _accuracy(label: IntArray, scores: FloatArray) -> ImageScores:
    return ImageScores(_is_right(label, scores), np.ones(len(label)))


def _top5_accuracy(label: IntArray, scores: FloatArray) -> ImageScores | None:
    if scores.shape[1] <= TOP:
        return None
    best = np.argpartition(-scores, TOP - 1, axis=1)[:, :TOP]
    return ImageScores((best == label[:, None]).any(axis=1).astype(np.float64), np.ones(len(label)))


def _log_loss(label: IntArray, scores: FloatArray) -> ImageScores:
    values = -log_softmax(scores, axis=1)[np.arange(len(label)), label]
    return ImageScores(values, np.zeros(len(label)))


def _balanced_accuracy(label: IntArray, scores: FloatArray) -> ImageScores:
    weight = _weigh(label, len(np.unique(label)))
    return ImageScores(weight * _is_right(label, scores), weight, by_class=True)


def _macro_recall(label: IntArray, scores: FloatArray) -> ImageScores:
    weight = _weigh(label, len(_occurring(label, scores.argmax(axis=1))))
    return ImageScores(weight * _is_right(label, scores), weight, by_class=True)


def _macro_precision(label: IntArray, scores: FloatArray) -> ImageScores:
    return _macro_ratio(label, scores.argmax(axis=1), right=1.0, predicted=1.0, true=0.0)


def _macro_f1(label: IntArray, scores: FloatArray) -> ImageScores:
    return _macro_ratio(label, scores.argmax(axis=1), right=2.0, predicted=1.0, true=1.0)


def _macro_ratio(
    label: IntArray, predicted_class: IntArray, *, right: float, predicted: float, true: float
) -> ImageScores:
    """Return the macro mean of ``right * hits / (predicted * predictions + true * images)`` of each class."""
    images, classes = len(label), _occurring(label, predicted_class)
    values = np.zeros(images)
    for one in classes:
        is_true, is_said = label == one, predicted_class == one
        numerator = right * (is_true & is_said)
        denominator = predicted * is_said + true * is_true
        if denominator.sum() > 0:
            ratio = numerator.sum() / denominator.sum()
            influence = (numerator - ratio * denominator) * images / denominator.sum()
            values += (ratio + influence) / len(classes)
    return ImageScores(values, _weigh(label, len(classes)))


def _auroc(label: IntArray, scores: FloatArray) -> ImageScores | None:
    """Each class against the rest, by placements.

    Source: DeLong, DeLong and Clarke-Pearson (1988), "Comparing the areas under two or more correlated
    receiver operating characteristic curves".
    """
    images, shares = len(label), np.exp(log_softmax(scores, axis=1))
    classes = [one for one in np.unique(label) if (label == one).sum() < images]
    values = np.zeros(images)
    for one in classes:
        is_true = label == one
        positives, negatives = int(is_true.sum()), int((~is_true).sum())
        ranks = rankdata(shares[:, one])
        placed = np.empty(images)
        placed[is_true] = (ranks[is_true] - rankdata(shares[is_true, one])) / negatives
        placed[~is_true] = 1 - (ranks[~is_true] - rankdata(shares[~is_true, one])) / positives
        area = placed[is_true].mean()
        scale = np.where(is_true, images / positives, images / negatives)
        values += (area + scale * (placed - area)) / len(classes)
    return ImageScores(values, np.zeros(images)) if classes else None


def _average_precision(label: IntArray, scores: FloatArray) -> ImageScores:
    """Each class against the rest: the mean precision at the scores of its images, ties at one place.

    An image of the class moves the mean by its own precision; every image moves the precision at all scores
    that are not above its own.
    """
    images, shares = len(label), softmax(scores, axis=1)
    classes = np.unique(label)
    values = np.zeros(images)
    for one in classes:
        is_true, share = label == one, shares[:, one]
        positives = int(is_true.sum())
        levels, place = np.unique(share, return_inverse=True)
        above = np.cumsum(np.bincount(place)[::-1])[::-1]  # images with this score or a higher one
        right = np.cumsum(np.bincount(place, weights=is_true)[::-1])[::-1]
        precision = right / above
        own = np.bincount(place, weights=is_true, minlength=len(levels)) / above
        below, lost = np.cumsum(own)[place], np.cumsum(own * precision)[place]
        area = precision[place][is_true].mean()
        moved = is_true * (precision[place] + below - area) - lost
        values += (area + moved * images / positives) / len(classes)
    return ImageScores(values, np.zeros(images))


def _calibration_error(label: IntArray, scores: FloatArray) -> ImageScores:
    """The distance of confidence and accuracy over fixed bins: a signed mean, with one sign for each bin.

    Where a bin is calibrated, its sign is a chance: there the values vary more than the metric does, and
    intervals are too long rather than too short.
    """
    confidence = softmax(scores, axis=1).max(axis=1).astype(np.float32)  # the runs bin in this precision
    edges = np.linspace(0, 1, _BINS + 1, dtype=np.float32)
    place = np.searchsorted(edges, confidence, side="right")
    gap = confidence - _is_right(label, scores)
    sign = np.where(np.bincount(place, weights=gap) < 0, -1.0, 1.0)
    return ImageScores(sign[place] * gap, np.zeros(len(label)))


def _weigh(label: IntArray, classes: int) -> FloatArray:
    """Return the weight of each image in a mean over classes, 1 on average where each class has images."""
    weights: FloatArray = len(label) / (classes * np.bincount(label)[label])
    return weights


def _occurring(label: IntArray, predicted: IntArray) -> IntArray:
    return np.union1d(label, predicted)


_SCORES: Mapping[str, Callable[[IntArray, FloatArray], ImageScores | None]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "macro_precision": _macro_precision,
    "macro_recall": _macro_recall,
    "macro_f1": _macro_f1,
    "top5_accuracy": _top5_accuracy,
    "auroc": _auroc,
    "average_precision": _average_precision,
    "calibration_error": _calibration_error,
    "nll": _log_loss,
    "loss": _log_loss,  # taken where it is what the run recorded: cross-entropy without weights
}
