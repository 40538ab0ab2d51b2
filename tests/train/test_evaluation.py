from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.config import names
from graft.config.schema import LossConfig
from graft.train.evaluation import METRICS, Evaluation, gather, measure
from graft.train.losses import build_loss

LOSS = build_loss(LossConfig())


def test_every_metric_that_can_be_named_is_measured() -> None:
    evaluation = Evaluation(torch.arange(4), torch.tensor([0, 1, 0, 1]), torch.randn(4, 2))
    assert set(measure(evaluation, LOSS)) == set(names.METRICS)
    assert set(METRICS) < set(names.METRICS)


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 30))
@settings(max_examples=80, deadline=None)
def test_metrics_are_those_of_scikit_learn(seed: int, classes: int, images: int) -> None:
    """Often with fewer images than classes: some do not occur, or are never predicted."""
    rng = np.random.default_rng(seed)
    outputs = torch.from_numpy(rng.normal(size=(images, classes)).astype(np.float32))
    label = torch.from_numpy(rng.integers(0, classes, images))
    evaluation = Evaluation(torch.arange(images), label, outputs)
    found = measure(evaluation, LOSS)
    truth, predicted = label.numpy(), outputs.argmax(1).numpy()
    recalls = [(predicted[truth == c] == c).mean() for c in range(classes) if (truth == c).any()]
    # scikit-learn counts the classes that occur in truth or prediction, as torchmetrics does.
    f1 = sklearn.metrics.f1_score(truth, predicted, average="macro", zero_division=0)
    assert found["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(truth, predicted))
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert found["macro_f1"] == pytest.approx(f1, abs=1e-6)
    expected = sklearn.metrics.log_loss(truth, outputs.double().softmax(1).numpy(), labels=range(classes))
    assert found["loss"] == pytest.approx(expected, rel=1e-4)
    counts = sklearn.metrics.confusion_matrix(truth, predicted, labels=range(classes))
    np.testing.assert_array_equal(evaluation.confusion(), counts)


def test_one_logit_is_measured_as_two_classes() -> None:
    evaluation = Evaluation(
        torch.arange(4), torch.tensor([0, 1, 0, 1]), torch.tensor([[-2.0], [3.0], [1.0], [-1.0]])
    )
    loss = build_loss(LossConfig(name="binary_cross_entropy"))
    assert evaluation.predicted.tolist() == [0, 1, 1, 0]
    assert measure(evaluation, loss)["accuracy"] == 0.5
    assert evaluation.confusion().tolist() == [[1, 1], [1, 1]]


def test_parts_are_joined_in_the_order_of_the_data_set() -> None:
    parts = [
        Evaluation(
            torch.tensor(index), torch.tensor(index) % 2, torch.tensor(index).float()[:, None].repeat(1, 2)
        )
        for index in ([7, 3], [1, 9])
    ]
    others = {torch.int64: torch.tensor([4, 0]), torch.float32: torch.tensor([[4.0, 4.0], [0.0, 0.0]])}
    joined = gather(parts, lambda mine: [mine, others[mine.dtype]])
    assert joined.index.tolist() == [0, 1, 3, 4, 7, 9]
    assert joined.outputs[:, 0].tolist() == [0, 1, 3, 4, 7, 9]


def test_an_image_that_is_counted_twice_is_a_defect() -> None:
    part = Evaluation(torch.tensor([1, 2]), torch.tensor([0, 0]), torch.zeros(2, 2))
    with pytest.raises(RuntimeError, match="evaluated twice"):
        gather([part], lambda mine: [mine, mine])
