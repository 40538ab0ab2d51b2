"""Metrics image by image: against scikit-learn, and their spread against a bootstrap of images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn import metrics as sk

from graft.compare.image_scores import score_images
from graft.config.names import METRICS
from graft.train.evaluation import Evaluation
from graft.train.metrics import measure as measure_split

CLASSES = 7


def plain_loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(outputs, labels, reduction="none")


def draw(seed: int, images: int = 120, skew: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Return labels of classes that differ in size, and scores that know something."""
    rng = np.random.default_rng(seed)
    share = skew ** np.arange(CLASSES)
    label = rng.choice(CLASSES, images, p=share / share.sum())
    scores = rng.normal(0, 1, (images, CLASSES)) + 1.2 * np.eye(CLASSES)[label]
    return label, scores


def measure(metric: str, label: np.ndarray, scores: np.ndarray) -> float:
    """Return a metric as scikit-learn has it."""
    said, shares = scores.argmax(axis=1), softmax(scores, axis=1)
    macro = {"average": "macro", "labels": np.union1d(label, said), "zero_division": 0}
    ways = {
        "accuracy": lambda: sk.accuracy_score(label, said),
        "balanced_accuracy": lambda: sk.recall_score(
            label, said, average="macro", labels=np.unique(label), zero_division=0
        ),
        "macro_precision": lambda: sk.precision_score(label, said, **macro),
        "macro_recall": lambda: sk.recall_score(label, said, **macro),
        "macro_f1": lambda: sk.f1_score(label, said, **macro),
        "top5_accuracy": lambda: sk.top_k_accuracy_score(label, scores, k=5, labels=range(CLASSES)),
        "auroc": lambda: np.mean(
            [sk.roc_auc_score(label == one, shares[:, one]) for one in np.unique(label)]
        ),
        "average_precision": lambda: np.mean(
            [sk.average_precision_score(label == one, shares[:, one]) for one in np.unique(label)]
        ),
        "nll": lambda: sk.log_loss(label, shares, labels=range(CLASSES)),
        "loss": lambda: sk.log_loss(label, shares, labels=range(CLASSES)),
    }
    return float(ways[metric]())


BY_SKLEARN = sorted(set(METRICS) - {"calibration_error"})


@pytest.mark.parametrize("metric", BY_SKLEARN)
@pytest.mark.parametrize("seed", range(4))
def test_the_mean_over_images_is_the_metric(metric: str, seed: int) -> None:
    label, scores = draw(seed, images=40 if seed == 0 else 150, skew=0.4 if seed == 1 else 0.8)
    scored = score_images(metric, label, scores)
    assert scored is not None
    assert scored.values.mean() == pytest.approx(measure(metric, label, scores), abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(sorted(METRICS)), st.integers(0, 1000), st.integers(1, 60), st.sampled_from([0.05, 1.0])
)
def test_the_mean_over_images_is_what_runs_record(metric: str, seed: int, images: int, step: float) -> None:
    """Few images, classes that do not occur and tied scores included."""
    label, scores = draw(seed, images)
    if metric != "top5_accuracy":  # which of tied classes are among the five is anybody's choice
        scores = np.round(scores / step) * step
    scores = scores.astype(np.float32)
    evaluation = Evaluation(torch.arange(images), torch.from_numpy(label), torch.from_numpy(scores))
    recorded = measure_split(evaluation, plain_loss, [metric]).get(metric)
    scored = score_images(metric, label, scores.astype(np.float64))
    assert (scored is None) == (recorded is None)
    if scored is not None:
        assert scored.values.shape == scored.unit.shape == (images,)
        assert scored.values.mean() == pytest.approx(recorded, abs=1e-5)


@pytest.mark.parametrize("metric", ["average_precision", "auroc", "macro_f1", "calibration_error"])
def test_the_standard_error_is_that_of_a_bootstrap(metric: str) -> None:
    label, scores = draw(3, images=600, skew=0.9)
    scores *= 2  # too sure of itself, so that no bin is calibrated by chance
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, len(label), len(label)) for _ in range(300)]
    again = [score_images(metric, label[some], scores[some]) for some in rows]
    deviation = np.std([one.values.mean() for one in again if one is not None], ddof=1)
    scored = score_images(metric, label, scores)
    assert scored is not None
    assert scored.values.std(ddof=1) / np.sqrt(len(label)) == pytest.approx(deviation, rel=0.15)


@pytest.mark.parametrize("metric", ["macro_precision", "macro_f1", "auroc", "average_precision"])
def test_the_spread_over_images_is_that_of_new_images(metric: str) -> None:
    """The delta method against the deviation of the metric over new test sets of the same world."""
    values = [score_images(metric, *draw(seed, images=500)) for seed in range(150)]
    deviation = np.std([one.values.mean() for one in values if one is not None], ddof=1)
    said = np.mean([one.values.std(ddof=1) / np.sqrt(500) for one in values if one is not None])
    assert said == pytest.approx(deviation, rel=0.2)


def test_an_image_counts_as_much_as_leaving_it_out_says() -> None:
    """The influence on average precision against the jackknife."""
    label, scores = draw(1, images=200, skew=0.9)
    scored = score_images("average_precision", label, scores)
    assert scored is not None
    whole = scored.values.mean()
    for image in range(0, 200, 10):
        rest = np.delete(np.arange(200), image)
        without = score_images("average_precision", label[rest], scores[rest])
        assert without is not None
        assert 199 * (whole - without.values.mean()) == pytest.approx(scored.values[image] - whole, abs=0.05)


def test_five_guesses_of_five_classes_say_nothing() -> None:
    assert score_images("top5_accuracy", np.array([0, 1]), np.zeros((2, 5))) is None


def test_the_unit_is_what_an_image_changes() -> None:
    label = np.array([0, 0, 0, 1])
    right, wrong = np.eye(2)[label], np.eye(2)[1 - label]
    scored, other = (score_images("balanced_accuracy", label, one) for one in (right, wrong))
    assert scored is not None
    assert other is not None
    assert scored.values - other.values == pytest.approx(scored.unit)
