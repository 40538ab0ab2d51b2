"""Mean and interval of each arm over the label budgets: the numbers behind the figure and the table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from graft.compare.replicates import sample_values
from graft.compare.select import Choice, mean_metric, order_labels
from graft.compare.statistics import Estimate, estimate_mean
from graft.config.names import METRICS
from graft.errors import GraftError
from graft.plan.arms import Arm
from graft.plan.replicates import Replicate


@dataclass(frozen=True)
class Point:
    """An arm at one label budget.

    Attributes:
        labels: Label budget.
        estimate: Mean test metric with its interval over seeds or folds.
        values: Test metric of each replicate, shape ``(replicates,)``, the replicates ascending.
    """

    labels: str
    estimate: Estimate
    values: tuple[float, ...]


@dataclass(frozen=True)
class Curve:
    """An arm over the label budgets, ascending."""

    arm: Arm
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Axis:
    """Where label budgets stand in a figure.

    Attributes:
        name: What is counted along the axis.
        places: Place of each label budget, ascending.
    """

    name: str
    places: Mapping[str, float]


def trace_curves(choices: Sequence[Choice], metric: str, folds: int | None = None) -> list[Curve]:
    """Return one curve per arm from the test metric of chosen trials.

    Args:
        choices: Choices of one condition.
        metric: Name of the metric, without a split.
        folds: Number of folds of the cross-validation, None without.

    Raises:
        GraftError: When a chosen run has no test metric.
    """
    budgets = place_budgets(choices).places
    found = {(choice.arm, choice.labels): choice for choice in choices}
    arms = list(dict.fromkeys(choice.arm for choice in choices))
    return [
        Curve(
            arm,
            tuple(
                _measure(found[arm, labels], metric, folds) for labels in budgets if (arm, labels) in found
            ),
        )
        for arm in arms
    ]


def read_test(
    choice: Choice, metric: str, replicates: Iterable[Replicate] | None = None
) -> dict[Replicate, float]:
    """Return the test metric of a chosen trial by replicate.

    Args:
        choice: The chosen trial.
        metric: Name of the metric, without a split.
        replicates: Those to read, in this order; None for all of them, ascending.

    Raises:
        GraftError: When a chosen run has no test metric.
    """
    values = {}
    for replicate in sorted(choice.runs) if replicates is None else replicates:
        value = choice.runs[replicate].metrics.get(f"test/{metric}", math.nan)
        if not math.isfinite(value):
            where = f"{choice.arm.label}, labels {choice.labels}, {replicate.label}"
            raise GraftError(
                f"Expected a number for `test/{metric}` in each chosen run,"
                f" but run {choice.runs[replicate].run_id} ({where}) has {value}."
            )
        values[replicate] = value
    return values


def place_budgets(choices: Sequence[Choice]) -> Axis:
    """Return where the label budgets stand: by labels per class where one is given so, else by their number.

    Budgets that are given otherwise (a share, ``all``, ``replayed``) are placed by the training labels that
    their runs counted; where they did not count, at twice the budget before.
    """
    budgets = order_labels(choice.labels for choice in choices)
    counted: dict[str, float] = {}
    for choice in choices:
        counted.setdefault(choice.labels, mean_metric(choice.runs, choice.runs, "labels_train"))
    placed = {labels: float(labels) for labels in budgets if labels.isdigit()}
    largest = max(placed, key=placed.__getitem__, default=None)
    # Without any labels per class, a count is a place itself.
    unit = 1.0 if largest is None else placed[largest] / counted[largest]
    name = "labelled training images" + ("" if largest is None else " per class")
    if largest is None and not all(map(math.isfinite, counted.values())):
        name = "label budget"
    for labels in budgets:
        if labels not in placed:
            place = counted[labels] * unit
            # `all` at the place of another budget would hide it.
            hidden = labels == "all" and place <= max(placed.values(), default=0.0)
            after = 2.0 * max(placed.values(), default=0.5)
            placed[labels] = place if place > 0 and not hidden else after
    return Axis(name, dict(sorted(placed.items(), key=lambda item: item[1])))


def _measure(choice: Choice, metric: str, folds: int | None) -> Point:
    values = read_test(choice, metric)
    sample = sample_values(values, folds)
    mean = estimate_mean(sample.values, overlap=sample.overlap, bounds=METRICS[metric].bounds)
    return Point(choice.labels, mean, tuple(values.values()))
