from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss
from torchvision.ops import sigmoid_focal_loss

from graft.config.schema import LossConfig
from graft.train.losses import LOSSES, build_loss, class_scores

ROWS = 17


def draw(classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    outputs = 3 * torch.randn(ROWS, classes, generator=generator)
    return outputs, torch.randint(0, max(2, classes), (ROWS,), generator=generator)


def test_cross_entropy_is_the_log_loss_of_scikit_learn() -> None:
    outputs, labels = draw(4)
    mean = build_loss(LossConfig())(outputs, labels).mean()
    assert float(mean) == pytest.approx(
        log_loss(labels, outputs.double().softmax(1), labels=range(4)), rel=1e-5
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_label_smoothing_is_that_of_torch(smoothing: float) -> None:
    outputs, labels = draw(4)
    losses = build_loss(LossConfig(label_smoothing=smoothing))(outputs, labels)
    assert losses.mean() == pytest.approx(float(F.cross_entropy(outputs, labels, label_smoothing=smoothing)))


def test_mean_squared_error_is_to_one_hot_targets() -> None:
    outputs, labels = draw(4)
    expected = ((outputs.numpy() - np.eye(4)[labels.numpy()]) ** 2).mean(axis=1)
    found = build_loss(LossConfig(name="mean_squared_error"))(outputs, labels)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_loss_of_two_classes_is_that_of_torchvision(gamma: float) -> None:
    logit, labels = draw(1)
    found = build_loss(LossConfig(name="focal", focal_gamma=gamma))(class_scores(logit), labels)
    expected = sigmoid_focal_loss(logit[:, 0], labels.float(), alpha=-1, gamma=gamma)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_focal_loss_without_gamma_is_cross_entropy() -> None:
    outputs, labels = draw(5)
    focal = build_loss(LossConfig(name="focal", focal_gamma=0.0))(outputs, labels)
    torch.testing.assert_close(focal, build_loss(LossConfig())(outputs, labels))


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_a_sure_answer_has_a_finite_gradient(gamma: float, label: int) -> None:
    """Right and wrong: the power of the focal loss has an infinite slope at 0."""
    outputs = torch.tensor([[80.0, -80.0]], requires_grad=True)
    for name in LOSSES.keys() - {"binary_cross_entropy"}:
        loss = build_loss(LossConfig(name=name, focal_gamma=gamma))(outputs, torch.tensor([label]))
        (gradient,) = torch.autograd.grad(loss.sum(), outputs)
        assert torch.isfinite(gradient).all(), name


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_one_logit_is_two_classes_by_softmax(seed: int) -> None:
    logit, labels = draw(1, seed)
    one = build_loss(LossConfig(name="binary_cross_entropy"))(logit, labels)
    two = build_loss(LossConfig())(class_scores(logit), labels)
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


@given(st.integers(0, 10_000), st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_the_loss_of_one_logit_is_linear_in_a_soft_target(seed: int, share: float) -> None:
    """So two labels with their shares are the soft target."""
    logit, labels = draw(1, seed)
    loss = build_loss(LossConfig(name="binary_cross_entropy"))
    mixed = share * loss(logit, labels) + (1 - share) * loss(logit, 1 - labels)
    soft = share * labels + (1 - share) * (1 - labels)
    expected = F.binary_cross_entropy_with_logits(logit[:, 0], soft, reduction="none")
    torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-5)


def test_class_scores_of_one_logit_are_a_probability() -> None:
    logit, _ = draw(1)
    torch.testing.assert_close(class_scores(logit).softmax(dim=1)[:, 1], logit[:, 0].sigmoid())
    outputs, _ = draw(3)
    assert class_scores(outputs) is outputs


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_the_loss_of_an_image_does_not_depend_on_its_batch_mates(name: str) -> None:
    outputs, labels = draw(1 if name == "binary_cross_entropy" else 3)
    labels %= outputs.shape[1] if outputs.shape[1] > 1 else 2
    weights = [0.5, 2.0, 4.0][: max(2, outputs.shape[1])]
    loss = build_loss(LossConfig(name=name, class_weights=weights))
    whole = loss(outputs, labels)
    assert whole.shape == (ROWS,)
    alone = torch.cat([loss(outputs[row : row + 1], labels[row : row + 1]) for row in range(ROWS)])
    torch.testing.assert_close(whole, alone)
    plain = build_loss(LossConfig(name=name))(outputs, labels)
    torch.testing.assert_close(whole, plain * torch.tensor(weights)[labels])


def test_class_weights_are_those_of_torch_up_to_the_division() -> None:
    outputs, labels = draw(3)
    weights = torch.tensor([0.5, 2.0, 4.0])
    found = build_loss(LossConfig(class_weights=weights.tolist()))(outputs, labels)
    torch.testing.assert_close(found, F.cross_entropy(outputs, labels, weight=weights, reduction="none"))
