"""The reliability diagram: how often predictions of a given probability are right."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np

from graft.compare.canvas import FROM_SCRATCH_COLOUR, LINE, STYLE, open_figure
from graft.compare.drawing import Drawing, Words
from graft.compare.evidence import Portrait, Predictions
from graft.compare.figures.strokes import DASHES, annotate, entitle
from graft.compare.naming import name_budget

#: Bins of equal width, as `test/calibration_error` has them.
BINS = 15


def draw_calibration(portrait: Portrait, data: str, colour: str) -> Drawing:
    """Draw accuracy against probability of the predicted class, for the winner and its twin.

    Args:
        portrait: What winner and twin said.
        data: Name of the data set.
        colour: Colour of the winner.
    """
    words = Words()
    rows: list[tuple[str | int | float, ...]] = []
    with mpl.rc_context(STYLE):
        figure, axes = open_figure(8.6, 4.6)
        axes.plot([0, 1], [0, 1], color=LINE, linewidth=1.0, label="as sure as right")
        drawn: list[tuple[str, Predictions, str, Any, str]] = [
            (portrait.winner, portrait.of_winner, colour, "-", "o")
        ]
        if portrait.of_twin is not None:
            drawn.append((portrait.twin, portrait.of_twin, FROM_SCRATCH_COLOUR, DASHES, "s"))
        for name, predictions, own, dashes, marker in drawn:
            bins = list_bins(predictions)
            gap = sum(count * abs(right - sure) for sure, right, count in bins) / len(predictions.label)
            [line] = axes.plot(
                [sure for sure, _, _ in bins],
                [right for _, right, _ in bins],
                color=own,
                linestyle=dashes,
                marker=marker,
                markeredgecolor="white",
                markersize=6,
                label=f"{name} (error {gap:.3f})",
            )
            said = [
                f"{name}: {100 * sure:.0f} % sure, {100 * right:.0f} % right, {n} images"
                for sure, right, n in bins
            ]
            words.put(line, said)
            rows += [(name, sure, right, count) for sure, right, count in bins]
        axes.set_xlabel("probability of the predicted class")
        axes.set_ylabel("share that is right")
        axes.grid(axis="both")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)
        entitle(figure, f"{data}: calibration, {name_budget(portrait.labels)}")
        annotate(
            figure,
            f"Test predictions of all replicates in {BINS} bins of equal width; below the line is too sure.",
        )
    return Drawing(
        name="calibration",
        caption=f"{data}: share that is right against probability, {name_budget(portrait.labels)}",
        figure=figure,
        columns=("arm", "mean probability", "share right", "images"),
        rows=tuple(rows),
        words=words.by_id,
    )


def list_bins(predictions: Predictions) -> list[tuple[float, float, int]]:
    """Return mean probability, share that is right and images of each bin that holds some."""
    sure = predictions.probabilities.max(axis=1)
    right = predictions.predicted == predictions.label
    place = np.clip(np.ceil(sure * BINS).astype(int) - 1, 0, BINS - 1)
    return [
        (float(sure[place == one].mean()), float(right[place == one].mean()), int((place == one).sum()))
        for one in range(BINS)
        if (place == one).any()
    ]
