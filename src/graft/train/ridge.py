"""The ridge probe: a linear head in closed form, for every strength from one eigendecomposition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from graft.errors import GraftError
from graft.train.memory import find_free_memory

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

#: Where the temperature that turns scores into probabilities is looked for, as powers of e.
_TEMPERATURES = (-3.0, 7.0)


@dataclass(frozen=True)
class RidgeHead:
    """Scores ``features @ weight.T + bias``.

    Attributes:
        weight: ``(classes, D)``.
        bias: ``(classes,)``.
    """

    weight: Float64Array
    bias: Float64Array

    def scores(self, features: Float64Array) -> Float64Array:
        """Return class scores ``(N, classes)`` of features ``(N, D)``."""
        return np.asarray(features @ self.weight.T + self.bias)

    def scaled(self, temperature: float) -> RidgeHead:
        """Return the head with its scores multiplied."""
        return RidgeHead(self.weight * temperature, self.bias * temperature)


def solve_ridge(
    features: Float64Array,
    labels: Int64Array,
    classes: int,
    strengths: Sequence[float],
    weights: Float64Array | None = None,
) -> list[RidgeHead]:
    """Return the ridge regression on one-hot labels for every strength.

    Minimises ``sum_i w_i |y_i - W x_i - b|^2 + strength * n * s * |W|^2``, where s is the mean variance of a
    feature: so a strength means the same whatever the scale of the features and the number of images. The
    bias is not penalised. With fewer images than features the Gram matrix is decomposed: the same answer.

    Source: Hoerl & Kennard 1970; Hastie, Tibshirani & Friedman, The Elements of Statistical Learning, 3.4.1.

    Args:
        features: ``(n, D)``.
        labels: ``(n,)``, from 0.
        classes: Number of classes.
        strengths: Penalties above 0.
        weights: How much each image counts, ``(n,)``; None for all alike.
    """
    share = np.ones(len(labels)) if weights is None else weights * len(labels) / weights.sum()
    targets = np.eye(classes)[labels]
    centre, level = share @ features / len(share), share @ targets / len(share)
    root = np.sqrt(share)[:, None]
    x, y = features - centre, root * (targets - level)
    x *= root  # in place: there may be hundreds of megabytes of it
    # Of features that do not vary only rounding is left: it must not count as their scale.
    rounding = float((np.finfo(np.float64).eps * max(features.max(), -features.min())) ** 2)
    variance = max(float(np.einsum("ij,ij->", x, x)) / x.size, rounding, np.finfo(np.float64).tiny)
    scale = variance * len(x)
    tall = x.shape[0] >= x.shape[1]
    values, vectors = np.linalg.eigh(x.T @ x if tall else x @ x.T)
    values = np.maximum(values, 0.0)
    turned = vectors.T @ (x.T @ y if tall else y)
    heads = []
    for strength in strengths:
        solved = vectors @ (turned / (values + strength * scale)[:, None])
        weight = (solved if tall else x.T @ solved).T
        heads.append(RidgeHead(weight, level - weight @ centre))
    return heads


def require_memory(images: int, others: int, width: int) -> None:
    """Refuse, before anything is computed, features that this machine has no room to solve for.

    Counted are the features as float32 and float64, those of the training images centred and turned, and the
    smaller Gram matrix with what its decomposition takes: three times itself.

    Args:
        images: Training images.
        others: Images whose features are held beside them.
        width: Length of a feature.

    Raises:
        GraftError: They need more memory than is free.
    """
    needed = (28 * images + 12 * others) * width + 32 * min(images, width) ** 2
    free = find_free_memory()
    if free is not None and needed > free:
        raise GraftError(
            f"Expected features to solve for in the {free / 1e9:,.1f} GB of memory that are free, but got "
            f"{images:,} training images with {width:,} numbers each, which need {needed / 1e9:,.1f} GB. "
            "Use fewer images (`data.labels_per_class`), a backbone with pooled features, or `head=linear`."
        )


def find_temperature(scores: Float64Array, labels: Int64Array) -> float:
    """Return what to multiply scores ``(N, classes)`` with, so that their softmax fits the labels best.

    One more image, of a class that nobody knows, counts with them: a few images that are all told right would
    else make the probabilities of every image 0 or 1.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, section 4.2; the image of no class is
    Platt's (1999, Probabilistic Outputs for Support Vector Machines, section 2.2).
    """
    unknown = 1 / (len(labels) + 1)

    def surprise(power: float) -> float:
        scaled = np.exp(power) * scores
        target = (1 - unknown) * scaled[np.arange(len(labels)), labels] + unknown * scaled.mean(axis=1)
        return float((logsumexp(scaled, axis=1) - target).mean())

    return float(np.exp(minimize_scalar(surprise, bounds=_TEMPERATURES, method="bounded").x))
