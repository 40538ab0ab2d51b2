"""The report as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from graft.compare.comparison import Comparison, Section
from graft.compare.doubts import list_gaps
from graft.compare.ranking import name_section, rank_budget, rank_costs
from graft.compare.reading import ORACLE, explain
from graft.compare.summary import say_answer


@dataclass(frozen=True)
class FigureFile:
    """A figure of the report: the name of its PNG under ``figures/``, and what it shows."""

    file: str
    caption: str


def render_markdown(comparison: Comparison, figures: Mapping[str, Sequence[FigureFile]] | None = None) -> str:
    """Return the report as Markdown.

    Args:
        comparison: What it says.
        figures: The figures of each condition, None for a report without any.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("graft.compare", "templates"),
        # Markdown is text, not HTML: escaping would print "&amp;" where an experiment is called "a & b".
        autoescape=False,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    views = [_view_section(section, comparison.metric, (figures or {})) for section in comparison.sections]
    return environment.get_template("report.md.j2").render(
        comparison=comparison, views=views, reading=explain(comparison), oracle=ORACLE
    )


def _view_section(
    section: Section, metric: str, figures: Mapping[str, Sequence[FigureFile]]
) -> dict[str, Any]:
    """Return what the template prints of a section."""
    costs = [ranked for budget in section.budgets if (ranked := rank_costs(budget)) is not None]
    tables = []
    for ranked in [*(rank_budget(section, budget, metric) for budget in section.budgets), *costs]:
        rows = [[_escape(cell) for cell in row] for row in ranked.rows]
        for cells, bold in zip(rows, ranked.bold, strict=True):
            cells[0] = f"**{cells[0]}**" if bold else cells[0]
        tables.append({"title": ranked.title, "columns": ranked.columns, "rows": rows})
    return {
        "title": name_section(section),
        "answer": say_answer(section, metric),
        "sentences": [budget.sentence for budget in section.budgets],
        "figures": figures.get(section.condition, ()),
        "tables": tables,
        "gaps": list_gaps(section),
        "shared": section.shared,
    }


def _escape(cell: str) -> str:
    """Keep a cell from ending where its text has a bar."""
    return cell.replace("|", "\\|")
