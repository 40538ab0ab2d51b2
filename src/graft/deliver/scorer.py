"""Images to class scores in one module: what is needed of a run to use it."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn

from graft.deliver.kept import KeptModel
from graft.model.features import ARITHMETIC
from graft.train.losses import class_scores


class Scorer(nn.Module):
    """Resized images, uint8 ``(N, C, size, size)``, to class scores ``(N, classes)``; normalises by itself.

    Args:
        kept: The model.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, kept: KeptModel) -> None:
        super().__init__()
        self.classifier = kept.classifier
        for name in ("mean", "std"):
            values = torch.tensor(getattr(kept.preprocessing, name)).view(-1, 1, 1)
            self.register_buffer(name, values, persistent=False)
        self._arithmetic = ARITHMETIC[kept.config.trainer.precision]
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Map images to scores, whose softmax is the probability of each class."""
        x = images.float().div(255).sub(self.mean).div(self.std)
        with self._computing(images.device.type):
            outputs = self.classifier(x)
        return class_scores(outputs.float())

    def _computing(self, device: str) -> contextlib.AbstractContextManager[object]:
        if self._arithmetic == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(device, dtype=self._arithmetic)
