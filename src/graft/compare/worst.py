"""The worst errors as a picture sheet: what a classifier was surest of, and wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from graft.compare.canvas import STYLE, open_figure

_COLUMNS = 5


def draw_worst(images: Sequence[npt.NDArray[np.uint8]], captions: Sequence[str], title: str) -> Figure:
    """Draw images in rows of five, the surest error first.

    Args:
        images: Images as they are in the data set, each ``(H, W, 1)`` or ``(H, W, 3)``.
        captions: What stands under each.
        title: Title of the sheet.

    Raises:
        ValueError: When there is no image, or not one caption for each.
    """
    if not images or len(images) != len(captions):
        raise ValueError(f"expected one caption for each image, but got {len(captions)} for {len(images)}")
    rows = math.ceil(len(images) / _COLUMNS)
    with mpl.rc_context(STYLE):
        figure, blank = open_figure(9.0, 0.7 + 2.1 * rows)
        blank.remove()
        grid: Any = figure.subplots(rows, _COLUMNS, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, image, caption in zip(grid.flat, images, captions, strict=False):
            axes.imshow(image[:, :, 0] if image.shape[2] == 1 else image, cmap="gray", vmin=0, vmax=255)
            axes.set_title(caption, fontsize=8, fontweight="normal", loc="center", pad=4)
        figure.suptitle(title, x=0.01, ha="left")
    return figure
