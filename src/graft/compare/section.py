"""Conditions compared: their rows, their verdicts, and what else the report says of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from graft.compare.comparison import Budget, Contrast, CopiedBudget, Row, Section
from graft.compare.copies import leave_out_copies, weigh_copies
from graft.compare.cost import Cost, History, weigh_costs
from graft.compare.curves import place_budgets, read_test, trace_curves
from graft.compare.image_tables import Tables, read_tables
from graft.compare.importance import rank_factors
from graft.compare.judgement import Judgement, contrast_headlines, count_labels, find_headline, judge_pairs
from graft.compare.multiplier import Multiplier
from graft.compare.naming import name_arms, split_trials
from graft.compare.replicates import sample_values
from graft.compare.select import Choice, Selection, mean_metric
from graft.compare.statistics import MARGIN, estimate_mean
from graft.compare.tuning import trace_tuning
from graft.config.names import METRICS
from graft.plan.arms import Arm
from graft.track.archive import Archive

#: The last part of a training in which a baseline that was trained long enough no longer improves.
_LAST_PART = 0.1


@dataclass(frozen=True)
class _Findings:
    """What the differences between the chosen trials of a condition establish.

    Attributes:
        tables: The test metrics by seed and test image.
        judged: Each transfer arm and label budget against its twin.
        headlines: The headline arm of each label budget, ascending.
        contrasts: The headline arms against the other transfer arms.
        copies: The label budgets at which training held copies of test images.
        family: Number of comparisons that Holm's correction covers, those of other conditions included.
    """

    tables: Tables
    judged: Mapping[tuple[Arm, str], Judgement]
    headlines: Mapping[str, Choice | None]
    contrasts: Mapping[str, tuple[Contrast, ...]]
    copies: tuple[CopiedBudget, ...]
    family: int


def build_sections(
    selections: Sequence[Selection],
    metric: str,
    *,
    margin: float = MARGIN,
    archive: Archive | None = None,
) -> list[Section]:
    """Compare the chosen trials of each condition; Holm's correction covers the differences of all of them.

    Args:
        selections: What was chosen, by condition.
        metric: Name of the metric, without a split.
        margin: Difference to the twin that counts as none, in the unit of the metric.
        archive: Where predictions and histories of the chosen runs are; None: nowhere.

    Raises:
        GraftError: When a chosen run has no test metric.
    """
    compared = [(one.choices, read_tables(one.choices, metric, one.folds, archive)) for one in selections]
    rest = [(choices, leave_out_copies(choices, tables, archive)) for choices, tables in compared]
    copied = any(tables is not without for (_, tables), (_, without) in zip(compared, rest, strict=True))
    judged = judge_pairs(compared, margin)
    again = judge_pairs(rest, margin) if copied else judged
    headlines = [_find_headlines(choices, metric) for choices, _ in compared]
    contrasts = contrast_headlines(compared, headlines)
    return [
        _build_section(
            selection,
            _Findings(
                tables=tables,
                judged=judged[place],
                headlines=headlines[place],
                contrasts=contrasts[place],
                copies=weigh_copies(choices, tables, rest[place][1], judged[place], again[place]),
                family=sum(map(len, judged)),
            ),
            margin,
            archive,
        )
        for place, (selection, (choices, tables)) in enumerate(zip(selections, compared, strict=True))
    ]


def _find_headlines(choices: Sequence[Choice], metric: str) -> dict[str, Choice | None]:
    """Return the headline arm of each label budget, ascending."""
    return {
        labels: find_headline([one for one in choices if one.labels == labels], metric)
        for labels in place_budgets(choices).places
    }


def _build_section(selection: Selection, found: _Findings, margin: float, archive: Archive | None) -> Section:
    """Return one condition from what its differences establish."""
    choices, folds, metric = selection.choices, selection.folds, found.tables.metric
    histories = _read_histories(choices, metric, archive)
    axis = place_budgets(choices)
    names = name_arms([choice.arm for choice in choices] + [one.arm for one in selection.left_out])
    shared, tuned = split_trials(sorted({trial for choice in choices for trial in choice.trials}))
    budgets = []
    for labels, headline in found.headlines.items():
        own = [one for one in choices if one.labels == labels]
        tests = [mean_metric(one.runs, one.runs, f"test/{metric}") for one in own]
        twins = {arm: one.twin for (arm, budget), one in found.judged.items() if budget == labels}
        costs = weigh_costs(own, twins, tests, histories, metric)
        rows = []
        for choice, cost in zip(own, costs, strict=True):
            row = _make_row(choice, metric, folds, names[choice.arm], tuned[choice.trial], cost)
            one = found.judged.get((choice.arm, labels))
            multiplier = count_labels(choice, choices, axis, found.tables) if one else None
            rows.append(_judge_row(row, one, multiplier, choice is headline))
        budgets.append(_gather_budget(labels, own, rows, found.contrasts.get(labels, ()), metric))
    return Section(
        condition=selection.condition,
        data=selection.data,
        names=names,
        axis=axis,
        folds=folds,
        shared=shared,
        family=found.family,
        budgets=tuple(budgets),
        curves=tuple(trace_curves(choices, metric, folds)),
        gaps=selection.gaps,
        left_out=selection.left_out,
        chosen=tuple(record.run_id for choice in choices for record in choice.runs.values()),
        importance=tuple(rank_factors(choices, metric)),
        tuning_curves=tuple(trace_tuning(choices, metric)),
        without_images=found.tables.missing if found.judged else (),
        class_sizes=found.tables.class_sizes,
        rising=_find_rising(choices, histories, metric, margin),
        copies=found.copies,
    )


def _make_row(choice: Choice, metric: str, folds: int | None, name: str, tuned: str, cost: Cost) -> Row:
    """Return what an arm reached by itself."""
    test = sample_values(read_test(choice, metric), folds)
    return Row(
        arm=choice.arm,
        name=name,
        trial=choice.trial,
        tuned=tuned,
        trials=len(choice.trials),
        replicates=tuple(choice.runs),
        validation=choice.validation,
        test=estimate_mean(test.values, overlap=test.overlap, bounds=METRICS[metric].bounds),
        test_accuracy=mean_metric(choice.runs, choice.runs, "test/accuracy"),
        feature_knn=_average_fact([choice], "test/feature_knn_accuracy"),
        to_twin=None,
        p_adjusted=math.nan,
        verdict=None,
        train_seconds=cost.seconds,
        headline=False,
        cost=cost,
    )


def _judge_row(row: Row, judgement: Judgement | None, multiplier: Multiplier | None, headline: bool) -> Row:
    """Return a row with what its difference to the twin establishes."""
    row = replace(row, headline=headline)
    if judgement is None:
        return row
    return replace(
        row,
        to_twin=judgement.difference,
        p_adjusted=judgement.p_adjusted,
        verdict=judgement.verdict,
        to_twin_seeds=judgement.over_seeds,
        covers=judgement.spread.covers,
        level=judgement.level,
        settles=judgement.settles,
        multiplier=multiplier,
    )


def _gather_budget(
    labels: str, choices: Sequence[Choice], rows: Sequence[Row], contrasts: tuple[Contrast, ...], metric: str
) -> Budget:
    """Return a label budget, the best arm on test first."""
    sign = -1.0 if METRICS[metric].higher_is_better else 1.0
    return Budget(
        labels=labels,
        labels_train=_average_fact(choices, "labels_train"),
        labels_val=_average_fact(choices, "labels_val"),
        pixel_1nn=_average_fact(choices, "test/pixel_1nn_accuracy"),
        majority=_average_fact(choices, "test/majority_accuracy"),
        rows=tuple(sorted(rows, key=lambda row: sign * row.test.mean)),
        contrasts=contrasts,
    )


def _read_histories(choices: Sequence[Choice], metric: str, archive: Archive | None) -> dict[str, History]:
    """Return the validation metric over optimizer steps of all chosen runs."""
    if archive is None:
        return {}
    ids = [run.run_id for choice in choices for run in choice.runs.values()]
    return {run_id: archive.history(run_id, f"val/{metric}") for run_id in ids}


def _find_rising(
    choices: Sequence[Choice], histories: Mapping[str, History], metric: str, margin: float
) -> tuple[tuple[str, float, float], ...]:
    """Return by how much validation of from scratch still rose at its end, above the margin.

    The rise is that in the last tenth of the steps, or in as many as lie between the last two validations,
    and above zero for new seeds as far as their spread says.
    """
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    rising = []
    for choice in choices:
        if not choice.arm.from_scratch:
            continue
        curves = [list(histories.get(run.run_id, ())) for run in choice.runs.values()]
        rises = [rise for curve in curves if (rise := _measure_rise(curve)) is not None]
        if len(rises) < 2:
            continue
        estimate = estimate_mean([sign * rise for rise, _ in rises], level=0.9)
        if estimate.mean > margin and (estimate.low > 0 or not estimate.has_interval):
            rising.append((choice.labels, estimate.mean, max(share for _, share in rises)))
    return tuple(rising)


def _measure_rise(curve: Sequence[tuple[int, float]]) -> tuple[float, float] | None:
    """Return how much a metric rose in the last part of a training, and the part; None if nobody looked."""
    if not curve:
        return None
    last, end = curve[-1]
    before = [(step, value) for step, value in curve[:-1] if step <= (1 - _LAST_PART) * last]
    return (end - before[-1][1], 1 - before[-1][0] / last) if before else None


def _average_fact(choices: Sequence[Choice], key: str) -> float:
    """Return the mean of a fact that the arms of a budget share, over the chosen runs that logged it."""
    values = [
        value for one in choices for run in one.runs.values() if (value := run.metrics.get(key)) is not None
    ]
    return math.fsum(values) / len(values) if values else math.nan
