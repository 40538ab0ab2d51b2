"""Validation by learning rate, a line per arm: whether the grid holds the best rate."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from graft.compare.canvas import open_facets
from graft.compare.comparison import Section
from graft.compare.drawing import Drawing, Words
from graft.compare.figures.strokes import annotate, draw_legend, entitle, look_of, name_metric
from graft.compare.naming import name_budget
from graft.compare.search import read_rate
from graft.config.names import METRICS
from graft.plan.arms import Arm
from graft.track.record import RunRecord


def draw_rates(section: Section, records: Sequence[RunRecord], metric: str) -> Drawing | None:
    """Draw the mean validation metric of each rate, the best trial of a rate where there are several.

    Args:
        section: One condition of a comparison.
        records: Its runs.
        metric: Name of the metric, without a split.

    Returns:
        The figure; None where no arm tried two rates.
    """
    lines = {
        budget.labels: _find_lines(section, records, budget.labels, metric) for budget in section.budgets
    }
    if not any(len(line) > 1 for own in lines.values() for line in own.values()):
        return None
    figure, facets = open_facets(len(lines))
    words = Words()
    rows: list[tuple[str | int | float, ...]] = []
    for axes, (labels, own) in zip(facets, lines.items(), strict=True):
        for arm, line in own.items():
            name = section.names[arm]
            [drawn] = axes.plot(
                list(line),
                list(line.values()),
                label=name,
                linewidth=1.6,
                markersize=5,
                **look_of(section, arm),
            )
            words.put(
                drawn, [f"{name}, lr {rate:g}: {value:.3f} on validation" for rate, value in line.items()]
            )
            rows += [(name, labels, rate, value) for rate, value in line.items()]
        rates = sorted({rate for line in own.values() for rate in line})
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(rates))
        axes.xaxis.set_major_formatter(FixedFormatter([f"{rate:g}" for rate in rates]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.tick_params(axis="x", labelrotation=45 if len(rates) > 4 else 0)
        axes.set_title(name_budget(labels), fontsize=10)
        axes.set_xlabel("learning rate")
        axes.grid(axis="y")
    facets[0].set_ylabel(name_metric(metric, "val"))
    entitle(figure, f"{section.data}: {name_metric(metric, 'val')} against learning rate")
    draw_legend(figure, facets)
    annotate(figure, "Mean over replicates; where a rate has several trials, the best of them.")
    return Drawing(
        name=f"{metric}_by_rate",
        caption=f"{section.data}: validation {metric.replace('_', ' ')} against learning rate, by arm",
        figure=figure,
        columns=("arm", "labels", "learning rate", f"val {metric}"),
        rows=tuple(rows),
        words=words.by_id,
    )


def _find_lines(
    section: Section, records: Sequence[RunRecord], labels: str, metric: str
) -> dict[Arm, dict[float, float]]:
    """Return the best mean validation metric of each rate by arm, rates ascending."""
    values: dict[tuple[Arm, str], list[float]] = defaultdict(list)
    for record in records:
        value = record.metrics.get(f"val/{metric}", math.nan)
        if record.status == "finished" and record.labels == labels and math.isfinite(value):
            values[record.arm, record.trial].append(value)
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    lines: dict[Arm, dict[float, float]] = {}
    for arm in section.names:
        best: dict[float, float] = {}
        for (other, trial), found in values.items():
            rate, mean = read_rate(trial), math.fsum(found) / len(found)
            if other == arm and math.isfinite(rate) and sign * mean > sign * best.get(rate, -sign * math.inf):
                best[rate] = mean
        if best:
            lines[arm] = dict(sorted(best.items()))
    return lines
