"""Figures of a comparison, as matplotlib `Figure` values: drawn from its numbers alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from graft.compare.canvas import STYLE, colour_arm, open_figure
from graft.compare.comparison import TRANSFER_METHODS, Row, Section
from graft.compare.curves import Curve
from graft.compare.naming import name_budget
from graft.compare.replicates import count_range, name_replicate
from graft.config.names import METRICS, STAGES
from graft.plan.arms import Arm

#: Marker of an arm by the place of its backbone among those compared.
BACKBONE_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
#: Colour of a backbone where colour does not stand for the arm.
BACKBONE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#000000")

#: Fewer frozen depths than these make no profile.
PROFILE_DEPTHS = 4


def draw_section(section: Section, metric: str) -> dict[str, Figure]:
    """Draw the figures that fit a section, by name of the file.

    Several label budgets give a curve, one gives a plot of arms; a grid of freeze depths its profile too.

    Args:
        section: One condition of a comparison.
        metric: Name of the metric, without a split.
    """
    figures: dict[str, Figure] = {}
    with mpl.rc_context(STYLE):
        if len(section.budgets) > 1:
            figures[f"{metric}_by_labels"] = draw_curves(section, metric)
        else:
            figures[f"{metric}_by_arm"] = draw_arms(section, section.budgets[0].labels, metric)
        for budget in section.budgets:
            # A percent sign in a file name would break the link to it.
            suffix = f"_{budget.labels.replace('%', 'percent')}" if len(section.budgets) > 1 else ""
            if len({row.arm.freeze_depth for row in budget.rows if _in_profile(row.arm)}) >= PROFILE_DEPTHS:
                figures[f"{metric}_by_depth{suffix}"] = draw_profile(section, budget.labels, metric)
    return figures


def draw_curves(section: Section, metric: str) -> Figure:
    """Draw the test metric against labels per class: means, 95 % intervals, and the seeds as faint points."""
    figure, axes = open_figure(8.6, 4.8)
    ordered = [curve for arm in section.names for curve in section.curves if curve.arm == arm]
    reach = min(0.16, 0.025 * len(ordered)) if len(ordered) > 1 else 0.0
    shifts = np.linspace(-reach, reach, len(ordered))
    for curve, shift in zip(ordered, shifts, strict=True):
        _draw_curve(axes, section, curve, float(shift))
    if metric == "accuracy":
        _draw_neighbours(axes, section)
    axes.xaxis.set_major_locator(FixedLocator([math.log2(place) for place in section.axis.places.values()]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FixedFormatter(list(section.axis.places)))
    axes.set_xlabel(f"{section.axis.name} (log scale)")
    axes.set_ylabel(_name_metric(metric))
    axes.grid(axis="y")
    _entitle(figure, f"{section.data}: {_name_metric(metric)} against labels")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=2.2, labelspacing=0.7)
    _explain(figure, section)
    return figure


def draw_arms(section: Section, labels: str, metric: str) -> Figure:
    """Draw one label budget: an arm per line, its mean, 95 % interval, and the seeds as faint points."""
    rows = {row.arm: row for budget in section.budgets if budget.labels == labels for row in budget.rows}
    arms = [arm for arm in section.names if arm in rows]
    figure, axes = open_figure(8.6, 1.5 + 0.36 * len(arms))
    for place, arm in enumerate(arms):
        colour = colour_arm(arm)
        values, estimate = _values_at(section, arm, labels), rows[arm].test
        _draw_seeds(axes, values, [place + 0.24] * len(values), colour)
        if estimate.has_interval:
            axes.plot(
                [estimate.low, estimate.high],
                [place, place],
                color=colour,
                linewidth=2,
                solid_capstyle="round",
            )
        axes.plot(
            [estimate.mean],
            [place],
            _marker(section, arm),
            color=colour,
            markersize=8,
            markeredgecolor="white",
        )
        if place and arms[place - 1].backbone != arm.backbone:
            axes.axhline(place - 0.5, color="#b3b3b3", linewidth=0.8)
        if arm.from_scratch:
            end = max(index for index, other in enumerate(arms) if other.backbone == arm.backbone)
            axes.vlines(estimate.mean, place, end + 0.4, colour, (0, (4, 3)), linewidth=0.9, zorder=0)
    axes.set_yticks(range(len(arms)), [section.names[arm] for arm in arms])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.grid(axis="x")
    axes.set_xlabel(_name_metric(metric))
    _entitle(figure, f"{section.data}: {_name_metric(metric)} by arm, {name_budget(labels)}")
    _explain(figure, section)
    return figure


def draw_profile(section: Section, labels: str, metric: str) -> Figure:
    """Draw the test metric against freeze depth, a line per backbone, from scratch as a band."""
    rows = [row for budget in section.budgets if budget.labels == labels for row in budget.rows]
    backbones = list(dict.fromkeys(arm.backbone for arm in section.names))
    figure, axes = open_figure(8.6, 4.6)
    for place, backbone in enumerate(backbones):
        colour = BACKBONE_COLOURS[place % len(BACKBONE_COLOURS)]
        own = [row for row in rows if row.arm.backbone == backbone]
        for row in own:
            if row.arm.from_scratch:
                _draw_band(axes, row, colour, f"{backbone}, from scratch")
        weights = list(dict.fromkeys(row.arm.weights for row in own if _in_profile(row.arm)))
        for name in weights:
            line = sorted(
                (row for row in own if _in_profile(row.arm) and row.arm.weights == name),
                key=lambda row: row.arm.freeze_depth,
            )
            said = f"{backbone}, {name.partition('@')[0]}" if len(weights) > 1 else f"{backbone}, transfer"
            shift = 0.09 * (place - (len(backbones) - 1) / 2)
            _draw_depths(axes, section, line, labels, colour, _marker(section, line[0].arm), said, shift)
    axes.set_xticks(range(STAGES + 1), ["0\nall train", "1", "2", "3", "4", "5\nhead only"])
    axes.set_xlim(-0.35, STAGES + 0.35)
    axes.set_xlabel("freeze depth (leading stages frozen)")
    axes.set_ylabel(_name_metric(metric))
    axes.grid(axis="y")
    _entitle(figure, f"{section.data}: {_name_metric(metric)} by freeze depth, {name_budget(labels)}")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), labelspacing=0.7)
    _explain(figure, section)
    return figure


def _draw_curve(axes: Axes, section: Section, curve: Curve, shift: float) -> None:
    """Draw one arm. It is moved sideways by ``shift`` octaves, so that intervals do not hide each other."""
    colour = colour_arm(curve.arm)
    places = [math.log2(section.axis.places[point.labels]) + shift for point in curve.points]
    means = [point.estimate.mean for point in curve.points]
    reach = [
        point.estimate.high - point.estimate.mean if point.estimate.has_interval else 0.0
        for point in curve.points
    ]
    for place, point in zip(places, curve.points, strict=True):
        _draw_seeds(axes, [place + 0.035] * len(point.values), point.values, colour)
    axes.errorbar(
        places,
        means,
        yerr=reach,
        color=colour,
        linestyle=(0, (5, 2)) if curve.arm.from_scratch else "-",
        linewidth=2,
        elinewidth=1.3,
        capsize=2.5,
        marker=_marker(section, curve.arm),
        markersize=6,
        markeredgecolor="white",
        label=section.names[curve.arm],
    )


def _draw_seeds(axes: Axes, x: Sequence[float], y: Sequence[float], colour: str) -> None:
    """Draw single seeds, faint and beside the mean."""
    axes.plot(x, y, "o", color=colour, alpha=0.38, markersize=3.6, markeredgewidth=0)


def _draw_neighbours(axes: Axes, section: Section) -> None:
    """Draw what nearest neighbours on pixels reach: the bar that an honest baseline clears."""
    points = [
        (math.log2(section.axis.places[budget.labels]), budget.pixel_1nn)
        for budget in section.budgets
        if math.isfinite(budget.pixel_1nn)
    ]
    if points:
        places, values = zip(*points, strict=True)
        axes.plot(places, values, ":", color="#8c8c8c", linewidth=1.4, zorder=1, label="1-NN on raw pixels")


def _draw_band(axes: Axes, row: Row, colour: str, name: str) -> None:
    axes.axhline(row.test.mean, color=colour, linewidth=1.4, linestyle=(0, (5, 2)), label=name)
    if row.test.has_interval:
        axes.axhspan(row.test.low, row.test.high, color=colour, alpha=0.1, linewidth=0)


def _draw_depths(
    axes: Axes,
    section: Section,
    rows: Sequence[Row],
    labels: str,
    colour: str,
    marker: str,
    name: str,
    shift: float,
) -> None:
    places = [row.arm.freeze_depth + shift for row in rows]
    for place, row in zip(places, rows, strict=True):
        values = _values_at(section, row.arm, labels)
        _draw_seeds(axes, [place + 0.04] * len(values), values, colour)
    reach = [row.test.high - row.test.mean if row.test.has_interval else 0.0 for row in rows]
    axes.errorbar(
        places,
        [row.test.mean for row in rows],
        yerr=reach,
        color=colour,
        linewidth=2,
        elinewidth=1.3,
        capsize=2.5,
        marker=marker,
        markersize=6,
        markeredgecolor="white",
        label=name,
    )


def _values_at(section: Section, arm: Arm, labels: str) -> tuple[float, ...]:
    """Return the test metric of each seed of an arm at a label budget."""
    return next(
        point.values
        for curve in section.curves
        if curve.arm == arm
        for point in curve.points
        if point.labels == labels
    )


def _marker(section: Section, arm: Arm) -> str:
    backbones = list(dict.fromkeys(one.backbone for one in section.names))
    return BACKBONE_MARKERS[backbones.index(arm.backbone) % len(BACKBONE_MARKERS)]


def _in_profile(arm: Arm) -> bool:
    """Whether an arm is a point of the freeze-depth profile."""
    return arm.method in TRANSFER_METHODS


def _name_metric(metric: str) -> str:
    unit = METRICS[metric].unit
    return f"test {metric.replace('_', ' ')}" + ("" if unit == "fraction" else f" ({unit})")


def _entitle(figure: Figure, title: str) -> None:
    figure.suptitle(title, x=0.01, ha="left")


def _explain(figure: Figure, section: Section) -> None:
    """Say under the figure what its marks are."""
    groups = [row.replicates for budget in section.budgets for row in budget.rows]
    if name_replicate(groups[0]) == "fold":
        interval, covers = "corrected resampled t interval", "new training and test images"
        points = "runs" if any(own[0].seed != own[-1].seed for own in groups) else "folds"
    else:
        interval, covers, points = "Student-t interval", "new seeds, this test set", "seeds"
    figure.supxlabel(
        f"Mean and 95 % {interval} over {count_range(groups)} ({covers}); faint points are {points}.",
        fontsize=8,
        color="#666666",
        x=0.01,
        ha="left",
    )
