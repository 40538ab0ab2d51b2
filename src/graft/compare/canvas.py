"""What all figures share: the canvas, its style, colour and marker of an arm, and the bytes of a file.

There is no global state and no window. Colours are those of Okabe and Ito, which colour-blind readers
tell apart; an arm has the same one everywhere.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from graft.plan.arms import Arm

FROM_SCRATCH_COLOUR = "#4d4d4d"
RANDOM_COLOUR = "#cc79a7"
#: Colour of a transfer arm by its freeze depth.
DEPTH_COLOURS = ("#0072b2", "#56b4e9", "#c9b200", "#009e73", "#e69f00", "#d55e00")
#: Colour of a backbone where colour does not stand for the arm.
BACKBONE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#000000")
#: Marker of an arm by the place of its backbone among those compared.
BACKBONE_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
#: Filling of a marker, for arms of one method and depth that differ in head, loss or augmentation.
Filling = Literal["full", "none", "left", "right", "bottom", "top"]
FILLINGS: tuple[Filling, ...] = ("full", "none", "left", "right", "bottom", "top")

#: Of a PNG.
_DOTS_PER_INCH = 150

INK = "#1a1a1a"
SOFT_INK = "#333333"
FAINT_INK = "#666666"
GRID = "#e6e6e6"
LINE = "#8c8c8c"

STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
    "axes.titlepad": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT_INK,
    "xtick.color": SOFT_INK,
    "ytick.color": SOFT_INK,
    "text.color": INK,
    "grid.color": GRID,
    "legend.frameon": False,
    "svg.hashsalt": "graft",
    # Text stays text: it can be searched, read aloud, and takes a third of the bytes.
    "svg.fonttype": "none",
}


def colour_arm(arm: Arm) -> str:
    """Return the colour of an arm, which depends on nothing but its method and freeze depth."""
    if arm.from_scratch:
        return FROM_SCRATCH_COLOUR
    return RANDOM_COLOUR if arm.method == "random_features" else DEPTH_COLOURS[arm.freeze_depth]


def mark_arm(arm: Arm, arms: Iterable[Arm]) -> dict[str, Any]:
    """Return how the marker of an arm is drawn among ``arms``: its shape, filling and colours."""
    arms = list(arms)
    backbones = list(dict.fromkeys(one.backbone for one in arms))
    alike = [one for one in arms if _kind(one) == _kind(arm)]
    filling = FILLINGS[alike.index(arm) % len(FILLINGS)]
    return {
        "marker": BACKBONE_MARKERS[backbones.index(arm.backbone) % len(BACKBONE_MARKERS)],
        "fillstyle": filling,
        "markerfacecoloralt": "white",
        "markeredgecolor": "white" if filling == "full" else colour_arm(arm),
    }


def _kind(arm: Arm) -> tuple[str, str, int]:
    """Return what colour and shape of an arm depend on."""
    return (arm.backbone, arm.method, arm.freeze_depth)


def render_figure(figure: Figure, kind: str) -> bytes:
    """Return a figure as the bytes of a file, the same for the same figure.

    Its layout is found once. ``savefig`` would draw everything twice.

    Args:
        figure: The figure.
        kind: ``png`` (150 dots per inch) or ``svg``.
    """
    file = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.set_dpi(_DOTS_PER_INCH)
        # Without a date and a version the same numbers give the same bytes.
        if kind == "png":
            pixels: Any = FigureCanvasAgg(figure)
            pixels.print_png(file, metadata={"Software": None})
        else:
            strokes: Any = FigureCanvasSVG(figure)
            strokes.print_svg(file, metadata={"Date": None, "Creator": None})
        if figure.get_layout_engine() is not None:
            figure.set_layout_engine("none")
    return file.getvalue()


def open_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure of a size in inches, and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    return figure, axes


def open_facets(
    count: int, *, height: float | None = None, columns: int = 2, same_x: bool = False, same_y: bool = True
) -> tuple[Figure, list[Axes]]:
    """Return a figure with ``count`` axes in rows of at most ``columns``.

    Args:
        count: Number of axes.
        height: Height of a row in inches, None for the usual one.
        columns: Axes in a row at most.
        same_x: Whether all axes share their x axis.
        same_y: Whether all axes share their y axis.
    """
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    height = height or (3.0 if count > 1 else 4.2)
    figure = Figure(figsize=(8.6, 0.7 + height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=same_x, sharey=same_y)
    facets: list[Axes] = list(grid.flat)
    for axes in facets[count:]:
        axes.remove()
    for axes in facets[:count]:
        axes.set_axisbelow(True)
        axes.tick_params(labelbottom=True)
    return figure, facets[:count]
