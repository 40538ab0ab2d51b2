"""Nearest neighbours on frozen features: what a linear probe must beat, for one pass over the images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from graft.config.names import STAGES
from graft.config.schema import TrainerConfig
from graft.data.image_set import Int64Array, UInt8Array
from graft.data.preprocessing import Preprocessing
from graft.data.splits import Split
from graft.model.backbone import Backbone
from graft.model.features import choose_device, extract_features

Float32Array = npt.NDArray[np.float32]

#: Neighbours that vote, where every class has so many training images.
_NEIGHBOURS = 5

_BATCH = 64

#: Feature values kept between runs, about 400 MB; beyond them the oldest set of features is forgotten.
_KEPT_VALUES = 10**8
_FEATURES: dict[tuple[str, ...], dict[int, Float32Array]] = {}


def measure_neighbours(
    read: Callable[[Int64Array], Float32Array], labels: Int64Array, split: Split
) -> dict[str, float]:
    """Return the test accuracy of the k nearest training images by the cosine of their features.

    k is 5, or the images of the smallest class in training where it has fewer, so that it can win a vote.

    Args:
        read: Returns the features of images ``(n,)``, ``(n, D)``.
        labels: Class of each image ``(N,)``.
        split: Which images are training and test.

    Returns:
        ``test/feature_knn_accuracy``.
    """
    train, test = split.train, split.test
    return {"test/feature_knn_accuracy": vote(read(train), labels[train], read(test), labels[test])}


def vote(known: Float32Array, known_labels: Int64Array, asked: Float32Array, labels: Int64Array) -> float:
    """Return the accuracy of the vote of the nearest features by their cosine.

    Args:
        known: Features that vote ``(n, D)``.
        known_labels: Their classes ``(n,)``.
        asked: Features to classify ``(m, D)``.
        labels: Their true classes ``(m,)``.
    """
    from sklearn.neighbors import KNeighborsClassifier

    counts = np.bincount(known_labels)
    voters = min(_NEIGHBOURS, int(counts[counts > 0].min()))
    nearest = KNeighborsClassifier(voters, algorithm="brute", metric="cosine").fit(known, known_labels)
    return float((nearest.predict(asked) == labels).mean())


def read_features(
    rows: Int64Array,
    *,
    backbone: Backbone,
    pixels: UInt8Array,
    preprocessing: Preprocessing,
    trainer: TrainerConfig,
    same: tuple[str, ...],
) -> Float32Array:
    """Return the features of images, kept in this process for all runs of the same backbone and images.

    Args:
        rows: Which images, ``(n,)``.
        backbone: Frozen as a whole; its weights are those that it was pretrained with.
        pixels: All images, uint8 ``(N, C, H, W)``.
        preprocessing: For mean and std.
        trainer: Names device and precision.
        same: What makes features the same: hashes of weights, images and preprocessing.

    Returns:
        Features ``(n, D)``.
    """
    kept = _recall(same)
    missing = [index for index in rows.tolist() if index not in kept]
    # Beside other processes, only the one that records is here.
    device = choose_device(replace(trainer, devices=1, num_nodes=1))
    for start in range(0, len(missing), _BATCH):
        chunk = missing[start : start + _BATCH]
        (features,) = extract_features(
            backbone, pixels[chunk], preprocessing, stage=STAGES, batch_size=_BATCH, device=device,
            precision=trainer.precision,
        )  # fmt: skip
        kept.update(zip(chunk, features, strict=True))
    backbone.cpu()
    return np.stack([kept[index] for index in rows.tolist()])


def _recall(same: tuple[str, ...]) -> dict[int, Float32Array]:
    """Return the features that are kept of these images, by index; others make room."""
    kept = _FEATURES.pop(same, {})
    while _FEATURES and sum(_count(held) for held in (kept, *_FEATURES.values())) > _KEPT_VALUES:
        _FEATURES.pop(next(iter(_FEATURES)))
    _FEATURES[same] = kept
    return kept


def _count(held: dict[int, Float32Array]) -> int:
    return len(held) * next(iter(held.values())).size if held else 0
