"""The worst errors as a picture sheet: what a classifier was surest of, and wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from graft.compare.canvas import STYLE

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
    height = 0.6 + 2.1 * rows
    with mpl.rc_context(STYLE):
        # Every picture has the same place, so there is no layout to look for: that takes a second.
        figure = Figure(figsize=(9.0, height))
        edges = {"left": 0.01, "right": 0.99, "bottom": 0.02, "top": 1 - 0.75 / height, "hspace": 0.25}
        grid: Any = figure.subplots(rows, _COLUMNS, squeeze=False, gridspec_kw=edges | {"wspace": 0.05})
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, image, caption in zip(grid.flat, images, captions, strict=False):
            axes.imshow(image[:, :, 0] if image.shape[2] == 1 else image, cmap="gray", vmin=0, vmax=255)
            axes.set_title(caption, fontsize=8, fontweight="normal", loc="center", pad=4)
        figure.suptitle(title, x=0.01, y=1 - 0.2 / height, ha="left", va="top")
    return figure
