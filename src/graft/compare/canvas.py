"""What all figures share: the canvas, its style, the colour of an arm, and the bytes of a file.

There is no global state and no window. Colours are those of Okabe and Ito, which colour-blind readers
tell apart; an arm has the same one everywhere.
"""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from graft.plan.arms import Arm

FROM_SCRATCH_COLOUR = "#4d4d4d"
RANDOM_COLOUR = "#cc79a7"
#: Colour of a transfer arm by its freeze depth.
DEPTH_COLOURS = ("#0072b2", "#56b4e9", "#c9b200", "#009e73", "#e69f00", "#d55e00")

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
    "axes.edgecolor": "#8c8c8c",
    "axes.labelcolor": "#333333",
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "text.color": "#1a1a1a",
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "svg.hashsalt": "graft",
    "svg.fonttype": "path",
}


def colour_arm(arm: Arm) -> str:
    """Return the colour of an arm, which depends on nothing but its method and freeze depth."""
    if arm.from_scratch:
        return FROM_SCRATCH_COLOUR
    return RANDOM_COLOUR if arm.method == "random_features" else DEPTH_COLOURS[arm.freeze_depth]


def render_figure(figure: Figure, kind: str) -> bytes:
    """Return a figure as the bytes of a file, the same for the same figure.

    Args:
        figure: The figure.
        kind: ``png`` (150 dots per inch) or ``svg``.
    """
    # Without a date and a version the same numbers give the same bytes.
    metadata: Any = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    file = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(file, format=kind, dpi=150, metadata=metadata, facecolor="white")
    return file.getvalue()


def open_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure of a size in inches, and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    return figure, axes
