"""Optimizers over named parameter groups, and learning-rate schedules as pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

from graft.config.schema import OptimConfig

#: Fraction of the peak rate from which one_cycle starts, and to which it falls.
_ONE_CYCLE_START = 1 / 25
_ONE_CYCLE_END = 1e-4

#: Part of the best loss by which a validation must be better to count.
_PLATEAU_THRESHOLD = 1e-4

#: What one_cycle takes for its climb when `optim.warmup` is 0.
_ONE_CYCLE_CLIMB = 0.3


def build_optimizer(config: OptimConfig, groups: Mapping[str, Sequence[tuple[str, Parameter]]]) -> Optimizer:
    """Return the optimizer over all groups that have a parameter.

    Every group is there from step 0, so that schedules and resumed runs see the same groups throughout.

    Args:
        config: Optimizer, rates and decay.
        groups: Named parameters by group name (``stage1/decay`` ... ``head/no_decay``).
    """
    described: list[dict[str, Any]] = []
    for name, members in groups.items():
        if not members:
            continue
        in_head = name.startswith("head")
        decays = config.decay_norms_and_biases or not name.endswith("/no_decay")
        described.append(
            {
                "name": name,
                "params": [parameter for _, parameter in members],
                "lr": config.lr * (1.0 if in_head else config.backbone_lr_multiplier),
                "weight_decay": config.weight_decay if decays else 0.0,
            }
        )
    optimizer = OPTIMIZERS[config.name](config, described)
    # Adam asks the driver for GPUs at every step, in case one records it as a graph: 0.1 ms, for nothing.
    setattr(optimizer, "_accelerator_graph_capture_health_check", _do_nothing)  # noqa: B010
    return optimizer


def _do_nothing() -> None:
    """Stand for a check that has no meaning here."""


def schedule_factor(config: OptimConfig, total_steps: int) -> Callable[[int], float]:
    """Return the multiple of the peak rate as a function of the optimizer step, counted from 0.

    ``plateau`` is constant here; its drops depend on validation, see `Plateau`.
    """
    shape = _SHAPES[config.schedule]
    climb = config.warmup or (_ONE_CYCLE_CLIMB if config.schedule == "one_cycle" else 0.0)
    climb_steps = round(climb * total_steps)
    start = _ONE_CYCLE_START if config.schedule == "one_cycle" else 0.0

    def factor(step: int) -> float:
        if step < climb_steps:
            progress = (step + 1) / climb_steps
            if config.schedule == "one_cycle":
                progress = (1 - math.cos(math.pi * progress)) / 2
            return start + (1 - start) * progress
        return shape(config, (step - climb_steps) / max(1, total_steps - climb_steps))

    return factor


@dataclass
class Plateau:
    """Lowers the rate where validation no longer improves.

    Source: the rule of torch's ``ReduceLROnPlateau`` with its relative threshold.

    Attributes:
        factor: What the rate is multiplied with at a drop.
        checks: Validations without improvement before a drop.
        multiple: The product of all drops so far.
    """

    factor: float
    checks: int
    multiple: float = 1.0
    _best: float = math.inf
    _since_best: int = 0

    def observe(self, loss: float) -> float:
        """Take the loss of a validation, and return what the rate is to be multiplied with now."""
        self._since_best = 0 if loss < self._best * (1 - _PLATEAU_THRESHOLD) else self._since_best + 1
        if self._since_best == 0:
            self._best = loss
        if self._since_best < self.checks:
            return 1.0
        self._since_best = 0
        self.multiple *= self.factor
        return self.factor


def _constant(config: OptimConfig, progress: float) -> float:
    return 1.0


def _cosine(config: OptimConfig, progress: float) -> float:
    """Source: Loshchilov & Hutter 2017, SGDR, equation 5, without restarts."""
    return (1 + math.cos(math.pi * min(1.0, progress))) / 2


def _one_cycle(config: OptimConfig, progress: float) -> float:
    """Source: Smith & Topin 2018, Super-Convergence; cosine form."""
    return _ONE_CYCLE_END + (1 - _ONE_CYCLE_END) * _cosine(config, progress)


def _step(config: OptimConfig, progress: float) -> float:
    return config.decay_factor ** math.floor(progress / config.step_every + 1e-9)


_SHAPES: dict[str, Callable[[OptimConfig, float], float]] = {
    "constant": _constant,
    "cosine": _cosine,
    "one_cycle": _one_cycle,
    "step": _step,
    "plateau": _constant,
}


def _fuses(config: OptimConfig) -> bool:
    """Say whether to take the fast form: in mixed precision Lightning clips no gradients for it."""
    return config.gradient_clip is None


def _adamw(config: OptimConfig, groups: list[dict[str, Any]]) -> Optimizer:
    return torch.optim.AdamW(groups, lr=config.lr, fused=_fuses(config))


def _adam(config: OptimConfig, groups: list[dict[str, Any]]) -> Optimizer:
    return torch.optim.Adam(groups, lr=config.lr, fused=_fuses(config))


def _sgd(config: OptimConfig, groups: list[dict[str, Any]]) -> Optimizer:
    return torch.optim.SGD(
        groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=_fuses(config)
    )


OPTIMIZERS: dict[str, Callable[[OptimConfig, list[dict[str, Any]]], Optimizer]] = {
    "adamw": _adamw,
    "adam": _adam,
    "sgd": _sgd,
}
