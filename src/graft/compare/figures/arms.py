"""One label budget: an arm per line."""

from __future__ import annotations

from graft.compare.canvas import colour_arm, mark_arm, open_figure
from graft.compare.comparison import Section
from graft.compare.drawing import Drawing, Words
from graft.compare.figures.labels import MEAN_COLUMNS
from graft.compare.figures.strokes import (
    annotate,
    draw_seeds,
    entitle,
    explain_intervals,
    name_metric,
    rows_by_arm,
    say_mean,
    say_seeds,
    values_at,
)
from graft.compare.naming import name_budget


def draw_arms(section: Section, labels: str, metric: str) -> Drawing:
    """Draw the mean of each arm, its 95 % interval, and the seeds as faint points."""
    rows = rows_by_arm(section, labels)
    arms = list(rows)
    figure, axes = open_figure(8.6, 1.5 + 0.36 * len(arms))
    words = Words()
    for place, arm in enumerate(arms):
        colour, estimate, name = colour_arm(arm), rows[arm].test, section.names[arm]
        values = values_at(section, arm, labels)
        said = say_seeds(name, rows[arm], values)
        draw_seeds(axes, values, [place + 0.24] * len(values), colour, words, said)
        if estimate.has_interval:
            ends = [estimate.low, estimate.high]
            axes.plot(ends, [place, place], color=colour, linewidth=2, solid_capstyle="round")
        look = mark_arm(arm, section.names)
        [mean] = axes.plot([estimate.mean], [place], color=colour, markersize=8, linestyle="", **look)
        words.put(mean, [say_mean(name, labels, estimate)])
        if place and arms[place - 1].backbone != arm.backbone:
            axes.axhline(place - 0.5, color="#b3b3b3", linewidth=0.8)
        if arm.from_scratch:
            end = max(index for index, other in enumerate(arms) if other.backbone == arm.backbone)
            axes.vlines(estimate.mean, place, end + 0.4, colour, (0, (4, 3)), linewidth=0.9, zorder=0)
    axes.set_yticks(range(len(arms)), [section.names[arm] for arm in arms])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.grid(axis="x")
    axes.set_xlabel(name_metric(metric))
    entitle(figure, f"{section.data}: {name_metric(metric)} by arm, {name_budget(labels)}")
    annotate(figure, explain_intervals(section))
    return Drawing(
        name=f"{metric}_by_arm",
        caption=f"{section.data}: test {metric.replace('_', ' ')} against arm",
        figure=figure,
        columns=MEAN_COLUMNS,
        rows=tuple(
            (
                section.names[arm],
                labels,
                row.test.mean,
                row.test.low,
                row.test.high,
                row.test.n,
                " ".join(f"{value:.6g}" for value in values_at(section, arm, labels)),
            )
            for arm, row in rows.items()
        ),
        words=words.by_id,
    )
