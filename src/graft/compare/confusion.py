"""The confusion matrix as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from graft.compare.canvas import STYLE, open_figure


def draw_confusion(counts: Sequence[Sequence[int]], class_names: Sequence[str], title: str) -> Figure:
    """Draw a confusion matrix: colour is the share of the true class, the numbers are images.

    Args:
        counts: Images by true and predicted class, shape ``(classes, classes)``.
        class_names: Names of the classes, shape ``(classes,)``.
        title: Title of the figure.

    Raises:
        ValueError: When the counts are not square or do not fit the names.
    """
    matrix = np.asarray(counts)
    classes = len(class_names)
    if matrix.shape != (classes, classes):
        raise ValueError(f"expected counts of shape {(classes, classes)}, but got {matrix.shape}")
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    with mpl.rc_context(STYLE):
        side = min(12.0, 2.2 + 0.46 * classes)
        figure, axes = open_figure(side, side)
        image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        if classes <= 25:
            for true, predicted in zip(*np.nonzero(matrix), strict=True):
                shade = "white" if share[true, predicted] > 0.5 else "#1a1a1a"
                axes.text(
                    predicted,
                    true,
                    str(matrix[true, predicted]),
                    ha="center",
                    va="center",
                    color=shade,
                    fontsize=8,
                )
        step = max(1, math.ceil(classes / 50))
        axes.set_xticks(range(0, classes, step), list(class_names)[::step], rotation=90)
        axes.set_yticks(range(0, classes, step), list(class_names)[::step])
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        axes.set_title(title)
        bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, label="share of the true class")
        bar.outline.set_visible(False)
    return figure
