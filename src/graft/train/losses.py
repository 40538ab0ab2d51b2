"""What training minimises: one loss value per image, so that shares of a batch add up exactly."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from graft.config.schema import LossConfig

#: Below it the power of the focal loss has no slope: at 0 that of a gamma below 1 is infinite.
_SMALLEST = 1e-12

#: Maps class scores ``(N, outputs)`` and labels ``(N,)`` to losses ``(N,)``.
Loss = Callable[[Tensor, Tensor], Tensor]


def build_loss(config: LossConfig) -> Loss:
    """Return the loss that ``config`` names.

    Class weights multiply the loss of each image. They are not divided by their sum over the batch: that
    would make the loss of an image depend on its batch-mates, and differ between one device and several.
    """
    loss = LOSSES[config.name](config)
    if config.class_weights is None:
        return loss
    weights = torch.tensor(config.class_weights)

    def weighted(scores: Tensor, labels: Tensor) -> Tensor:
        return loss(scores, labels) * weights.to(scores.device)[labels]

    return weighted


def class_scores(outputs: Tensor) -> Tensor:
    """Return scores whose softmax is the probability of each class.

    Args:
        outputs: ``(N, classes)``, or ``(N, 1)`` for two classes told apart by one logit.

    Returns:
        ``(N, classes)``; one logit z becomes (0, z), whose softmax is (1 - sigmoid(z), sigmoid(z)).
    """
    if outputs.shape[1] > 1:
        return outputs
    return torch.cat([torch.zeros_like(outputs), outputs], dim=1)


def _cross_entropy(config: LossConfig) -> Loss:
    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, labels, reduction="none", label_smoothing=config.label_smoothing)

    return loss


def _binary_cross_entropy(config: LossConfig) -> Loss:
    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs[:, 0], labels.to(outputs.dtype), reduction="none")

    return loss


def _mean_squared_error(config: LossConfig) -> Loss:
    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        targets = F.one_hot(labels, outputs.shape[1]).to(outputs.dtype)
        return F.mse_loss(outputs, targets, reduction="none").mean(dim=1)

    return loss


def _focal(config: LossConfig) -> Loss:
    """Cross-entropy times (1 - p)^gamma.

    Source: Lin et al. 2017, Focal Loss for Dense Object Detection, equation 4.
    """

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        surprise = F.cross_entropy(outputs, labels, reduction="none")
        missing = (-torch.expm1(-surprise)).clamp_min(_SMALLEST)
        return missing**config.focal_gamma * surprise

    return loss


LOSSES: dict[str, Callable[[LossConfig], Loss]] = {
    "cross_entropy": _cross_entropy,
    "binary_cross_entropy": _binary_cross_entropy,
    "mean_squared_error": _mean_squared_error,
    "focal": _focal,
}
