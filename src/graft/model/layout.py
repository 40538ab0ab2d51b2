"""How a network's numbers lie in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from graft.model.classifier import Classifier


def put_channels_last(classifier: Classifier) -> None:
    """Let convolutions, and what goes through them, have channels last in memory; shapes stay as they are."""
    classifier.to(memory_format=torch.channels_last)

    def lay_out(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (x,) = inputs
        return (x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x,)

    classifier.backbone.register_forward_pre_hook(lay_out)
