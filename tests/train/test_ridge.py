"""The ridge probe against scikit-learn, whatever the shape and scale of the features."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

import graft.train.ridge as room
from graft.errors import GraftError
from graft.train.ridge import find_temperature, require_memory, solve_ridge

STRENGTHS = (1e-4, 1e-2, 1.0, 100.0)


def draw(seed, n=40, width=12, scale=1.0, classes=3):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    centres = rng.normal(size=(classes, width))
    return scale * (centres[labels] + rng.normal(size=(n, width)) + 5), labels


@pytest.mark.parametrize(("n", "width"), [(40, 12), (12, 40), (20, 20)])
@pytest.mark.parametrize("scale", [1.0, 1e3])
@pytest.mark.parametrize("weighted", [False, True])
def test_every_strength_is_scikit_learns_answer(n, width, scale, weighted):
    features, labels = draw(0, n, width, scale)
    weights = np.random.default_rng(1).uniform(0.1, 2, n) if weighted else None
    share = np.ones(n) if weights is None else weights * n / weights.sum()
    centre = (share[:, None] * features).mean(axis=0)
    variance = (share[:, None] * np.square(features - centre)).mean()
    for strength, head in zip(STRENGTHS, solve_ridge(features, labels, 3, STRENGTHS, weights), strict=True):
        oracle = Ridge(alpha=strength * variance * n, solver="svd")
        oracle.fit(features, np.eye(3)[labels], sample_weight=share if weighted else None)
        np.testing.assert_allclose(head.scores(features), oracle.predict(features), rtol=1e-7, atol=1e-8)


@given(scale=st.floats(1e-3, 1e4), shift=st.floats(-100, 100))
def test_a_strength_means_the_same_at_every_scale(scale, shift):
    features, labels = draw(2)
    one = solve_ridge(features, labels, 3, [0.1])[0].scores(features)
    other = solve_ridge(scale * features + shift, labels, 3, [0.1])[0].scores(scale * features + shift)
    np.testing.assert_allclose(one, other, atol=1e-6)


@given(seed=st.integers(0, 100), weighted=st.booleans())
def test_both_gram_matrices_give_the_same_head(seed, weighted):
    """Features that are always 0 change nothing but which of the two is the smaller one."""
    features, labels = draw(seed, n=40, width=12)
    weights = np.random.default_rng(seed).uniform(0.1, 2, 40) if weighted else None
    wide = np.concatenate([features, np.zeros((40, 48))], axis=1)
    primal = solve_ridge(features, labels, 3, STRENGTHS, weights)
    dual = solve_ridge(wide, labels, 3, [strength * 60 / 12 for strength in STRENGTHS], weights)
    for one, other in zip(primal, dual, strict=True):
        np.testing.assert_allclose(other.weight[:, :12], one.weight, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(other.bias, one.bias, rtol=1e-6, atol=1e-9)
        assert np.abs(other.weight[:, 12:]).max() < 1e-12


def test_what_cannot_fit_into_the_memory_is_refused_before_it_is_computed(monkeypatch):
    require_memory(1000, 200, 512)
    require_memory(100, 20, 262_144)  # wide, and few: the smaller matrix is small
    with pytest.raises(GraftError) as caught:
        require_memory(1_000_000, 10_000, 262_144)
    said = str(caught.value)
    assert "1,000,000 training images with 262,144 numbers each" in said
    assert "which need 9,570.5 GB" in said
    assert "`data.labels_per_class`" in said
    monkeypatch.setattr(room, "find_free_memory", lambda: None)
    require_memory(1_000_000, 10_000, 262_144)  # a system that does not say: try


def test_features_that_say_nothing_give_the_shares_of_the_classes():
    labels = np.array([0, 0, 0, 1])
    head = solve_ridge(np.full((4, 5), 7.0), labels, 2, [1.0])[0]
    np.testing.assert_allclose(head.scores(np.full((1, 5), 7.0)), [[0.75, 0.25]])


def test_the_temperature_makes_probabilities_fit():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(3, p=row) for row in probabilities])
    assert find_temperature(logits / 20, labels) == pytest.approx(20, rel=0.1)


def test_a_few_images_told_right_do_not_make_everything_certain():
    labels = np.array([0, 1, 2, 0, 1, 2])
    scores = np.eye(3)[labels]
    highest = [np.exp(find_temperature(scores[:n], labels[:n]) * np.array([1.0, 0.0, 0.0])) for n in (3, 6)]
    few, more = (row[0] / row.sum() for row in highest)
    assert few == pytest.approx(5 / 6, abs=0.01), "3 images and one of no class: 3/4 + 1/4 * 1/3"
    assert more == pytest.approx(19 / 21, abs=0.01)
