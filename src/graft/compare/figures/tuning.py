"""The expected best of n trials: what arms with unequal tuning budgets are compared by."""

from __future__ import annotations

from graft.compare.canvas import open_facets
from graft.compare.comparison import Section
from graft.compare.drawing import Drawing, Words
from graft.compare.figures.strokes import annotate, draw_legend, entitle, look_of, name_metric
from graft.compare.naming import name_budget


def draw_tuning(section: Section, metric: str) -> Drawing | None:
    """Draw the expected best validation metric against the number of trials.

    Returns:
        The figure; None where all arms of a label budget had as many trials.
    """
    budgets = [
        budget.labels
        for budget in section.budgets
        if len({len(one.expected) for one in section.tuning_curves if one.labels == budget.labels}) > 1
    ]
    if not budgets:
        return None
    figure, facets = open_facets(len(budgets))
    words = Words()
    rows: list[tuple[str | int | float, ...]] = []
    for axes, labels in zip(facets, budgets, strict=True):
        curves = {one.arm: one.expected for one in section.tuning_curves if one.labels == labels}
        for arm in section.names:
            name, values = section.names[arm], curves.get(arm, ())
            places = range(1, len(values) + 1)
            [line] = axes.plot(
                places, values, label=name, linewidth=1.6, markersize=5, **look_of(section, arm)
            )
            said = [f"{name}, best of {n}: {value:.3f}" for n, value in zip(places, values, strict=True)]
            words.put(line, said)
            rows += [(name, labels, n, value) for n, value in zip(places, values, strict=True)]
        most = max(map(len, curves.values()))
        axes.set_xticks(range(1, most + 1, max(1, most // 8)))
        axes.set_title(name_budget(labels), fontsize=10)
        axes.set_xlabel("trials")
        axes.grid(axis="y")
    facets[0].set_ylabel(name_metric(metric, "val"))
    entitle(figure, f"{section.data}: expected best {name_metric(metric, 'val')} of n trials")
    draw_legend(figure, facets)
    annotate(figure, "Compare arms at equal n: whoever may choose among more trials has the better best one.")
    return Drawing(
        name=f"{metric}_by_trials",
        caption=f"{section.data}: expected best {name_metric(metric, 'val')} against the number of trials",
        figure=figure,
        columns=("arm", "labels", "trials", f"expected best val {metric}"),
        rows=tuple(rows),
        words=words.by_id,
    )
