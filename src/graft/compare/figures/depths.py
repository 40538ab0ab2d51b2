"""The freeze-depth profile: test metric and gain over the twin by freeze depth, a line per backbone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes

from graft.compare.canvas import BACKBONE_COLOURS, mark_arm, open_figure
from graft.compare.comparison import Row, Section
from graft.compare.drawing import Drawing, Words
from graft.compare.figures.strokes import (
    DASHES,
    annotate,
    draw_means,
    draw_seeds,
    entitle,
    explain_intervals,
    is_transfer,
    name_file,
    name_metric,
    say_mean,
    say_seeds,
    values_at,
)
from graft.compare.naming import name_budget
from graft.config.names import STAGES
from graft.plan.arms import Arm

#: Fewer frozen depths than these make no profile.
PROFILE_DEPTHS = 4

#: How far from its depth a cut inside a stage may stand: short of the middle between two.
_BESIDE = 0.4


def has_profile(section: Section, labels: str) -> bool:
    """Whether enough freeze depths were tried at a label budget."""
    rows = [row for budget in section.budgets if budget.labels == labels for row in budget.rows]
    return len({row.arm.freeze_depth for row in rows if is_transfer(row.arm)}) >= PROFILE_DEPTHS


def draw_depths(section: Section, labels: str, metric: str) -> Drawing:
    """Draw the test metric against freeze depth, a line per backbone, from scratch as a band.

    A cut inside a stage (``transfer.freeze_until``) is a point of its own beside the depth whose end it
    moves: a report does not know how far it moves.
    """
    rows = [row for budget in section.budgets if budget.labels == labels for row in budget.rows]
    backbones = list(dict.fromkeys(arm.backbone for arm in section.names))
    figure, axes = open_figure(8.6, 4.6)
    words, drawn = Words(), list[Row]()
    for place, backbone in enumerate(backbones):
        colour = BACKBONE_COLOURS[place % len(BACKBONE_COLOURS)]
        shift = 0.09 * (place - (len(backbones) - 1) / 2)
        own = [row for row in rows if row.arm.backbone == backbone]
        for row in own:
            if row.arm.from_scratch:
                _draw_band(axes, row, colour, f"{backbone}, from scratch")
                drawn.append(row)
        lines = _split_lines(own)
        beside = _place_cuts(lines.values())
        for name, line in lines.items():
            said = f"{backbone}, {name}"
            places = [row.arm.freeze_depth - beside.get(row.arm, 0.0) + shift for row in line]
            _draw_line(axes, section, line, places, labels, colour, said, words)
            drawn += line
    axes.set_xticks(range(STAGES + 1), ["0\nall train", "1", "2", "3", "4", "5\nhead only"])
    axes.set_xlim(-0.35, STAGES + 0.35)
    axes.set_xlabel("freeze depth (leading stages frozen)")
    axes.set_ylabel(name_metric(metric))
    axes.grid(axis="y")
    entitle(figure, f"{section.data}: {name_metric(metric)} by freeze depth, {name_budget(labels)}")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), labelspacing=0.7)
    cuts = any(row.arm.freeze_until for row in drawn)
    where = "\nA cut inside a stage stands left of the depth whose end it moves." if cuts else ""
    annotate(figure, explain_intervals(section) + where)
    suffix = f"_{name_file(labels)}" if len(section.budgets) > 1 else ""
    return Drawing(
        name=f"{metric}_by_depth{suffix}",
        caption=f"{section.data}: {name_metric(metric)} against freeze depth, {name_budget(labels)}",
        figure=figure,
        columns=("arm", "backbone", "freeze depth", "mean", "low", "high", "gain", "gain low", "gain high"),
        rows=tuple(_list_row(row) for row in drawn),
        words=words.by_id,
    )


def _split_lines(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the transfer arms of a backbone, ascending by depth, each kind and cut on a line of its own."""
    lines: dict[str, list[Row]] = {}
    transfer = [row for row in rows if is_transfer(row.arm)]
    own = sorted(transfer, key=lambda row: (row.arm.freeze_depth, row.arm.freeze_until))
    details = ("weights", "head", "loss", "augment", "input")
    telling = [detail for detail in details if len({getattr(row.arm, detail) for row in own}) > 1]
    for row in own:
        words = [getattr(row.arm, detail).partition("@")[0] for detail in telling]
        words += [f"frozen to {row.arm.freeze_until}"] if row.arm.freeze_until else []
        lines.setdefault(", ".join(words) or "transfer", []).append(row)
    return lines


def _place_cuts(lines: Iterable[Sequence[Row]]) -> dict[Arm, float]:
    """Return how far left of its depth each cut inside a stage stands, those of one depth apart."""
    by_depth: dict[int, list[Arm]] = defaultdict(list)
    for line in lines:
        for row in line:
            if row.arm.freeze_until:
                by_depth[row.arm.freeze_depth].append(row.arm)
    return {
        arm: _BESIDE * (1 - place / len(own)) for own in by_depth.values() for place, arm in enumerate(own)
    }


def _draw_band(axes: Axes, row: Row, colour: str, name: str) -> None:
    axes.axhline(row.test.mean, color=colour, linewidth=1.4, linestyle=DASHES, label=name)
    if row.test.has_interval:
        axes.axhspan(row.test.low, row.test.high, color=colour, alpha=0.1, linewidth=0)


def _draw_line(
    axes: Axes,
    section: Section,
    rows: Sequence[Row],
    places: Sequence[float],
    labels: str,
    colour: str,
    name: str,
    words: Words,
) -> None:
    for place, row in zip(places, rows, strict=True):
        values = values_at(section, row.arm, labels)
        said = say_seeds(row.name, row, values)
        draw_seeds(axes, [place + 0.04] * len(values), values, colour, words, said)
    said = [say_mean(row.name, labels, row.test) for row in rows]
    look = mark_arm(rows[0].arm, section.names)
    look["markeredgecolor"] = "white" if look["fillstyle"] == "full" else colour
    draw_means(axes, places, [row.test for row in rows], words, said, color=colour, label=name, **look)


def _list_row(row: Row) -> tuple[str | int | float, ...]:
    nan = float("nan")
    gain = row.to_twin.estimate if row.to_twin else None
    gains = (gain.mean, gain.low, gain.high) if gain else (nan, nan, nan)
    test = (row.test.mean, row.test.low, row.test.high)
    return (row.name, row.arm.backbone, row.arm.freeze_depth, *test, *gains)
