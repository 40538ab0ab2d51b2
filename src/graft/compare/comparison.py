"""The comparison as a value: what the report says, before it is written anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from graft.compare.curves import Axis, Curve, place_budgets, read_test, trace_curves
from graft.compare.naming import name_arms, split_trials
from graft.compare.replicates import sample_values
from graft.compare.select import Choice, Gap, Selection, mean_metric, pair
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
from graft.plan.replicates import Replicate
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
        replicates: The replicates compared.
        validation: Mean validation metric.
        test: Mean test metric with its interval over seeds or folds.
        test_accuracy: Mean test accuracy, whatever the metric; NaN when the runs did not log it.
        feature_knn: Mean test accuracy of nearest neighbours on its frozen features, NaN if not measured.
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
    replicates: tuple[Replicate, ...]
    validation: float
    test: Estimate
    test_accuracy: float
    feature_knn: float
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
        majority: Test accuracy of always saying the largest training class, NaN if not measured.
        rows: The arms, the best on test first.
        contrasts: The headline arm against the other transfer arms.
        sentence: The verdict in words.
    """

    labels: str
    labels_train: float
    labels_val: float
    pixel_1nn: float
    majority: float
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
        axis: Where the label budgets stand in figures.
        folds: Number of folds of the cross-validation, None without.
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
    axis: Axis
    folds: int | None
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
    folds = selection.folds
    judged = _judge_pairs(choices, metric, folds)
    axis = place_budgets(choices)
    found = {labels: [one for one in choices if one.labels == labels] for labels in axis.places}
    headlines = {labels: _find_headline(own, metric) for labels, own in found.items()}
    contrasts = _contrast_headlines(choices, headlines, metric, folds)
    names = name_arms([choice.arm for choice in choices] + [arm for arm, _ in selection.left_out])
    shared, tuned = split_trials(sorted({trial for choice in choices for trial in choice.trials}))
    budgets = []
    for labels, own in found.items():
        rows = [_make_row(one, names, tuned, judged, one is headlines[labels], metric, folds) for one in own]
        sign = -1.0 if METRICS[metric].higher_is_better else 1.0
        rows.sort(key=lambda row: sign * row.test.mean)
        budgets.append(
            Budget(
                labels=labels,
                labels_train=_average_fact(own, "labels_train"),
                labels_val=_average_fact(own, "labels_val"),
                pixel_1nn=_average_fact(own, "test/pixel_1nn_accuracy"),
                majority=_average_fact(own, "test/majority_accuracy"),
                rows=tuple(rows),
                contrasts=contrasts.get(labels, ()),
            )
        )
    return Section(
        condition=selection.condition,
        data=selection.data,
        names=names,
        axis=axis,
        folds=folds,
        shared=shared,
        family=len(judged),
        budgets=tuple(budgets),
        curves=tuple(trace_curves(choices, metric, folds)),
        gaps=selection.gaps,
        left_out=selection.left_out,
        chosen=tuple(record.run_id for choice in choices for record in choice.runs.values()),
    )


def _judge_pairs(choices: Sequence[Choice], metric: str, folds: int | None) -> dict[tuple[Arm, str], _Judged]:
    """Judge each arm against its twin; the family is every arm and label budget with a twin."""
    pairs = pair(choices)
    differences = [_subtract(one.choice, one.twin, one.replicates, metric, folds) for one in pairs]
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
    choices: Sequence[Choice], headlines: Mapping[str, Choice | None], metric: str, folds: int | None
) -> dict[str, tuple[Contrast, ...]]:
    """Contrast each budget's headline arm with the other transfer arms, adjusted as a family of its own."""
    found: list[tuple[str, Arm, Difference]] = []
    for labels, headline in headlines.items():
        for other in choices:
            if headline is None or other is headline or other.labels != labels:
                continue
            both = sorted(set(headline.runs) & set(other.runs))
            if other.arm.method in TRANSFER_METHODS and both:
                found.append((labels, other.arm, _subtract(headline, other, both, metric, folds)))
    adjusted = adjust_holm([difference.p for *_, difference in found])
    contrasts: dict[str, tuple[Contrast, ...]] = {}
    for (labels, arm, difference), p in zip(found, adjusted, strict=True):
        contrasts[labels] = (*contrasts.get(labels, ()), Contrast(arm, difference, p < ALPHA))
    return contrasts


def _subtract(
    choice: Choice, other: Choice, replicates: Sequence[Replicate], metric: str, folds: int | None
) -> Difference:
    """Return the paired difference of two choices, ``choice`` minus ``other``."""
    mine = sample_values(read_test(choice, metric, replicates), folds)
    theirs = sample_values(read_test(other, metric, replicates), folds)
    return estimate_difference(mine.values, theirs.values, overlap=mine.overlap)


def _make_row(
    choice: Choice,
    names: Mapping[Arm, str],
    tuned: Mapping[str, str],
    judged: Mapping[tuple[Arm, str], _Judged],
    headline: bool,
    metric: str,
    folds: int | None,
) -> Row:
    test = sample_values(read_test(choice, metric), folds)
    found = judged.get((choice.arm, choice.labels))
    return Row(
        arm=choice.arm,
        name=names[choice.arm],
        trial=choice.trial,
        tuned=tuned[choice.trial],
        trials=len(choice.trials),
        replicates=tuple(choice.runs),
        validation=choice.validation,
        test=estimate_mean(test.values, overlap=test.overlap),
        test_accuracy=mean_metric(choice.runs, choice.runs, "test/accuracy"),
        feature_knn=_average_fact([choice], "test/feature_knn_accuracy"),
        to_twin=found.difference if found else None,
        p_adjusted=found.p_adjusted if found else math.nan,
        verdict=found.verdict if found else None,
        train_seconds=mean_metric(choice.runs, choice.runs, "train_seconds"),
        headline=headline,
    )


def _average_fact(choices: Sequence[Choice], key: str) -> float:
    """Return the mean of a fact that the arms of a budget share, over the chosen runs that logged it."""
    values = [
        value for one in choices for run in one.runs.values() if (value := run.metrics.get(key)) is not None
    ]
    return math.fsum(values) / len(values) if values else math.nan
