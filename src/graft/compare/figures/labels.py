"""The figure of the first screen: the test metric against labels, with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from graft.compare.canvas import LINE, SOFT_INK, colour_arm, open_figure
from graft.compare.comparison import Section
from graft.compare.curves import Curve
from graft.compare.drawing import Cell, Drawing, Words
from graft.compare.figures.strokes import (
    annotate,
    draw_means,
    draw_seeds,
    entitle,
    explain_intervals,
    look_of,
    name_metric,
    rows_by_arm,
    say_mean,
    say_seeds,
)
from graft.compare.naming import name_budget

#: Columns of the table behind a figure of means with intervals.
MEAN_COLUMNS = ("arm", "labels", "mean", "low", "high", "n", "values")


def draw_labels(section: Section, metric: str) -> Drawing:
    """Draw the test metric against labels: means, 95 % intervals, and the seeds as faint points."""
    figure, axes = open_figure(8.6, 4.8)
    words = Words()
    ordered = [curve for arm in section.names for curve in section.curves if curve.arm == arm]
    reach = min(0.16, 0.025 * len(ordered)) if len(ordered) > 1 else 0.0
    shifts = np.linspace(-reach, reach, len(ordered))
    for curve, shift in zip(ordered, shifts, strict=True):
        _draw_curve(axes, section, curve, float(shift), words)
    neighbours = _draw_neighbours(axes, section) if metric == "accuracy" else []
    _draw_multipliers(axes, section, words)
    axes.xaxis.set_major_locator(FixedLocator([math.log2(place) for place in section.axis.places.values()]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FixedFormatter(list(section.axis.places)))
    axes.set_xlabel(f"{section.axis.name} (log scale)")
    axes.set_ylabel(name_metric(metric))
    axes.grid(axis="y")
    entitle(figure, f"{section.data}: {name_metric(metric)} against labels")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=2.2, labelspacing=0.7)
    annotate(figure, explain_intervals(section))
    against = "labels per class" if section.axis.name.endswith("per class") else "labels"
    return Drawing(
        name=f"{metric}_by_labels",
        caption=f"{section.data}: test {metric.replace('_', ' ')} against {against}, by arm",
        figure=figure,
        columns=(*MEAN_COLUMNS, "times the labels", "times low", "times high"),
        rows=(*(row for curve in ordered for row in _list_points(section, curve)), *neighbours),
        words=words.by_id,
    )


def _draw_curve(axes: Axes, section: Section, curve: Curve, shift: float, words: Words) -> None:
    """Draw one arm. It is moved sideways by ``shift`` octaves, so that intervals do not hide each other."""
    look, name = look_of(section, curve.arm), section.names[curve.arm]
    places = [math.log2(section.axis.places[point.labels]) + shift for point in curve.points]
    for place, point in zip(places, curve.points, strict=True):
        said = say_seeds(name, rows_by_arm(section, point.labels)[curve.arm], point.values)
        draw_seeds(axes, [place + 0.035] * len(point.values), point.values, look["color"], words, said)
    said = [say_mean(name, point.labels, point.estimate) for point in curve.points]
    draw_means(axes, places, [point.estimate for point in curve.points], words, said, label=name, **look)


def _draw_neighbours(axes: Axes, section: Section) -> list[tuple[Cell, ...]]:
    """Draw what nearest neighbours on pixels reach: the bar that an honest baseline clears.

    Returns:
        Its rows of the table.
    """
    points = {
        budget.labels: budget.pixel_1nn for budget in section.budgets if math.isfinite(budget.pixel_1nn)
    }
    if not points:
        return []
    name, places = "1-NN on raw pixels", [math.log2(section.axis.places[labels]) for labels in points]
    axes.plot(places, list(points.values()), ":", color=LINE, linewidth=1.4, zorder=1, label=name)
    return [
        (name, labels, value, *[math.nan] * 2, 1, "", *[math.nan] * 3) for labels, value in points.items()
    ]


def _draw_multipliers(axes: Axes, section: Section, words: Words) -> None:
    """Draw how far to the right from scratch has to go to be as good as the arm that validation chose."""
    last = math.log2(max(section.axis.places.values()))
    for budget in section.budgets:
        row = next((row for row in budget.rows if row.headline), None)
        many = row.multiplier if row is not None else None
        if row is None or many is None or row.verdict != "helps" or not many.value > 1:
            continue
        start, height = math.log2(section.axis.places[budget.labels]), row.test.mean
        end = min(start + math.log2(many.value), last)
        colour = colour_arm(row.arm)
        if end > start:
            [line] = axes.plot(
                [start, end], [height, height], ":", color=colour, linewidth=1.3, marker=">", markevery=[1]
            )
            words.put(line, [f"{row.name}, {name_budget(budget.labels)}: worth {many.text}"])
        if many.censored == "" and many.low > 0:
            ends = [min(start + math.log2(side), last) for side in (many.low, many.high)]
            axes.plot(ends, [height, height], color=colour, linewidth=4, alpha=0.25, zorder=1)
        sign = "> " if many.censored == "above" else ""
        axes.annotate(
            f"{sign}{many.value:.1f}× labels",
            ((start + end) / 2, height),
            (0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=SOFT_INK,
        )


def _list_points(section: Section, curve: Curve) -> Iterator[tuple[Cell, ...]]:
    for point in curve.points:
        one = point.estimate
        values = " ".join(f"{value:.6g}" for value in point.values)
        many = rows_by_arm(section, point.labels)[curve.arm].multiplier
        times = (many.value, many.low, many.high) if many else (math.nan,) * 3
        yield (section.names[curve.arm], point.labels, one.mean, one.low, one.high, one.n, values, *times)
