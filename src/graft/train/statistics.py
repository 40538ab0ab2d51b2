"""How many parts of a batch a network sees as if each were a batch of its own."""

from __future__ import annotations

import functools
import os

import torch
from torch import nn
from torchvision.ops import StochasticDepth

from graft.config.schema import Config, TrainerConfig
from graft.errors import GraftError
from graft.model.backbone import build_backbone, build_network

_BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)
_CHANCE = (nn.modules.dropout._DropoutNd, StochasticDepth)


def count_statistics(config: Config, *, channels: int, image_size: int) -> int:
    """Return into how many parts the effective batch falls, 1 where that does not change the result.

    A BatchNorm that trains takes the mean and variance of the images that go through it at once: those of one
    process (on GPUs of all: SyncBatchNorm) and one micro-batch. Augmentation and dropout draw for each of
    them by itself.

    Args:
        config: A valid configuration.
        channels: Channels of the preprocessed images.
        image_size: Side of the preprocessed images, in px.
    """
    trainer, chosen = config.trainer, config.backbone
    processes = trainer.devices * trainer.num_nodes
    if processes * trainer.accumulate == 1:
        return 1
    until = config.transfer.freeze_until
    stages = _describe_stages(chosen.name, image_size, channels, chosen.hidden_size, chosen.layers, until)
    trained = stages[config.transfer.freeze_depth :]
    if _draws_chance(config) or any(chance for _, chance in trained):
        return processes * trainer.accumulate
    if any(norm for norm, _ in trained):
        return (1 if runs_on_gpu(trainer) else processes) * trainer.accumulate
    return 1


def _draws_chance(config: Config) -> bool:
    """Say whether training draws at random outside the backbone."""
    head = config.head
    kept_dropout = head.name == "pretrained_classifier"  # the classifiers of VGG and others have dropout
    return config.augment.name != "none" or kept_dropout or (head.name == "mlp" and head.dropout > 0)


def check_hardware(trainer: TrainerConfig) -> None:
    """Refuse hardware that is not there, before Lightning stumbles over it.

    Raises:
        GraftError: GPUs are asked for where there are too few, or several machines without a launcher.
    """
    gpus = torch.cuda.device_count()
    if trainer.accelerator == "gpu" and gpus < trainer.devices:
        raise GraftError(
            f"Expected GPUs for `trainer.accelerator=gpu`, {trainer.devices} of them, but this machine has "
            f"{gpus}. "
            "Use `trainer.accelerator=auto` or `cpu`, or fewer `trainer.devices`."
        )
    if trainer.num_nodes > 1 and not {"SLURM_NTASKS", "LOCAL_RANK"} & os.environ.keys():
        raise GraftError(
            f"Expected `trainer.num_nodes={trainer.num_nodes}` to be started on every machine by srun or "
            "torchrun, but it was started by hand. On one machine use `trainer.devices`."
        )


def runs_on_gpu(trainer: TrainerConfig) -> bool:
    """Say whether a run on this machine is one on GPUs."""
    return trainer.accelerator != "cpu" and torch.cuda.is_available()


def check_precision(trainer: TrainerConfig) -> None:
    """Refuse half precision where there is no accelerator: it would silently become bf16.

    Raises:
        GraftError: ``trainer.precision=16-mixed`` on a machine without one.
    """
    if (
        trainer.precision == "16-mixed"
        and torch.accelerator.current_accelerator(check_available=True) is None
    ):
        raise GraftError(
            "Expected a GPU for `trainer.precision=16-mixed`, but torch finds none here. On a CPU use 32 or "
            "bf16-mixed."
        )


def check_compiler(trainer: TrainerConfig) -> None:
    """Refuse to compile where nothing can.

    Raises:
        GraftError: ``trainer.compile`` without Triton on a GPU, or without a C++ compiler on a CPU.
    """
    if not trainer.compile:
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler
    from torch.utils._triton import has_triton

    if runs_on_gpu(trainer):
        lacking = "" if has_triton() else "Triton (`pip install triton`)"
    else:
        try:
            get_cpp_compiler()
            lacking = ""
        except InvalidCxxCompiler:
            lacking = "a C++ compiler (`apt-get install g++`, or its path in CXX)"
    if lacking:
        raise GraftError(
            f"Expected {lacking} for `trainer.compile=true`, but torch finds none here. Install it, or leave "
            "`trainer.compile` out: the result is the same but for its last digits."
        )


def explain_statistics(parts: int) -> list[str]:
    """Return what the user should know of batches in several parts, one line or none."""
    if parts == 1:
        return []
    line = (
        f"A batch falls into {parts} parts (processes, micro-batches), each with BatchNorm statistics or "
        "random draws of its own: the result differs from that of one part, and their number is in the key."
    )
    return [line]


@functools.lru_cache(maxsize=64)
def _describe_stages(
    name: str, image_size: int, channels: int, hidden_size: int, layers: int, freeze_until: str | None
) -> tuple[tuple[bool, bool], ...]:
    """Say for each stage of a backbone whether it has a BatchNorm, and whether it drops at random."""
    with torch.random.fork_rng():
        network = build_network(
            name,
            num_classes=2,
            image_size=image_size,
            channels=channels,
            hidden_size=hidden_size,
            layers=layers,
        )
        backbone = build_backbone(network, name, image_size, channels, freeze_until)
    return tuple(
        (
            any(isinstance(part, _BATCH_NORMS) for part in stage.modules()),
            any(isinstance(part, _CHANCE) and part.p > 0 for part in stage.modules()),
        )
        for stage in backbone.stages
    )
