"""Why a run shares no activations with others."""

from __future__ import annotations

from graft.config.schema import Config


def find_obstacle(config: Config) -> str:
    """Say why a run shares no activations, in words for the plan and the report; empty where it does."""
    augment = config.augment
    if config.transfer.freeze_depth == 0:
        return "all stages train"
    if augment.mixup or augment.cutmix:
        return "mixup and cutmix make new images at every step"
    if augment.name != "none" and augment.views is None:
        return "augmentation makes new images at every step; `augment.views=4` makes four of each"
    if config.trainer.limit_batches is not None:
        return "`trainer.limit_batches` looks at a part of the images only"
    if config.trainer.devices * config.trainer.num_nodes > 1:
        return "several devices"
    return ""


def effective_rounding(config: Config) -> str | None:
    """Return what a run's activations are rounded to, None where it shares none, or exact ones."""
    return None if config.reuse.dtype == "float32" or find_obstacle(config) else config.reuse.dtype
