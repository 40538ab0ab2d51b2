from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.config import names
from graft.config.schema import LossConfig
from graft.train.evaluation import Evaluation
from graft.train.losses import build_loss
from graft.train.metrics import CHEAP, METRICS, describe_classes, measure

LOSS = build_loss(LossConfig())


def draw(seed: int, classes: int, images: int) -> tuple[Evaluation, np.ndarray, np.ndarray, np.ndarray]:
    """Return an evaluation, and truth, prediction and probabilities; often some classes do not occur."""
    rng = np.random.default_rng(seed)
    outputs = torch.from_numpy(rng.normal(size=(images, classes)).astype(np.float32))
    label = torch.from_numpy(rng.integers(0, classes, images))
    probabilities = outputs.double().softmax(1).numpy()
    return (
        Evaluation(torch.arange(images), label, outputs),
        label.numpy(),
        outputs.argmax(1).numpy(),
        probabilities,
    )


def test_every_metric_that_can_be_named_is_measured() -> None:
    assert list(METRICS) == list(names.METRICS)
    found = measure(draw(0, 7, 40)[0], LOSS)
    assert set(found) == set(names.METRICS)
    for name, metric in names.METRICS.items():
        assert metric.unit in ("fraction", "nats")
        assert metric.unit == "nats" or 0 <= found[name] <= 1
    assert set(measure(draw(0, 7, 40)[0], LOSS, CHEAP)) == set(CHEAP)


CASES = given(st.integers(0, 10_000), st.integers(2, 8), st.integers(1, 30))


@CASES
@settings(max_examples=80)
def test_counted_metrics_are_those_of_scikit_learn(seed: int, classes: int, images: int) -> None:
    evaluation, truth, predicted, probabilities = draw(seed, classes, images)
    found = measure(evaluation, LOSS)
    recalls = [(predicted[truth == c] == c).mean() for c in range(classes) if (truth == c).any()]
    assert found["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(truth, predicted))
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    # scikit-learn, too, counts the classes that occur in truth or prediction.
    for name in ("precision", "recall", "f1"):
        score = getattr(sklearn.metrics, f"{name}_score")
        assert found[f"macro_{name}"] == pytest.approx(
            score(truth, predicted, average="macro", zero_division=0)
        )
    counts = sklearn.metrics.confusion_matrix(truth, predicted, labels=range(classes))
    np.testing.assert_array_equal(evaluation.confusion(), counts)
    expected = sklearn.metrics.log_loss(truth, probabilities, labels=range(classes))
    assert found["nll"] == pytest.approx(expected)
    assert found["loss"] == pytest.approx(expected, rel=1e-4)
    if classes <= 5:
        assert "top5_accuracy" not in found
    else:
        top = sklearn.metrics.top_k_accuracy_score(truth, probabilities, k=5, labels=range(classes))
        assert found["top5_accuracy"] == pytest.approx(top)


@CASES
@settings(max_examples=80)
def test_ranked_metrics_are_those_of_scikit_learn(seed: int, classes: int, images: int) -> None:
    """One class against the rest, a mean over those for which that has a meaning."""
    evaluation, truth, _, probabilities = draw(seed, classes, images)
    found = measure(evaluation, LOSS, ("auroc", "average_precision"))
    present = [c for c in range(classes) if (truth == c).any()]
    beside = [c for c in present if len(present) > 1]
    precision = [sklearn.metrics.average_precision_score(truth == c, probabilities[:, c]) for c in present]
    assert found["average_precision"] == pytest.approx(np.mean(precision), abs=1e-6)
    if not beside:
        assert "auroc" not in found
        return
    areas = [sklearn.metrics.roc_auc_score(truth == c, probabilities[:, c]) for c in beside]
    assert found["auroc"] == pytest.approx(np.mean(areas), abs=1e-6)
    if len(present) == classes == 2:
        assert found["auroc"] == pytest.approx(
            sklearn.metrics.roc_auc_score(truth, probabilities[:, 1]), abs=1e-6
        )


@CASES
@settings(max_examples=50)
def test_calibration_error_is_its_formula(seed: int, classes: int, images: int) -> None:
    evaluation, truth, predicted, probabilities = draw(seed, classes, images)
    confidence = probabilities.max(axis=1)
    bins = np.minimum((confidence * 15).astype(int), 14)
    expected = sum(
        abs((predicted[bins == b] == truth[bins == b]).mean() - confidence[bins == b].mean())
        * (bins == b).mean()
        for b in np.unique(bins)
    )
    assert measure(evaluation, LOSS, ["calibration_error"])["calibration_error"] == pytest.approx(
        expected, abs=1e-5
    )


def test_one_logit_is_measured_as_two_classes() -> None:
    logits = torch.tensor([[-2.0], [3.0], [1.0], [-1.0]])
    evaluation = Evaluation(torch.arange(4), torch.tensor([0, 1, 0, 1]), logits)
    found = measure(evaluation, build_loss(LossConfig(name="binary_cross_entropy")))
    assert evaluation.predicted.tolist() == [0, 1, 1, 0]
    assert found["accuracy"] == 0.5
    assert found["auroc"] == 0.75
    assert found["nll"] == pytest.approx(found["loss"])
    assert evaluation.confusion().tolist() == [[1, 1], [1, 1]]


def test_a_table_of_classes_is_that_of_scikit_learn() -> None:
    evaluation, truth, predicted, _ = draw(3, 4, 25)
    rows = describe_classes(evaluation, "abcd")
    values = sklearn.metrics.precision_recall_fscore_support(
        truth, predicted, labels=range(4), zero_division=0
    )
    assert [row["class"] for row in rows] == list("abcd")
    for name, column in zip(("precision", "recall", "f1", "images"), values, strict=True):
        assert [row[name] for row in rows] == pytest.approx(column.tolist())


def test_worst_errors_are_the_surest_wrong_answers() -> None:
    outputs = torch.tensor([[9.0, 0.0], [0.0, 3.0], [5.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    evaluation = Evaluation(torch.tensor([10, 11, 12, 13, 14]), torch.tensor([0, 0, 1, 0, 0]), outputs)
    worst = evaluation.worst_errors()
    assert [(error["index"], error["true"], error["predicted"]) for error in worst] == [
        (12, 1, 0), (11, 0, 1), (13, 0, 1),
    ]  # fmt: skip
    assert worst[0]["probability"] == pytest.approx(1 / (1 + np.exp(-5)))
    assert evaluation.worst_errors(limit=1) == worst[:1]
