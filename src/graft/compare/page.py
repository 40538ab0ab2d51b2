"""The report as one self-contained page: no network, readable on a phone, printable, light and dark."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jinja2
from markupsafe import Markup, escape

from graft import __version__
from graft.compare.comparison import Comparison, Section
from graft.compare.doubts import list_gaps
from graft.compare.drawing import Drawing
from graft.compare.evidence import Evidence, Sheet
from graft.compare.how import say_how
from graft.compare.naming import name_budget
from graft.compare.ranking import Ranking, name_section, rank_budget, rank_costs, rank_importance
from graft.compare.reading import ORACLE, explain
from graft.compare.summary import say_answer
from graft.compare.svg import inline_svg

#: Bytes of figures that a page carries; what does not fit is linked, so that the page stays below 5 MB.
_FIGURE_BYTES = 4_000_000

#: Rows of the table behind a figure that the page shows; the CSV beside it has all.
_TABLE_ROWS = 60


@dataclass(frozen=True)
class Plate:
    """A figure as the page shows it: an SVG or a picture, or a link where it would be too large."""

    name: str
    caption: str
    svg: Markup
    picture: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    total: int


@dataclass(frozen=True)
class Chapter:
    """A condition as the page shows it."""

    title: str
    answer: str
    sentences: tuple[str, ...]
    first: Plate
    plates: tuple[Plate, ...]
    tables: tuple[Ranking, ...]
    settles: tuple[tuple[str, str], ...]
    costs: tuple[Ranking, ...]
    importance: tuple[Ranking, ...]
    gaps: tuple[str, ...]
    shared: str


def render_page(
    comparison: Comparison,
    drawings: Mapping[str, Sequence[Drawing]],
    files: Mapping[str, bytes],
    evidence: Evidence,
) -> str:
    """Return the page.

    Args:
        comparison: What it says.
        drawings: The figures of each condition, at least one.
        files: The SVG of each figure by name.
        evidence: Worst errors and commands.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("graft.compare", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = mark_code
    room = _FIGURE_BYTES
    chapters = []
    for section in comparison.sections:
        plates = []
        for drawing in drawings[section.condition]:
            svg = inline_svg(files[drawing.name], drawing.name, drawing.caption, drawing.words)
            plates.append(_make_plate(drawing, svg if len(svg) < room else ""))
            room -= len(svg) if len(svg) < room else 0
        sheet = evidence.sheets.get(section.condition)
        if sheet is not None:
            plates.append(_make_sheet(sheet, len(sheet.png) * 4 / 3 < room))
            room -= len(sheet.png) * 4 // 3
        chapters.append(_make_chapter(section, comparison.metric, plates))
    return environment.get_template("index.html.j2").render(
        comparison=comparison,
        chapters=chapters,
        how=say_how(comparison, evidence),
        version=__version__,
        reading=explain(comparison),
        oracle=ORACLE,
    )


def mark_code(text: str) -> Markup:
    """Return text in which what stands in backticks is code.

    >>> mark_code("a < b: raise `optim.lr`")
    Markup('a &lt; b: raise <code>optim.lr</code>')
    """
    parts = re.split(r"`([^`]+)`", text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part)
        for place, part in enumerate(parts)
    )


def _make_plate(drawing: Drawing, svg: str) -> Plate:
    rows = tuple(tuple(_write_number(cell) for cell in row) for row in drawing.rows[:_TABLE_ROWS])
    return Plate(drawing.name, drawing.caption, Markup(svg), "", drawing.columns, rows, len(drawing.rows))


def _make_sheet(sheet: Sheet, fits: bool) -> Plate:
    rows = tuple((str(place), caption) for place, caption in enumerate(sheet.captions, 1))
    data = f"data:image/png;base64,{base64.b64encode(sheet.png).decode()}" if fits else ""
    return Plate(
        sheet.name, sheet.caption, Markup(""), data, ("place", "true and predicted"), rows, len(rows)
    )


def _make_chapter(section: Section, metric: str, plates: Sequence[Plate]) -> Chapter:
    headlines = [(budget.labels, row) for budget in section.budgets for row in budget.rows if row.settles]
    return Chapter(
        title=name_section(section),
        answer=say_answer(section, metric),
        sentences=tuple(budget.sentence for budget in section.budgets),
        first=plates[0],
        plates=tuple(plates[1:]),
        tables=tuple(rank_budget(section, budget, metric) for budget in section.budgets),
        settles=tuple((f"{row.name}, {name_budget(labels)}", row.settles) for labels, row in headlines),
        costs=tuple(ranked for budget in section.budgets if (ranked := rank_costs(budget)) is not None),
        importance=tuple(rank_importance(one) for one in section.importance),
        gaps=tuple(list_gaps(section)),
        shared=section.shared,
    )


def _write_number(cell: str | int | float) -> str:
    if isinstance(cell, float):
        return "" if cell != cell else f"{cell:.4g}"
    return str(cell)
