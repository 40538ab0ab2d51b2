"""Validation over optimizer steps: how the chosen runs learned, and whether they had finished learning."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from graft.compare.canvas import open_facets
from graft.compare.comparison import Section
from graft.compare.drawing import Drawing, Words
from graft.compare.figures.strokes import annotate, draw_legend, entitle, look_of, name_metric
from graft.compare.naming import name_budget
from graft.plan.arms import Arm
from graft.track.record import RunRecord

History = tuple[tuple[int, float], ...]


def draw_learning(
    section: Section, records: Sequence[RunRecord], histories: Mapping[str, History], metric: str
) -> Drawing | None:
    """Draw the mean over replicates at the steps that all have, and each replicate as a faint line.

    Args:
        section: One condition of a comparison.
        records: Its runs.
        histories: Validation metric of its chosen runs by run id, as pairs of step and value.
        metric: Name of the metric, without a split.

    Returns:
        The figure; None where no run recorded two validations.
    """
    grouped = _group(section, records, histories)
    if not grouped:
        return None
    budgets = [budget.labels for budget in section.budgets if any(key[1] == budget.labels for key in grouped)]
    figure, facets = open_facets(len(budgets))
    words = Words()
    rows: list[tuple[str | int | float, ...]] = []
    for axes, labels in zip(facets, budgets, strict=True):
        for arm in section.names:
            own = grouped.get((arm, labels), [])
            look, name = look_of(section, arm), section.names[arm]
            for history in own:
                steps, values = zip(*history, strict=True)
                axes.plot(steps, values, color=look["color"], alpha=0.22, linewidth=0.8)
            mean = _average(own)
            if mean:
                [drawn] = axes.plot(
                    list(mean), list(mean.values()), label=name, linewidth=1.8, markersize=3.5, **look
                )
                words.put(drawn, [f"{name}, step {step}: {value:.3f}" for step, value in mean.items()])
                rows += [(name, labels, step, value, len(own)) for step, value in mean.items()]
        axes.set_title(name_budget(labels), fontsize=10)
        axes.set_xlabel("optimizer step")
        axes.grid(axis="y")
    facets[0].set_ylabel(name_metric(metric, "val"))
    entitle(figure, f"{section.data}: {name_metric(metric, 'val')} while training")
    draw_legend(figure, facets)
    annotate(
        figure, "Mean of the chosen trial at the steps that all its runs have; faint lines are the runs."
    )
    return Drawing(
        name="learning_curves",
        caption=f"{section.data}: validation {metric.replace('_', ' ')} over optimizer steps, chosen trials",
        figure=figure,
        columns=("arm", "labels", "step", f"val {metric}", "runs"),
        rows=tuple(rows),
        words=words.by_id,
    )


def _group(
    section: Section, records: Sequence[RunRecord], histories: Mapping[str, History]
) -> dict[tuple[Arm, str], list[History]]:
    """Return the histories of two validations and more by arm and label budget."""
    by_id = {record.run_id: record for record in records}
    grouped: dict[tuple[Arm, str], list[History]] = {}
    for run_id in section.chosen:
        history = histories.get(run_id, ())
        if len(history) > 1:
            grouped.setdefault((by_id[run_id].arm, by_id[run_id].labels), []).append(history)
    return grouped


def _average(histories: Sequence[History]) -> dict[int, float]:
    """Return the mean at each step that all histories have."""
    tables = [dict(history) for history in histories]
    shared = sorted(set.intersection(*map(set, tables))) if tables else []
    return {step: math.fsum(table[step] for table in tables) / len(tables) for step in shared}
