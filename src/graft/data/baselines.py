"""Baselines that cost nothing: what any trained network must beat on the same labels."""

from __future__ import annotations

import numpy as np

from graft.data.image_set import Int64Array, UInt8Array
from graft.data.splits import Split

#: Multiplications above which nearest neighbours on pixels are left out: about two seconds on one core.
_DEAREST = 5e10


def count_labels(split: Split) -> dict[str, float]:
    """Return how many labelled images a run used; validation labels are labels, too."""
    return {
        "labels_train": float(len(split.train)),
        "labels_val": float(len(split.val)),
        "images_test": float(len(split.test)),
    }


def measure_baselines(pixels: UInt8Array, labels: Int64Array, split: Split) -> dict[str, float]:
    """Return the test accuracy of the majority class and of the nearest training image by pixels.

    Args:
        pixels: All images, uint8 ``(N, C, H, W)``.
        labels: Class of each image ``(N,)``.
        split: Which images are training and test.

    Returns:
        ``test/majority_accuracy`` and, where it is affordable, ``test/pixel_1nn_accuracy``.
    """
    from sklearn.neighbors import KNeighborsClassifier

    truth = labels[split.test]
    majority = np.bincount(labels[split.train]).argmax()
    measured = {"test/majority_accuracy": float((truth == majority).mean())}
    if len(split.train) * len(split.test) * float(pixels[0].size) <= _DEAREST:
        seen, unseen = (_flat(pixels[part]) for part in (split.train, split.test))
        nearest = KNeighborsClassifier(n_neighbors=1, algorithm="brute").fit(seen, labels[split.train])
        measured["test/pixel_1nn_accuracy"] = float((nearest.predict(unseen) == truth).mean())
    return measured


def _flat(images: UInt8Array) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return images.reshape(len(images), -1).astype(np.float32)
