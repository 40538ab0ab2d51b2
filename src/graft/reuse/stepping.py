"""Optimizer steps of small heads: the same arithmetic as in a run alone, without what costs more than it.

Around the few kernels of a head's step, hooks, profiling and schedulers take most of the time.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from graft.config.schema import OptimConfig
from graft.train.optim import schedule_factor
from graft.train.task import TransferTask


class Stepper:
    """Moves one head.

    Args:
        task: The head's, with its optimizer made.
        rates: The rate of every parameter group before its schedule.
        factors: What the schedule multiplies them with after so many steps.
    """

    def __init__(self, task: TransferTask, rates: Sequence[float], factors: Sequence[float]) -> None:
        assert task.optimizer is not None
        groups = task.optimizer.param_groups
        self._trained, self._plateau, self._clip = task.trained, task.plateau, task.optim.gradient_clip
        step = inspect.unwrap(type(task.optimizer).step)
        self._move: Callable[[], Any] = functools.partial(step, task.optimizer)
        self._rates = list(zip(groups, rates, strict=True))
        self._factors = factors
        self._steps = 0

    def clear(self) -> None:
        """Forget the gradients."""
        for parameter in self._trained:
            parameter.grad = None

    def step(self) -> None:
        """Clip, move, and take the next rate."""
        if self._clip is not None:
            torch.nn.utils.clip_grad_norm_(self._trained, self._clip)
        with torch.no_grad():
            self._move()
        self._steps += 1
        factor = self._factors[self._steps] * (self._plateau.multiple if self._plateau else 1.0)
        for group, rate in self._rates:
            group["lr"] = rate * factor


class Schedules:
    """The factors of every schedule of a group, computed once for the heads that share one.

    Args:
        total_steps: Optimizer steps of every head.
    """

    def __init__(self, total_steps: int) -> None:
        self._total = total_steps
        self._known: dict[str, list[float]] = {}

    def find(self, optim: OptimConfig) -> Sequence[float]:
        """Return the factors after 0 to ``total_steps`` steps."""
        same = repr(replace(optim, lr=1.0, weight_decay=0.0))
        if same not in self._known:
            factor = schedule_factor(optim, self._total)
            self._known[same] = [factor(step) for step in range(self._total + 1)]
        return self._known[same]
