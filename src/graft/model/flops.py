"""Floating-point operations of a backbone, stage by stage."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from graft.config.names import STAGES
from graft.model.backbone import Backbone


@torch.no_grad()
def count_flops(backbone: Backbone, channels: int, size: int) -> dict[str, float]:
    """Return the floating-point operations of one image in each stage, by the stage's number.

    A multiplication and an addition count as two. Matrix products and convolutions count, the rest does not.

    Args:
        backbone: In eval mode afterwards; the caller puts it back.
        channels: Of an image.
        size: Side of an image, in px.
    """
    backbone.eval()
    x = torch.zeros(1, channels, size, size, device=next(backbone.parameters()).device)
    found = {}
    for stage in range(1, STAGES + 1):
        with FlopCounterMode(display=False) as counter:
            x = backbone.stage(stage)(x)
        found[str(stage)] = float(counter.get_total_flops())
    return found
