"""How well features tell classes apart before anything is trained: closed forms, no step of an optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from graft.train.ridge import Float64Array, Int64Array, solve_ridge

#: Where the strength of the prior is looked for, in that of the strongest direction, and how finely.
_LOWEST, _HIGHEST, _STEPS = 1e-10, 1e8, 73

#: Shares of the largest variance below it are rounding: features are computed in float32, and differ by some
#: 1e-6 with the number of images that are computed at once.
_ROUNDING = 1e-10


@dataclass(frozen=True)
class _Spectrum:
    """Features ``(n, D)`` as ``left * sqrt(values) * right``, without the directions in which they are empty.

    Attributes:
        values: Squared singular values ``(r,)``.
        left: ``(n, r)``.
    """

    values: Float64Array
    left: Float64Array


def measure_logme(features: Float64Array, labels: Int64Array) -> float:
    """Return the logarithm of the evidence of a Bayesian linear regression on the labels, per image.

    Each class against the others is a regression of 0 and 1 whose weights have a normal prior of precision
    alpha and whose noise has precision beta; both are chosen to make the labels most probable, and the mean
    over the classes counts. With ``t = alpha / beta`` the best beta is known, so that one number is searched.

    Source: You et al. 2021, LogME: Practical Assessment of Pre-trained Models for Transfer Learning,
    equations 2 to 4; the maximum that its fixed-point iteration approaches.

    Args:
        features: ``(n, D)``.
        labels: ``(n,)``; classes without an image do not count.
    """
    spectrum = _decompose(features)
    return float(np.mean([_find_evidence(spectrum, labels == label) for label in np.unique(labels)]))


def measure_h_score(features: Float64Array, labels: Int64Array) -> float:
    """Return how much of the variance of the features is between classes, all directions counted alike.

    ``tr(S^-1 B)`` of the covariance S of features and the covariance B of their class means. S is estimated
    by shrinkage, and B is scaled with it: with fewer images than features the plain estimate cannot be
    inverted; with many images the shrinkage vanishes.

    Source: Bao et al. 2019, An Information-Theoretic Approach to Transferability in Task Transfer Learning,
    definition 2; Ibrahim et al. 2021, Newer is not always better, section 4; Ledoit & Wolf 2004, A
    well-conditioned estimator for large-dimensional covariance matrices.

    Args:
        features: ``(n, D)``.
        labels: ``(n,)``.
    """
    centred = features - features.mean(axis=0)
    count, dimensions = centred.shape
    spectrum = _decompose(centred)
    variances = spectrum.values / count
    mean_variance = float(variances.sum()) / dimensions
    if mean_variance == 0:
        return 0.0
    shrinkage = _find_shrinkage(centred, variances)
    inverse = 1 / ((1 - shrinkage) * variances + shrinkage * mean_variance)
    score = 0.0
    for label in np.unique(labels):  # the class means lie in the span of the features
        mine = labels == label
        mean = np.sqrt(spectrum.values) * spectrum.left[mine].mean(axis=0)
        score += mine.sum() / (count - 1) * float(mean**2 @ inverse)
    return float((1 - shrinkage) * score)


def measure_leep(probabilities: Float64Array, labels: Int64Array) -> float:
    """Return the mean log-probability of the labels, told from what the source model says of the images.

    Source: Nguyen et al. 2020, LEEP: A New Measure to Evaluate Transferability of Learned Representations,
    equations 1 and 2.

    Args:
        probabilities: Of the source classes, ``(n, source classes)``.
        labels: Target classes ``(n,)``.
    """
    targets = np.eye(int(labels.max()) + 1)[labels]
    joint = targets.T @ probabilities / len(labels)
    given_source = joint / np.maximum(joint.sum(axis=0), np.finfo(np.float64).tiny)
    expected = probabilities @ given_source.T
    return float(np.log(expected[np.arange(len(labels)), labels]).mean())


def measure_ridge(
    train: tuple[Float64Array, Int64Array],
    val: tuple[Float64Array, Int64Array],
    strengths: Sequence[float],
) -> float:
    """Return the validation accuracy of the best ridge probe.

    Args:
        train: Features ``(n, D)`` and labels ``(n,)``.
        val: Features ``(m, D)`` and labels ``(m,)``.
        strengths: Penalties to choose from, as ``head.strengths``.
    """
    classes = int(max(train[1].max(), val[1].max())) + 1
    heads = solve_ridge(*train, classes, strengths)
    return max(float((head.scores(val[0]).argmax(axis=1) == val[1]).mean()) for head in heads)


def _decompose(features: Float64Array) -> _Spectrum:
    """Return the spectrum of features, from the smaller of their two Gram matrices."""
    tall = features.shape[0] >= features.shape[1]
    values, vectors = np.linalg.eigh(features.T @ features if tall else features @ features.T)
    keep = values > max(float(values[-1]), 0.0) * _ROUNDING
    values, vectors = values[keep], vectors[:, keep]
    return _Spectrum(values, features @ vectors / np.sqrt(values) if tall else vectors)


def _find_evidence(spectrum: _Spectrum, targets: npt.NDArray[np.bool_]) -> float:
    """Return the largest log-evidence per image of targets 0 and 1 ``(n,)``."""
    y = targets.astype(np.float64)
    count, values = len(y), spectrum.values
    along = (spectrum.left.T @ y) ** 2
    beside = max(float(y @ y - along.sum()), _ROUNDING * float(y @ y))

    def lack(power: float) -> float:
        t = np.exp(power)
        shares = t / (t + values)
        misfit = float(along @ shares) + beside
        return 0.5 * float(count * np.log(misfit / count) - np.log(shares).sum())

    constant = (1 + np.log(2 * np.pi)) / 2
    if len(values) == 0:  # features that are all 0 say nothing
        return float(-np.log(y @ y / count) / 2 - constant)
    powers = np.log(values[-1]) + np.linspace(np.log(_LOWEST), np.log(_HIGHEST), _STEPS)
    place = int(np.argmin([lack(power) for power in powers]))
    bounds = powers[max(place - 1, 0)], powers[min(place + 1, _STEPS - 1)]
    found = minimize_scalar(lack, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(-found.fun / count - constant)


def _find_shrinkage(centred: Float64Array, variances: Float64Array) -> float:
    """Return how far the covariance of centred features ``(n, D)`` is drawn to a multiple of the identity.

    Args:
        centred: Features less their mean.
        variances: Eigenvalues of their covariance that are not 0.
    """
    count, dimensions = centred.shape
    mean_variance = float(variances.sum()) / dimensions
    spread = float((variances**2).sum()) - dimensions * mean_variance**2
    lengths = np.einsum("ij,ij->i", centred, centred)
    noise = (float((lengths**2).sum()) / count - float((variances**2).sum())) / count
    return 1.0 if spread <= 0 else min(noise, spread) / spread
