"""A figure with what stands behind it: the words of its points, and its numbers as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.artist import Artist
from matplotlib.figure import Figure

#: A cell of the table behind a figure.
Cell = str | int | float


@dataclass(frozen=True)
class Drawing:
    """A figure, and what a reader gets who cannot see it.

    Attributes:
        name: Name of its files, without their ending.
        caption: What it shows, in a line.
        figure: The figure.
        columns: Names of the columns of its table.
        rows: Every number that it shows.
        words: What is said of the points of an artist, by the artist's id; see `Words`.
    """

    name: str
    caption: str
    figure: Figure
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Words:
    """What is said of the points of a figure while it is drawn."""

    def __init__(self) -> None:
        self.by_id: dict[str, tuple[str, ...]] = {}

    def put(self, artist: Artist, words: Sequence[str]) -> None:
        """Say ``words`` of the markers of ``artist``, in the order in which they are drawn."""
        name = f"marks{len(self.by_id)}"
        artist.set_gid(name)
        self.by_id[name] = tuple(words)


def format_table(drawing: Drawing) -> str:
    """Return the numbers behind a figure as CSV; numbers are written so that they are read back the same."""
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(drawing.columns)
    writer.writerows([write_cell(cell) for cell in row] for row in drawing.rows)
    return table.getvalue()


def write_cell(cell: Cell) -> str:
    """Write a number so that it is read back the same, and one that is none as nothing.

    >>> [write_cell(cell) for cell in (0.1, 3, float("nan"), "all")]
    ['0.1', '3', '', 'all']
    """
    if isinstance(cell, float):
        return "" if cell != cell else repr(cell)
    return str(cell)
