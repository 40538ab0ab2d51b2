"""What accuracy costs: the test metric of each arm against its seconds, and the front of both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from graft.compare.canvas import LINE, colour_arm, mark_arm, open_facets
from graft.compare.comparison import Row, Section
from graft.compare.drawing import Drawing, Words
from graft.compare.figures.strokes import annotate, draw_legend, entitle, name_metric
from graft.compare.naming import name_budget, write_seconds, write_value
from graft.config.names import METRICS


def draw_pareto(section: Section, metric: str) -> Drawing | None:
    """Draw each arm by the seconds that it takes, tuning included, and its test metric.

    Returns:
        The figure; None where fewer than two arms recorded their seconds.
    """
    found = {
        budget.labels: [row for row in budget.rows if 0 < count_cost(row) < math.inf]
        for budget in section.budgets
    }
    found = {labels: rows for labels, rows in found.items() if len(rows) > 1}
    if not found:
        return None
    figure, facets = open_facets(len(found))
    words = Words()
    for axes, (labels, rows) in zip(facets, found.items(), strict=True):
        _draw_arms(axes, section, rows, find_front(rows, metric), words)
        _place_ticks(axes, [count_cost(row) for row in rows])
        axes.set_title(name_budget(labels), fontsize=10)
        axes.set_xlabel("time to train, tuning included")
        axes.grid(axis="both")
    facets[0].set_ylabel(name_metric(metric))
    entitle(figure, f"{section.data}: {name_metric(metric)} against what it costs")
    draw_legend(figure, facets)
    annotate(
        figure,
        "One run of every trial of the arm, as if alone. On the grey line no arm is both better and cheaper.",
    )
    return Drawing(
        name=f"{metric}_by_cost",
        caption=f"{section.data}: test {metric.replace('_', ' ')} against training time, tuning included",
        figure=figure,
        columns=("arm", "labels", "seconds", f"test {metric}", "low", "high", "front"),
        rows=tuple(_list_numbers(found, metric)),
        words=words.by_id,
    )


def _draw_arms(axes: Axes, section: Section, rows: Sequence[Row], front: Sequence[Row], words: Words) -> None:
    """Draw the arms of a budget, and the line of those that no other beats in both."""
    axes.step(
        [count_cost(row) for row in front],
        [row.test.mean for row in front],
        where="post",
        color=LINE,
        linewidth=1.2,
        zorder=1,
    )
    for row in sorted(rows, key=lambda row: list(section.names).index(row.arm)):
        look = mark_arm(row.arm, section.names)
        colour = colour_arm(row.arm)
        reach = [[row.test.mean - row.test.low], [row.test.high - row.test.mean]]
        if row.test.has_interval:
            axes.errorbar([count_cost(row)], [row.test.mean], yerr=reach, color=colour, elinewidth=1.1)
        [mean] = axes.plot(
            [count_cost(row)],
            [row.test.mean],
            color=colour,
            markersize=7,
            linestyle="",
            label=row.name,
            **look,
        )
        least = "at least " if row.cost is not None and row.cost.unknown_trials else ""
        said = f"{row.name}: {write_value(row.test)} for {least}{write_seconds(count_cost(row))}"
        words.put(mean, [said + (", on the front" if row in front else "")])


def _list_numbers(found: Mapping[str, Sequence[Row]], metric: str) -> Iterator[tuple[str | float, ...]]:
    """Yield the numbers behind the figure, an arm at a time."""
    for labels, rows in found.items():
        front = find_front(rows, metric)
        for row in rows:
            numbers = (count_cost(row), row.test.mean, row.test.low, row.test.high)
            yield (row.name, labels, *numbers, "yes" if row in front else "no")


def _place_ticks(axes: Axes, seconds: Sequence[float]) -> None:
    """Mark the cheapest, the dearest and what is between them on a log axis."""
    low, high = min(seconds), max(seconds)
    ticks = [low, math.sqrt(low * high), high] if high > 1.5 * low else [math.sqrt(low * high)]
    axes.set_xscale("log")
    axes.set_xlim(low / 1.4, high * 1.4)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([write_seconds(tick) for tick in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())


def count_cost(row: Row) -> float:
    """Return the seconds of one run of every trial, NaN where nobody recorded them."""
    return row.train_seconds * row.trials if row.cost is None else row.cost.tuned_seconds


def find_front(rows: Sequence[Row], metric: str) -> list[Row]:
    """Return the arms that no other is both better and cheaper than, the cheapest first."""
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (count_cost(row), -sign * row.test.mean)):
        if not front or sign * row.test.mean > sign * front[-1].test.mean:
            front.append(row)
    return front
