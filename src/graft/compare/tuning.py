"""The expected best of n trials: what arms with unequal tuning budgets are compared by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graft.compare.gaps import is_usable
from graft.compare.select import Choice
from graft.config.names import METRICS
from graft.plan.arms import Arm


@dataclass(frozen=True)
class TuningCurve:
    """The expected best validation metric of an arm among n of its trials.

    Attributes:
        arm: The arm.
        labels: Label budget.
        expected: Expected best of 1, 2, ... trials, drawn without replacement from those tried.
    """

    arm: Arm
    labels: str
    expected: tuple[float, ...]


def trace_tuning(choices: Sequence[Choice], metric: str) -> list[TuningCurve]:
    """Return the expected best of n trials of each choice, over the mean validation metric of its trials.

    A trial counts with the replicates that it finished of those compared.

    Args:
        choices: Choices of one condition.
        metric: Name of the metric, without a split.
    """
    curves = []
    for choice in choices:
        values = []
        for runs in choice.tried.values():
            own = [runs[one] for one in choice.runs if one in runs and is_usable(runs[one], metric)]
            if own:
                values.append(math.fsum(run.metrics[f"val/{metric}"] for run in own) / len(own))
        expected = expect_best(values, higher_is_better=METRICS[metric].higher_is_better)
        curves.append(TuningCurve(choice.arm, choice.labels, expected))
    return curves


def expect_best(values: Sequence[float], *, higher_is_better: bool) -> tuple[float, ...]:
    """Return the expected best of 1, 2, ... values drawn without replacement.

    Args:
        values: One value per trial, shape ``(trials,)``.
        higher_is_better: Whether the best is the largest.

    Source:
        Dodge et al. (2019), "Show your work: improved reporting of experimental results", in the unbiased
        form of Tang et al. (2020), "Showing your work doesn't always work".

    >>> [round(value, 3) for value in expect_best([0.1, 0.3, 0.2], higher_is_better=True)]
    [0.2, 0.267, 0.3]
    """
    ordered = sorted(values) if higher_is_better else sorted(values, reverse=True)
    size = len(ordered)
    curve = []
    for drawn in range(1, size + 1):
        # The best of those drawn is the k-th where the others come from the k - 1 that are worse.
        ways = [math.comb(worse, drawn - 1) / math.comb(size, drawn) for worse in range(size)]
        curve.append(float(np.dot(ways, ordered)))
    return tuple(curve)
