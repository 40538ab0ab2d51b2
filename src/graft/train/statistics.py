"""How many parts of a batch a network sees as if each were a batch of its own."""

from __future__ import annotations

import functools

import torch
from torch import nn

from graft.config.schema import Config, TrainerConfig
from graft.model.backbone import build_backbone, build_network

_BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)


def count_statistics(config: Config, *, channels: int, image_size: int) -> int:
    """Return into how many parts the effective batch falls for BatchNorm, 1 where none trains.

    A BatchNorm that trains takes the mean and variance of the images that go through it at once. Those are
    the images of one process (on GPUs of all: SyncBatchNorm) and one micro-batch; so their number changes the
    result.

    Args:
        config: A valid configuration.
        channels: Channels of the preprocessed images.
        image_size: Side of the preprocessed images, in px.
    """
    trainer = config.trainer
    processes = 1 if runs_on_gpu(trainer) else trainer.devices * trainer.num_nodes
    parts = processes * trainer.accumulate
    if parts == 1:
        return 1
    chosen = config.backbone
    stages = _stages_with_batch_norm(chosen.name, image_size, channels, chosen.hidden_size, chosen.layers)
    return parts if any(stages[config.transfer.freeze_depth :]) else 1


def runs_on_gpu(trainer: TrainerConfig) -> bool:
    """Say whether a run on this machine is one on GPUs."""
    return trainer.accelerator != "cpu" and torch.cuda.is_available()


def explain_statistics(parts: int) -> list[str]:
    """Return what the user should know of batches in several parts, one line or none."""
    if parts == 1:
        return []
    line = (
        f"BatchNorm trains on each of {parts} parts of a batch by itself (processes on the CPU, "
        "micro-batches): the result differs from that of one part, and the number of parts is in the run key."
    )
    return [line]


@functools.lru_cache(maxsize=64)
def _stages_with_batch_norm(
    name: str, image_size: int, channels: int, hidden_size: int, layers: int
) -> tuple[bool, ...]:
    """Say for each stage of a backbone whether it has a BatchNorm."""
    with torch.random.fork_rng():
        network = build_network(
            name,
            num_classes=2,
            image_size=image_size,
            channels=channels,
            hidden_size=hidden_size,
            layers=layers,
        )
        backbone = build_backbone(network, name, image_size, channels)
    return tuple(any(isinstance(part, _BATCH_NORMS) for part in stage.modules()) for stage in backbone.stages)
