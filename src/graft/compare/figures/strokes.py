"""Strokes that several figures share: seeds, means with intervals, captions, and how axes are named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from graft.compare.canvas import FAINT_INK, colour_arm, mark_arm
from graft.compare.comparison import TRANSFER_METHODS, Row, Section
from graft.compare.drawing import Words
from graft.compare.naming import name_budget, write_value
from graft.compare.replicates import count_range, name_replicate
from graft.compare.statistics import Estimate
from graft.config.names import METRICS
from graft.plan.arms import Arm

#: A line of an arm without pretrained weights.
DASHES: Any = (0, (5, 2))


def name_metric(metric: str, split: str = "test") -> str:
    """Return what an axis is called that shows a metric."""
    unit = METRICS[metric].unit
    return f"{split} {metric.replace('_', ' ')}" + ("" if unit == "fraction" else f" ({unit})")


def entitle(figure: Figure, title: str) -> None:
    """Write the title of a figure."""
    figure.suptitle(title, x=0.01, ha="left")


def annotate(figure: Figure, words: str) -> None:
    """Write under a figure what its marks are."""
    figure.supxlabel(words, fontsize=8, color=FAINT_INK, x=0.01, ha="left")


def draw_legend(figure: Figure, facets: Sequence[Axes]) -> None:
    """Draw one legend for all axes of a figure, each name once."""
    handles = {
        text: handle
        for axes in facets
        for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=9)


def explain_intervals(section: Section) -> str:
    """Say what intervals and faint points of a section are."""
    groups = [row.replicates for budget in section.budgets for row in budget.rows]
    if name_replicate(groups[0]) == "fold":
        interval, covers = "corrected resampled t interval", "new training and test images"
        points = "runs" if any(own[0].seed != own[-1].seed for own in groups) else "folds"
    else:
        interval, covers, points = "Student-t interval", "new seeds, this test set", "seeds"
    return f"Mean and 95 % {interval} over {count_range(groups)} ({covers}); faint points are {points}."


def draw_seeds(
    axes: Axes, x: Sequence[float], y: Sequence[float], colour: str, words: Words, said: Sequence[str]
) -> None:
    """Draw single seeds, faint and beside the mean."""
    [line] = axes.plot(x, y, "o", color=colour, alpha=0.38, markersize=3.6, markeredgewidth=0)
    words.put(line, said)


def draw_means(
    axes: Axes,
    x: Sequence[float],
    estimates: Sequence[Estimate],
    words: Words,
    said: Sequence[str],
    **look: Any,
) -> None:
    """Draw means with their intervals, joined by a line."""
    reach = [one.high - one.mean if one.has_interval else 0.0 for one in estimates]
    low = [one.mean - one.low if one.has_interval else 0.0 for one in estimates]
    usual: dict[str, Any] = {
        "linewidth": 2,
        "elinewidth": 1.3,
        "capsize": 2.5,
        "markersize": 6,
        "markeredgecolor": "white",
    }
    container = axes.errorbar(x, [one.mean for one in estimates], yerr=(low, reach), **(usual | look))
    words.put(container.lines[0], said)


def look_of(section: Section, arm: Arm) -> dict[str, Any]:
    """Return colour, marker and dashes of an arm of a section."""
    dashes = DASHES if arm.from_scratch else "-"
    return {"color": colour_arm(arm), "linestyle": dashes, **mark_arm(arm, section.names)}


def say_mean(name: str, labels: str, estimate: Estimate) -> str:
    """Say what a mean of an arm is."""
    return f"{name}, {name_budget(labels)}: {write_value(estimate)}"


def say_seeds(name: str, row: Row, values: Sequence[float]) -> list[str]:
    """Say of each replicate of an arm what it reached."""
    return [f"{name}, {one.label}: {value:.3f}" for one, value in zip(row.replicates, values, strict=False)]


def values_at(section: Section, arm: Arm, labels: str) -> tuple[float, ...]:
    """Return the test metric of each replicate of an arm at a label budget, the replicates ascending."""
    return next(
        point.values
        for curve in section.curves
        if curve.arm == arm
        for point in curve.points
        if point.labels == labels
    )


def rows_by_arm(section: Section, labels: str) -> dict[Arm, Row]:
    """Return the rows of a label budget, the arms in the order of tables and legends."""
    found = {row.arm: row for budget in section.budgets if budget.labels == labels for row in budget.rows}
    return {arm: found[arm] for arm in section.names if arm in found}


def is_transfer(arm: Arm) -> bool:
    """Whether an arm uses pretrained weights."""
    return arm.method in TRANSFER_METHODS


def name_file(labels: str) -> str:
    """Return a label budget as a part of a file name: a percent sign would break the link to it.

    >>> name_file("12.5%")
    '12.5percent'
    """
    return labels.replace("%", "percent")
