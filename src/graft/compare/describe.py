"""The verdict as an MLflow run carries it: a description in Markdown, and gains as metrics."""

from __future__ import annotations

import re

from graft.compare.comparison import Comparison
from graft.compare.ranking import rank_budget
from graft.compare.summary import say_answer


def describe_verdict(comparison: Comparison) -> str:
    """Return the verdict, its doubts and the ranked tables, the shortest columns only, as Markdown."""
    lines: list[str] = []
    for section in comparison.sections:  # the answer first: MLflow folds a description after some lines
        lines += [f"**{say_answer(section, comparison.metric)}**", ""]
        lines += [f"- {budget.sentence}" for budget in section.budgets]
        for budget in section.budgets:
            table = rank_budget(section, budget, comparison.metric)
            lines += [
                "",
                f"**{table.title}**",
                "",
                f"| {' | '.join(table.columns[:4])} |",
                "|---|---:|---:|---:|",
            ]
            lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row[:4])} |" for row in table.rows]
    if comparison.doubts:
        lines += ["", "**Doubts**", "", *(f"- {doubt}" for doubt in comparison.doubts)]
    if comparison.question:
        lines += ["", f"The question: {comparison.question}"]
    lines += ["", "The whole report is among the artifacts: `report/index.html`."]
    return "\n".join(lines) + "\n"


def list_gains(comparison: Comparison) -> dict[str, float]:
    """Return the difference of each arm to its twin with its interval, by keys that MLflow takes.

    A condition beyond the first has its hash in the key.
    """
    numbers: dict[str, float] = {}
    for place, section in enumerate(comparison.sections):
        opening = f"gain/{section.condition[:6]}" if place else "gain"
        for budget in section.budgets:
            for row in budget.rows:
                if row.to_twin is not None:
                    key = f"{opening}/{_clean(row.name)}/{_clean(budget.labels)}"
                    one = row.to_twin.estimate
                    numbers |= {key: one.mean, f"{key}/low": one.low, f"{key}/high": one.high}
    return numbers


def _clean(text: str) -> str:
    """Return text of the letters that the key of a metric may have.

    >>> _clean("fine-tune (frozen to 3) · resnet18"), _clean("30%")
    ('fine-tune_frozen_to_3_resnet18', '30percent')
    """
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text.replace("%", "percent")).strip("_")
