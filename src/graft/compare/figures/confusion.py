"""Confusion matrices: of the winner, of its twin, and their difference."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from graft.compare.canvas import FAINT_INK, STYLE, open_facets
from graft.compare.drawing import Drawing
from graft.compare.evidence import Portrait
from graft.compare.naming import name_budget

#: More classes than these leave no room for numbers in the cells.
_NUMBERED = 16
_NAMED = 40
#: Ink inside of cells, whose colours a dark page leaves as they are.
_DARK, _LIGHT = "#111111", "#fefefe"


def draw_confusion(portrait: Portrait, data: str) -> Drawing:
    """Draw shares of the true class, and beside them how the winner differs from its twin.

    Args:
        portrait: What winner and twin said.
        data: Name of the data set.
    """
    shares = {portrait.winner: _share(portrait.of_winner.count())}
    if portrait.of_twin is not None:
        shares[portrait.twin] = _share(portrait.of_twin.count())
    panels = [(name, share, "Blues", 0.0) for name, share in shares.items()]
    if portrait.of_twin is not None:
        panels.append(("difference", shares[portrait.winner] - shares[portrait.twin], "PuOr", -1.0))
    with mpl.rc_context(STYLE):
        figure, facets = open_facets(len(panels), height=3.3, columns=3, same_x=True)
        for axes, (name, values, colours, low) in zip(facets, panels, strict=True):
            top = 1.0 if low == 0 else max(0.05, float(np.abs(values).max()))
            axes.imshow(values, cmap=colours, vmin=low * top, vmax=top)
            _number(axes, values, top)
            _name_classes(axes, portrait.class_names)
            axes.set_title(name, fontsize=9, pad=6)
            axes.set_xlabel("predicted class")
        facets[0].set_ylabel("true class")
        figure.suptitle(f"{data}: what is taken for what, {name_budget(portrait.labels)}", x=0.01, ha="left")
        words = (
            "Shares of the true class in percent, over all replicates. The difference is winner minus twin"
        )
        if portrait.of_twin is not None:
            figure.supxlabel(f"{words}, in points.", fontsize=8, color=FAINT_INK, x=0.01, ha="left")
    return Drawing(
        name="confusion",
        caption=f"{data}: confusion matrix of {' and of '.join(shares)}, {name_budget(portrait.labels)}",
        figure=figure,
        columns=("true", "predicted", *(f"images: {name}" for name in shares)),
        rows=_list_cells(portrait),
    )


def _share(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), dtype=np.float64)


def _number(axes: Axes, values: npt.NDArray[np.float64], top: float) -> None:
    """Write the percent of each cell that has any, where there is room."""
    if len(values) > _NUMBERED:
        return
    size = 7 if len(values) <= 10 else 5
    for true, predicted in zip(*np.nonzero(np.abs(values) >= 0.005), strict=True):
        value = values[true, predicted]
        shade = _LIGHT if abs(value) > 0.55 * top else _DARK
        axes.text(predicted, true, f"{100 * value:.0f}", ha="center", va="center", color=shade, fontsize=size)


def _name_classes(axes: Axes, names: Sequence[str]) -> None:
    step = max(1, math.ceil(len(names) / _NAMED))
    shown = [name if len(name) <= 12 else f"{name[:11]}…" for name in names[::step]]
    places = range(0, len(names), step)
    axes.set_xticks(places, shown, rotation=90, fontsize=8)
    axes.set_yticks(places, shown, fontsize=8)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _list_cells(portrait: Portrait) -> tuple[tuple[str | int | float, ...], ...]:
    """Return the cells that hold images, the fullest error first, what is right last."""
    tables = [one.count() for one in (portrait.of_winner, portrait.of_twin) if one is not None]
    cells = [
        (
            portrait.class_names[true],
            portrait.class_names[predicted],
            *(int(one[true, predicted]) for one in tables),
        )
        for true, predicted in zip(*np.nonzero(np.sum(tables, axis=0)), strict=True)
    ]
    return tuple(sorted(cells, key=lambda cell: (cell[0] == cell[1], -max(cell[2:]), cell)))
