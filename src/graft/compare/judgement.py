"""What the differences between chosen trials establish: against the twin, and among transfer arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graft.compare.comparison import Contrast
from graft.compare.curves import Axis, read_test
from graft.compare.image_tables import FloatArray, Tables
from graft.compare.multiplier import Multiplier, Rung, multiply_labels
from graft.compare.select import TRANSFER_METHODS, Choice, mean_metric, pair
from graft.compare.settle import say_settles
from graft.compare.statistics import ALPHA, Difference, Verdict, adjust_holm, confine, find_levels, judge
from graft.compare.two_way import Spread, spread_over_seeds, spread_two_way
from graft.config.names import METRICS
from graft.plan.arms import Arm
from graft.plan.replicates import Replicate

#: The choices of a condition, and their test metrics by seed and test image.
Compared = tuple[Sequence[Choice], Tables]


@dataclass(frozen=True)
class Judgement:
    """What the difference of an arm to its twin establishes.

    Attributes:
        twin: The twin.
        spread: The difference, and what it varies with.
        level: Coverage of the intervals below, as high as Holm's correction tested the difference at.
        difference: The difference with its interval for new seeds and test images, as far as it can be.
        over_seeds: The same with its interval for new seeds on these test images.
        p_adjusted: Its p-value after Holm's correction over the family.
        verdict: What it establishes.
        settles: What would settle it, empty where it is settled.
    """

    twin: Choice
    spread: Spread
    level: float
    difference: Difference
    over_seeds: Difference
    p_adjusted: float
    verdict: Verdict
    settles: str


def judge_pairs(compared: Sequence[Compared], margin: float) -> list[dict[tuple[Arm, str], Judgement]]:
    """Judge each transfer arm against its twin, condition by condition.

    The family is every arm and label budget with a twin in all conditions. Equivalence is looked at first, by
    two one-sided tests at 5 %; then whether Holm's correction leaves a difference.

    Args:
        compared: The choices of each condition, and their test metrics by seed and test image.
        margin: Difference that counts as none, in the unit of the metric.

    Raises:
        GraftError: When a chosen run has no test metric.
    """
    weighed = [
        (place, one, tables.subtract(one.choice, one.twin, one.replicates))
        for place, (choices, tables) in enumerate(compared)
        for one in pair(choices)
    ]
    p_values = [spread.p for *_, spread in weighed]
    judged: list[dict[tuple[Arm, str], Judgement]] = [{} for _ in compared]
    for (place, one, spread), p, level in zip(
        weighed, adjust_holm(p_values), find_levels(p_values), strict=True
    ):
        metric = compared[place][1].metric
        judged[place][one.choice.arm, one.choice.labels] = _judge(one.twin, spread, p, level, margin, metric)
    return judged


def _judge(twin: Choice, spread: Spread, p: float, level: float, margin: float, metric: str) -> Judgement:
    """Return what a difference establishes, its p-value adjusted and its level found over the family."""
    difference = spread.estimate(level)
    verdict = judge(difference, p, higher_is_better=METRICS[metric].higher_is_better)
    verdict = "equivalent" if spread.is_within(margin) else verdict
    settles = say_settles(spread, level, margin) if verdict == "not established" else ""
    bounds = METRICS[metric].bounds
    over_seeds = confine((spread if spread.folds else spread.over_seeds).estimate(level), bounds)
    return Judgement(twin, spread, level, confine(difference, bounds), over_seeds, p, verdict, settles)


def find_headline(choices: Sequence[Choice], metric: str) -> Choice | None:
    """Return the transfer arm that is best on validation; ties go to the one that trains fewer stages."""
    sign = -1.0 if METRICS[metric].higher_is_better else 1.0
    transfer = [choice for choice in choices if choice.arm.method in TRANSFER_METHODS]
    return min(
        transfer,
        key=lambda one: (sign * round(one.validation, 12), -one.arm.freeze_depth, one.arm.text),
        default=None,
    )


def contrast_headlines(
    compared: Sequence[Compared], headlines: Sequence[Mapping[str, Choice | None]]
) -> list[dict[str, tuple[Contrast, ...]]]:
    """Contrast each budget's headline arm with the other transfer arms, adjusted as a family of its own.

    Args:
        compared: The choices of each condition, and their test metrics by seed and test image.
        headlines: The headline arm of each condition at each label budget.
    """
    found: list[tuple[int, str, Arm, Spread]] = []
    for place, (choices, tables) in enumerate(compared):
        for labels, headline in headlines[place].items():
            for other in choices:
                if headline is None or other is headline or other.labels != labels:
                    continue
                both = sorted(set(headline.runs) & set(other.runs))
                if other.arm.method in TRANSFER_METHODS and both:
                    found.append((place, labels, other.arm, tables.subtract(headline, other, both)))
    p_values = [spread.p for *_, spread in found]
    contrasts: list[dict[str, tuple[Contrast, ...]]] = [{} for _ in compared]
    for (place, labels, arm, spread), p, level in zip(
        found, adjust_holm(p_values), find_levels(p_values), strict=True
    ):
        bounds = METRICS[compared[place][1].metric].bounds
        contrast = Contrast(arm, confine(spread.estimate(level), bounds), p < ALPHA)
        contrasts[place][labels] = (*contrasts[place].get(labels, ()), contrast)
    return contrasts


def count_labels(choice: Choice, choices: Sequence[Choice], axis: Axis, tables: Tables) -> Multiplier | None:
    """Return how many times the labels the twin of an arm needs to be as good, None without a curve of it.

    Args:
        choice: The arm at a label budget.
        choices: The choices of a condition.
        axis: Where label budgets stand, in labels.
        tables: Their test metrics by seed and test image.
    """
    twins = sorted(
        (one for one in choices if one.arm == choice.arm.twin and _is_counted(one, axis)),
        key=lambda one: axis.places[one.labels],
    )
    if not _is_counted(choice, axis) or not twins:
        return None
    both = sorted(set(choice.runs).intersection(*(twin.runs for twin in twins)))
    if not both or any(one.division for one in both):
        return None
    one = tables.found.get((choice.arm, choice.labels))
    by_class = one.label if one is not None and one.by_class else None
    values = [_read_values(each, tables, both) for each in (choice, *twins)]
    if one is None or len({value.shape for value in values}) > 1:
        values = [np.array([[row] for row in _read_means(each, tables, both)]) for each in (choice, *twins)]
        one = None

    def spread(difference: FloatArray) -> Spread:
        if one is None:
            return spread_over_seeds(difference[:, 0])
        return spread_two_way(difference, by_class, one.unit)

    rungs = {axis.places[twin.labels]: each for twin, each in zip(twins, values[1:], strict=True)}
    ladder = [Rung(place, each) for place, each in rungs.items()]
    better = METRICS[tables.metric].higher_is_better
    return multiply_labels(axis.places[choice.labels], values[0], ladder, spread, higher_is_better=better)


def _is_counted(choice: Choice, axis: Axis) -> bool:
    """Whether a label budget stands at a number of labels, and not only in their order."""
    counted = mean_metric(choice.runs, choice.runs, "labels_train") > 0
    return choice.labels in axis.places and (choice.labels.isdigit() or counted)


def _read_values(choice: Choice, tables: Tables, replicates: Sequence[Replicate]) -> FloatArray:
    table = tables.found.get((choice.arm, choice.labels))
    if table is None:
        return np.zeros((len(replicates), 0))
    ordered = sorted(choice.runs)
    return table.values[[ordered.index(one) for one in replicates]]


def _read_means(choice: Choice, tables: Tables, replicates: Sequence[Replicate]) -> list[float]:
    return list(read_test(choice, tables.metric, replicates).values())
