"""Measures of transferability against other ways to the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import RidgeClassifier

from graft.train.transferability import measure_h_score, measure_leep, measure_logme, measure_ridge


def draw(count: int, dimensions: int, classes: int = 3, seed: int = 0, signal: float = 1.0):
    """Return features with a class mean each, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % classes)
    means = rng.normal(size=(classes, dimensions)) * signal
    scales = np.geomspace(0.1, 3, dimensions)
    return means[labels] + rng.normal(size=(count, dimensions)) * scales + 0.5, labels


def evidence_by_search(features: np.ndarray, labels: np.ndarray) -> float:
    """The evidence is the density of y under a normal distribution: maximised over both precisions."""
    found = []
    for label in range(labels.max() + 1):
        y = (labels == label).astype(float)

        def surprise(logs: np.ndarray, y: np.ndarray = y) -> float:
            alpha, beta = np.exp(logs)
            covariance = np.eye(len(y)) / beta + features @ features.T / alpha
            return -multivariate_normal.logpdf(y, np.zeros(len(y)), covariance)

        starts = [(a, b) for a in (-2.0, 2.0, 6.0) for b in (1.0, 3.0)]
        best = min(minimize(surprise, start, method="Nelder-Mead").fun for start in starts)
        found.append(-best / len(y))
    return float(np.mean(found))


@pytest.mark.parametrize(("count", "dimensions", "signal"), [(40, 6, 1.0), (24, 30, 0.6), (40, 6, 0.0)])
def test_logme_is_the_largest_evidence(count: int, dimensions: int, signal: float) -> None:
    features, labels = draw(count, dimensions, signal=signal)
    expected = evidence_by_search(features, labels)
    assert measure_logme(features, labels) == pytest.approx(expected, abs=2e-5)


def logme_by_fixed_point(features: np.ndarray, labels: np.ndarray) -> float:
    """The iteration of the paper, algorithm 1, written for one class after the other."""
    count, dimensions = features.shape
    found = []
    for label in range(labels.max() + 1):
        y = (labels == label).astype(float)
        alpha = beta = 1.0
        for _ in range(3000):
            precision = alpha * np.eye(dimensions) + beta * features.T @ features
            mean = beta * np.linalg.solve(precision, features.T @ y)
            eigenvalues = beta * np.linalg.eigvalsh(features.T @ features)
            gamma = (eigenvalues / (alpha + eigenvalues)).sum()
            misfit = ((features @ mean - y) ** 2).sum()
            alpha, beta = gamma / (mean @ mean), (count - gamma) / misfit
        precision = alpha * np.eye(dimensions) + beta * features.T @ features
        mean = beta * np.linalg.solve(precision, features.T @ y)
        misfit = ((features @ mean - y) ** 2).sum()
        evidence = count / 2 * np.log(beta) + dimensions / 2 * np.log(alpha) - count / 2 * np.log(2 * np.pi)
        evidence -= beta / 2 * misfit + alpha / 2 * mean @ mean + np.linalg.slogdet(precision)[1] / 2
        found.append(evidence / count)
    return float(np.mean(found))


def test_logme_is_what_the_iteration_of_the_paper_approaches() -> None:
    features, labels = draw(60, 5)
    assert measure_logme(features, labels) == pytest.approx(logme_by_fixed_point(features, labels), abs=1e-6)


@pytest.mark.parametrize("dimensions", [4, 60])
def test_logme_does_not_know_the_scale_of_features_nor_their_rotation(dimensions: int) -> None:
    features, labels = draw(50, dimensions)
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(dimensions, dimensions)))
    assert measure_logme(1e3 * features @ turn, labels) == pytest.approx(
        measure_logme(features, labels), abs=1e-6
    )


def test_features_that_say_nothing_have_the_evidence_of_noise_alone() -> None:
    labels = np.arange(30) % 2
    y = labels.astype(float)
    expected = multivariate_normal.logpdf(y, np.zeros(30), np.eye(30) * (y @ y / 30)) / 30
    assert measure_logme(np.zeros((30, 4)), labels) == pytest.approx(expected)
    assert measure_h_score(np.ones((30, 4)), labels) == 0


@pytest.mark.parametrize(("count", "dimensions"), [(60, 8), (20, 50), (2000, 5)])
def test_h_score_against_its_definition(count: int, dimensions: int) -> None:
    """Ibrahim et al.'s form with scikit-learn's shrinkage."""
    features, labels = draw(count, dimensions)
    found = LedoitWolf().fit(features)
    means = np.stack([features[labels == label].mean(axis=0) for label in range(3)])[labels]
    between = np.cov(means, rowvar=False)
    expected = (1 - found.shrinkage_) * np.trace(np.linalg.inv(found.covariance_) @ between)
    assert measure_h_score(features, labels) == pytest.approx(expected, rel=1e-8)


def test_with_many_images_h_score_is_the_plain_one() -> None:
    features, labels = draw(20000, 4, signal=0.3)
    means = np.stack([features[labels == label].mean(axis=0) for label in range(3)])[labels]
    plain = np.trace(np.linalg.solve(np.cov(features, rowvar=False), np.cov(means, rowvar=False)))
    assert measure_h_score(features, labels) == pytest.approx(plain, rel=2e-2)


def test_leep_against_loops() -> None:
    rng = np.random.default_rng(0)
    said, labels = rng.dirichlet(np.ones(4), size=25), rng.permutation(np.arange(25) % 3)
    total = 0.0
    for said_of_one, label in zip(said, labels, strict=True):
        probability = 0.0
        for source in range(4):
            joint = sum(said[i, source] for i in range(25) if labels[i] == label) / 25
            probability += joint / (said[:, source].sum() / 25) * said_of_one[source]
        total += np.log(probability)
    assert measure_leep(said, labels) == pytest.approx(total / 25)


def test_leep_of_a_source_that_knows_the_classes_is_0() -> None:
    labels = np.arange(12) % 3
    assert measure_leep(np.eye(5)[labels], labels) == pytest.approx(0)  # two source classes never appear


@given(st.integers(0, 10**6), st.floats(0.1, 3))
def test_more_signal_scores_higher(seed: int, signal: float) -> None:
    weak, labels = draw(90, 5, seed=seed, signal=0.0)
    strong = weak + 4 * signal * np.eye(5)[labels]
    assert measure_logme(strong, labels) > measure_logme(weak, labels)
    assert measure_h_score(strong, labels) > measure_h_score(weak, labels)


def test_the_ridge_probe_is_scikit_learn_s() -> None:
    features, labels = draw(80, 6, signal=0.7)
    train, val = (features[:50], labels[:50]), (features[50:], labels[50:])
    centred = features[:50] - features[:50].mean(axis=0)
    penalty = 0.1 * 50 * (centred**2).mean()
    theirs = RidgeClassifier(alpha=penalty).fit(*train).score(*val)
    assert measure_ridge(train, val, [0.1]) == pytest.approx(theirs)
    assert measure_ridge(train, val, [1e-4, 0.1, 1e3]) >= theirs
