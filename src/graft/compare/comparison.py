"""The comparison as a value: what the report says, before it is written anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from graft.compare.curves import Curve, place_budgets, read_test, trace_curves
from graft.compare.naming import name_arms, split_trials
from graft.compare.select import Choice, Gap, Selection, mean_metric, order_labels, pair
from graft.compare.statistics import (
    ALPHA,
    Difference,
    Estimate,
    Verdict,
    adjust_holm,
    estimate_difference,
    estimate_mean,
    judge,
)
from graft.config.names import METRICS
from graft.plan.arms import Arm
from graft.track.record import RunRecord

#: Methods that use pretrained weights; random features are a control.
TRANSFER_METHODS = ("linear_probe", "fine_tune")


@dataclass(frozen=True)
class Row:
    """One arm at one label budget.

    Attributes:
        arm: What is compared.
        name: Its short name.
        trial: The trial that validation chose.
        tuned: The values of the trial that not all trials share.
        trials: Number of trials it was chosen from.
        seeds: The seeds compared.
        validation: Mean validation metric.
        test: Mean test metric with its interval over seeds.
        test_accuracy: Mean test accuracy, whatever the metric; NaN when the runs did not log it.
        to_twin: Paired difference to the from-scratch twin, None without one.
        p_adjusted: Its p-value after Holm's correction over the family, NaN without a twin.
        verdict: What the difference establishes, None without a twin.
        train_seconds: Mean seconds of training.
        headline: Whether validation chose it among the transfer arms of the budget.
    """

    arm: Arm
    name: str
    trial: str
    tuned: str
    trials: int
    seeds: tuple[int, ...]
    validation: float
    test: Estimate
    test_accuracy: float
    to_twin: Difference | None
    p_adjusted: float
    verdict: Verdict | None
    train_seconds: float
    headline: bool


@dataclass(frozen=True)
class Contrast:
    """The headline arm against another transfer arm of the same budget.

    Attributes:
        other: The other arm.
        difference: Paired difference, headline minus other.
        established: Whether it is one after Holm's correction over all contrasts of the section.
    """

    other: Arm
    difference: Difference
    established: bool


@dataclass(frozen=True)
class Budget:
    """All arms at one label budget.

    Attributes:
        labels: Label budget.
        labels_train: Labelled training images used, NaN when the runs did not count them.
        labels_val: Labelled validation images used, NaN when the runs did not count them.
        pixel_1nn: Test accuracy of 1-nearest-neighbour on raw pixels with these labels, NaN if not measured.
        rows: The arms, the best on test first.
        contrasts: The headline arm against the other transfer arms.
        sentence: The verdict in words.
    """

    labels: str
    labels_train: float
    labels_val: float
    pixel_1nn: float
    rows: tuple[Row, ...]
    contrasts: tuple[Contrast, ...]
    sentence: str = ""


@dataclass(frozen=True)
class Section:
    """One condition: runs that share data, splits and training budget.

    Attributes:
        condition: Hash of the condition.
        data: Name of the data set.
        names: Short name of each arm, the arms in the order of tables and legends.
        positions: Labels per class that each label budget stands for, ascending.
        shared: The tuning values that all trials share.
        family: Number of comparisons that Holm's correction covers.
        budgets: The label budgets, ascending.
        curves: Each arm over the label budgets.
        gaps: Runs that are not there or not finished.
        left_out: Arm and label budget of those that could not be compared.
        chosen: Ids of the runs of all chosen trials.
    """

    condition: str
    data: str
    names: Mapping[Arm, str]
    positions: Mapping[str, float]
    shared: str
    family: int
    budgets: tuple[Budget, ...]
    curves: tuple[Curve, ...]
    gaps: tuple[Gap, ...]
    left_out: tuple[tuple[Arm, str], ...]
    chosen: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """What the report of an experiment says.

    Attributes:
        experiment: Name of the experiment.
        question: The question it asks, empty when nobody wrote it down.
        metric: Name of the metric, without a split.
        sections: One per condition, the largest first.
        doubts: Reasons to doubt the verdict, each with what to do about it.
        notes: What a reader has to know.
        records: All runs.
    """

    experiment: str
    question: str
    metric: str
    sections: tuple[Section, ...]
    doubts: tuple[str, ...]
    notes: tuple[str, ...]
    records: tuple[RunRecord, ...] = field(repr=False)

    @property
    def chosen(self) -> tuple[str, ...]:
        """Ids of the runs of all chosen trials."""
        return tuple(run_id for section in self.sections for run_id in section.chosen)


@dataclass(frozen=True)
class _Judged:
    difference: Difference
    p_adjusted: float
    verdict: Verdict


def build_section(selection: Selection, metric: str) -> Section:
    """Compare the chosen trials of one condition.

    Args:
        selection: What validation chose.
        metric: Name of the metric, without a split.

    Raises:
        GraftError: When a chosen run has no test metric.
    """
    choices = selection.choices
    judged = _judge_pairs(choices, metric)
    headlines = {labels: _find_headline(found, metric) for labels, found in _by_labels(choices).items()}
    contrasts = _contrast_headlines(choices, headlines, metric)
    names = name_arms([choice.arm for choice in choices] + [arm for arm, _ in selection.left_out])
    shared, tuned = split_trials(sorted({trial for choice in choices for trial in choice.trials}))
    budgets = []
    for labels, found in _by_labels(choices).items():
        rows = [_make_row(one, names, tuned, judged, one is headlines[labels], metric) for one in found]
        sign = -1.0 if METRICS[metric].higher_is_better else 1.0
        rows.sort(key=lambda row: sign * row.test.mean)
        budgets.append(
            Budget(
                labels=labels,
                labels_train=_count_labels(found, "labels_train"),
                labels_val=_count_labels(found, "labels_val"),
                pixel_1nn=_count_labels(found, "test/pixel_1nn_accuracy"),
                rows=tuple(rows),
                contrasts=contrasts.get(labels, ()),
            )
        )
    return Section(
        condition=selection.condition,
        data=selection.data,
        names=names,
        positions=place_budgets(choices),
        shared=shared,
        family=len(judged),
        budgets=tuple(budgets),
        curves=tuple(trace_curves(choices, metric)),
        gaps=selection.gaps,
        left_out=selection.left_out,
        chosen=tuple(record.run_id for choice in choices for record in choice.runs.values()),
    )


def _by_labels(choices: Sequence[Choice]) -> dict[str, list[Choice]]:
    budgets = order_labels(choice.labels for choice in choices)
    return {labels: [choice for choice in choices if choice.labels == labels] for labels in budgets}


def _judge_pairs(choices: Sequence[Choice], metric: str) -> dict[tuple[Arm, str], _Judged]:
    """Judge each arm against its twin; the family is every arm and label budget with a twin."""
    pairs = pair(choices)
    differences = [
        estimate_difference(read_test(one.choice, metric, one.seeds), read_test(one.twin, metric, one.seeds))
        for one in pairs
    ]
    adjusted = adjust_holm([difference.p for difference in differences])
    better = METRICS[metric].higher_is_better
    return {
        (one.choice.arm, one.choice.labels): _Judged(
            difference, p, judge(difference, p, higher_is_better=better)
        )
        for one, difference, p in zip(pairs, differences, adjusted, strict=True)
    }


def _find_headline(choices: Sequence[Choice], metric: str) -> Choice | None:
    """Return the transfer arm that is best on validation; ties go to the one that trains fewer stages."""
    sign = -1.0 if METRICS[metric].higher_is_better else 1.0
    transfer = [choice for choice in choices if choice.arm.method in TRANSFER_METHODS]
    return min(
        transfer,
        key=lambda one: (sign * round(one.validation, 12), -one.arm.freeze_depth, one.arm.text),
        default=None,
    )


def _contrast_headlines(
    choices: Sequence[Choice], headlines: Mapping[str, Choice | None], metric: str
) -> dict[str, tuple[Contrast, ...]]:
    """Contrast each budget's headline arm with the other transfer arms, adjusted as a family of its own."""
    found: list[tuple[str, Arm, Difference]] = []
    for labels, headline in headlines.items():
        for other in choices:
            if headline is None or other is headline or other.labels != labels:
                continue
            seeds = sorted(set(headline.runs) & set(other.runs))
            if other.arm.method in TRANSFER_METHODS and seeds:
                test = read_test(headline, metric, seeds), read_test(other, metric, seeds)
                found.append((labels, other.arm, estimate_difference(*test)))
    adjusted = adjust_holm([difference.p for *_, difference in found])
    contrasts: dict[str, tuple[Contrast, ...]] = {}
    for (labels, arm, difference), p in zip(found, adjusted, strict=True):
        contrasts[labels] = (*contrasts.get(labels, ()), Contrast(arm, difference, p < ALPHA))
    return contrasts


def _make_row(
    choice: Choice,
    names: Mapping[Arm, str],
    tuned: Mapping[str, str],
    judged: Mapping[tuple[Arm, str], _Judged],
    headline: bool,
    metric: str,
) -> Row:
    found = judged.get((choice.arm, choice.labels))
    return Row(
        arm=choice.arm,
        name=names[choice.arm],
        trial=choice.trial,
        tuned=tuned[choice.trial],
        trials=len(choice.trials),
        seeds=tuple(choice.runs),
        validation=choice.validation,
        test=estimate_mean(read_test(choice, metric)),
        test_accuracy=mean_metric(choice.runs, choice.runs, "test/accuracy"),
        to_twin=found.difference if found else None,
        p_adjusted=found.p_adjusted if found else math.nan,
        verdict=found.verdict if found else None,
        train_seconds=mean_metric(choice.runs, choice.runs, "train_seconds"),
        headline=headline,
    )


def _count_labels(choices: Sequence[Choice], key: str) -> float:
    """Return the mean of a fact that the arms of a budget share, over the chosen runs that logged it."""
    values = [
        value for one in choices for run in one.runs.values() if (value := run.metrics.get(key)) is not None
    ]
    return math.fsum(values) / len(values) if values else math.nan
