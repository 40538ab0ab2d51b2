"""Mean and interval of each arm over the label budgets: the numbers behind the figure and the table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from graft.compare.select import Choice, mean_metric, order_labels
from graft.compare.statistics import Estimate, estimate_mean
from graft.errors import GraftError
from graft.plan.arms import Arm


@dataclass(frozen=True)
class Point:
    """An arm at one label budget.

    Attributes:
        labels: Label budget.
        estimate: Mean test metric with its interval over seeds.
        values: Test metric of each seed, shape ``(seeds,)``, the seeds ascending.
    """

    labels: str
    estimate: Estimate
    values: tuple[float, ...]


@dataclass(frozen=True)
class Curve:
    """An arm over the label budgets, ascending."""

    arm: Arm
    points: tuple[Point, ...]


def trace_curves(choices: Sequence[Choice], metric: str) -> list[Curve]:
    """Return one curve per arm from the test metric of chosen trials.

    Args:
        choices: Choices of one condition.
        metric: Name of the metric, without a split.

    Raises:
        GraftError: When a chosen run has no test metric.
    """
    budgets = order_labels(choice.labels for choice in choices)
    found = {(choice.arm, choice.labels): choice for choice in choices}
    arms = list(dict.fromkeys(choice.arm for choice in choices))
    return [
        Curve(
            arm, tuple(_measure(found[arm, labels], metric) for labels in budgets if (arm, labels) in found)
        )
        for arm in arms
    ]


def read_test(choice: Choice, metric: str, seeds: Iterable[int] | None = None) -> tuple[float, ...]:
    """Return the test metric of a chosen trial, one value per seed.

    Args:
        choice: The chosen trial.
        metric: Name of the metric, without a split.
        seeds: The seeds to read, in this order; None for all of them, ascending.

    Raises:
        GraftError: When a chosen run has no test metric.
    """
    values = []
    for seed in sorted(choice.runs) if seeds is None else seeds:
        value = choice.runs[seed].metrics.get(f"test/{metric}", math.nan)
        if not math.isfinite(value):
            where = f"{choice.arm.label}, labels {choice.labels}, seed {seed}"
            raise GraftError(
                f"Expected a number for `test/{metric}` in each chosen run,"
                f" but run {choice.runs[seed].run_id} ({where}) has {value}."
            )
        values.append(value)
    return tuple(values)


def place_budgets(choices: Sequence[Choice]) -> dict[str, float]:
    """Return the labels per class that each budget stands for, ascending.

    ``all`` is placed by the training labels that its runs counted; where they did not count, at twice the
    largest other budget.
    """
    budgets = order_labels(choice.labels for choice in choices)
    counted: dict[str, float] = {}
    for choice in choices:
        counted.setdefault(choice.labels, mean_metric(choice.runs, choice.runs, "labels_train"))
    placed = {labels: float(labels) for labels in budgets if labels.isdigit()}
    largest = max(placed, key=placed.__getitem__, default=None)
    for labels in budgets:
        if labels not in placed:
            ratio = counted[labels] / counted[largest] if largest else math.nan
            placed[labels] = placed[largest] * (ratio if ratio > 1 else 2.0) if largest else 1.0
    return placed


def _measure(choice: Choice, metric: str) -> Point:
    values = read_test(choice, metric)
    return Point(choice.labels, estimate_mean(values), values)
