"""One condition compared: its rows, its verdicts, and what else its report says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from graft.compare.comparison import Budget, Contrast, Row, Section
from graft.compare.copies import weigh_copies
from graft.compare.cost import Cost, History, weigh_costs
from graft.compare.curves import place_budgets, read_test, trace_curves
from graft.compare.image_tables import read_tables
from graft.compare.importance import rank_factors
from graft.compare.judgement import Judgement, contrast_headlines, count_labels, find_headline, judge_pairs
from graft.compare.multiplier import Multiplier
from graft.compare.naming import name_arms, split_trials
from graft.compare.replicates import sample_values
from graft.compare.select import Choice, Selection, mean_metric
from graft.compare.statistics import MARGIN, estimate_mean
from graft.compare.tuning import trace_tuning
from graft.config.names import METRICS
from graft.track.archive import Archive

#: The last part of a training in which a baseline that was trained long enough no longer improves.
_LAST_PART = 0.1


def build_section(
    selection: Selection, metric: str, *, margin: float = MARGIN, archive: Archive | None = None
) -> Section:
    """Compare the chosen trials of one condition.

    Args:
        selection: What was chosen.
        metric: Name of the metric, without a split.
        margin: Difference to the twin that counts as none, in the unit of the metric.
        archive: Where predictions and histories of the chosen runs are; None: nowhere.

    Raises:
        GraftError: When a chosen run has no test metric.
    """
    choices, folds = selection.choices, selection.folds
    tables = read_tables(choices, metric, folds, archive)
    histories = _read_histories(choices, metric, archive)
    judged = judge_pairs(choices, tables, margin)
    axis = place_budgets(choices)
    found = {labels: [one for one in choices if one.labels == labels] for labels in axis.places}
    headlines = {labels: find_headline(own, metric) for labels, own in found.items()}
    contrasts = contrast_headlines(choices, headlines, tables)
    names = name_arms([choice.arm for choice in choices] + [arm for arm, _ in selection.left_out])
    shared, tuned = split_trials(sorted({trial for choice in choices for trial in choice.trials}))
    budgets = []
    for labels, own in found.items():
        tests = [mean_metric(one.runs, one.runs, f"test/{metric}") for one in own]
        twins = {arm: one.twin for (arm, budget), one in judged.items() if budget == labels}
        costs = weigh_costs(own, twins, tests, histories, metric)
        rows = []
        for choice, cost in zip(own, costs, strict=True):
            row = _make_row(choice, metric, folds, names[choice.arm], tuned[choice.trial], cost)
            one = judged.get((choice.arm, labels))
            multiplier = count_labels(choice, choices, axis, tables) if one else None
            rows.append(_judge_row(row, one, multiplier, choice is headlines[labels]))
        budgets.append(_gather_budget(labels, own, rows, contrasts.get(labels, ()), metric))
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
        importance=tuple(rank_factors(choices, metric)),
        tuning_curves=tuple(trace_tuning(choices, metric)),
        without_images=tables.missing if judged else (),
        class_sizes=tables.class_sizes,
        rising=_find_rising(choices, histories, metric, margin),
        copies=weigh_copies(choices, tables, judged, margin, archive),
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
        test=estimate_mean(test.values, overlap=test.overlap),
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
) -> tuple[tuple[str, float], ...]:
    """Return by how much validation of from scratch still rose at its end, above the margin.

    The rise is that in the last tenth of the steps, and above zero for new seeds as far as their spread says.
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
        estimate = estimate_mean([sign * rise for rise in rises], level=0.9)
        if estimate.mean > margin and (estimate.low > 0 or not estimate.has_interval):
            rising.append((choice.labels, estimate.mean))
    return tuple(rising)


def _measure_rise(curve: Sequence[tuple[int, float]]) -> float | None:
    """Return how much a metric rose in the last part of a training, None where nobody looked then."""
    if not curve:
        return None
    last, end = curve[-1]
    before = [value for step, value in curve[:-1] if step <= (1 - _LAST_PART) * last]
    return end - before[-1] if before else None


def _average_fact(choices: Sequence[Choice], key: str) -> float:
    """Return the mean of a fact that the arms of a budget share, over the chosen runs that logged it."""
    values = [
        value for one in choices for run in one.runs.values() if (value := run.metrics.get(key)) is not None
    ]
    return math.fsum(values) / len(values) if values else math.nan
