"""The seeds as points, paired: the difference of each arm to its twin, seed by seed."""

from __future__ import annotations

from graft.compare.canvas import LINE, colour_arm, mark_arm, open_facets
from graft.compare.comparison import Budget, Row, Section
from graft.compare.drawing import Drawing, Words
from graft.compare.figures.strokes import annotate, draw_seeds, entitle, name_metric, values_at
from graft.compare.naming import name_budget, write_gain
from graft.config.names import METRICS
from graft.plan.replicates import Replicate


def draw_pairs(section: Section, metric: str) -> Drawing | None:
    """Draw the difference to the twin by arm: its interval, and each pair as a point.

    Returns:
        The figure; None where no arm has a twin.
    """
    budgets = [budget for budget in section.budgets if any(row.to_twin for row in budget.rows)]
    if not budgets:
        return None
    arms = [
        arm
        for arm in section.names
        if any(row.arm == arm and row.to_twin for budget in budgets for row in budget.rows)
    ]
    figure, facets = open_facets(len(budgets), height=0.9 + 0.34 * len(arms), same_x=False)
    words = Words()
    rows: list[tuple[str | int | float, ...]] = []
    for axes, budget in zip(facets, budgets, strict=True):
        axes.axvline(0.0, color=LINE, linewidth=1.0)
        for row in budget.rows:
            if row.to_twin is None:
                continue
            place, estimate, colour = arms.index(row.arm), row.to_twin.estimate, colour_arm(row.arm)
            pairs = _subtract(section, budget, row)
            said = [f"{row.name} minus its twin, {one.label}: {value:+.4f}" for one, value in pairs.items()]
            draw_seeds(axes, list(pairs.values()), [place + 0.2] * len(pairs), colour, words, said)
            if estimate.has_interval:
                ends = [estimate.low, estimate.high]
                axes.plot(ends, [place, place], color=colour, linewidth=2, solid_capstyle="round")
            look = mark_arm(row.arm, section.names)
            [mean] = axes.plot([estimate.mean], [place], color=colour, markersize=7, linestyle="", **look)
            words.put(mean, [f"{row.name}: {write_gain(estimate, metric)}, {row.verdict}"])
            rows += [(row.name, budget.labels, "mean", estimate.mean, estimate.low, estimate.high)]
            nan = float("nan")
            rows += [(row.name, budget.labels, one.text, value, nan, nan) for one, value in pairs.items()]
        axes.set_yticks(range(len(arms)), [section.names[arm] for arm in arms])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(arms) - 0.5, -0.6)
        axes.set_title(name_budget(budget.labels), fontsize=10)
        axes.grid(axis="x")
    entitle(figure, f"{section.data}: difference to from scratch, seed by seed")
    better = "right" if METRICS[metric].higher_is_better else "left"
    annotate(
        figure,
        f"{name_metric(metric).capitalize()}, arm minus twin; {better} of the line is better."
        " Faint points are pairs, lines the intervals of the verdict.",
    )
    return Drawing(
        name=f"{metric}_pairs",
        caption=f"{section.data}: {name_metric(metric)}, difference of each arm to its twin by seed",
        figure=figure,
        columns=("arm", "labels", "replicate", "difference", "low", "high"),
        rows=tuple(rows),
        words=words.by_id,
    )


def _subtract(section: Section, budget: Budget, row: Row) -> dict[Replicate, float]:
    """Return the difference of each replicate that an arm shares with its twin."""
    twin = next((other for other in budget.rows if other.arm == row.arm.twin), None)
    if twin is None:
        return {}
    mine = dict(zip(row.replicates, values_at(section, row.arm, budget.labels), strict=True))
    its = dict(zip(twin.replicates, values_at(section, twin.arm, budget.labels), strict=True))
    return {one: value - its[one] for one, value in mine.items() if one in its}
