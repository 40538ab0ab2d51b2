"""The verdict as an MLflow run carries it: a description in Markdown, and gains as metrics."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from graft.compare.comparison import Budget, Comparison, Section
from graft.compare.ranking import name_section, rank_budget
from graft.compare.summary import say_answer
from graft.plan.arms import Arm
from graft.track.parents import GAIN


def describe_verdict(comparison: Comparison) -> str:
    """Return the verdict, its doubts, and then the ranked tables, the shortest columns only, as Markdown.

    The answer goes first, because MLflow folds a description after some lines; the tables go last, because
    the end of a long one is cut.
    """
    lines: list[str] = []
    for section in comparison.sections:
        answer = _open_section(section, comparison) + say_answer(section, comparison.metric)
        lines += [f"**{answer}**", "", *(f"- {budget.sentence}" for budget in section.budgets), ""]
    if comparison.doubts:
        lines += ["**Doubts**", "", *(f"- {doubt}" for doubt in comparison.doubts), ""]
    if comparison.question:
        lines += [f"The question: {comparison.question}", ""]
    lines.append("The whole report is among the artifacts: `report/index.html`.")
    for section in comparison.sections:
        for budget in section.budgets:
            lines += _write_table(section, budget, comparison)
    return "\n".join(lines) + "\n"


def _open_section(section: Section, comparison: Comparison) -> str:
    return f"{name_section(section)}: " if len(comparison.sections) > 1 else ""


def _write_table(section: Section, budget: Budget, comparison: Comparison) -> list[str]:
    table = rank_budget(section, budget, comparison.metric)
    rows = [f"| {' | '.join(cell.replace('|', '/') for cell in row[:4])} |" for row in table.rows]
    return [
        "",
        f"**{_open_section(section, comparison)}{table.title}**",
        "",
        f"| {' | '.join(table.columns[:4])} |",
        "|---|---:|---:|---:|",
        *rows,
    ]


def list_gains(comparison: Comparison) -> dict[str, float]:
    """Return the difference of each arm to its twin with its interval, by keys that MLflow takes.

    A key says the arm by its own fields, so that it stays when others join the comparison; where there are
    several conditions, every key says its own.
    """
    numbers: dict[str, float] = {}
    several = len(comparison.sections) > 1
    for section in comparison.sections:
        opening = f"{GAIN}{_clean(section.data)}_{section.condition[:6]}/" if several else GAIN
        rows = [(budget.labels, row) for budget in section.budgets for row in budget.rows]
        names = _name_arms(row.arm for _, row in rows)
        for labels, row in rows:
            if row.to_twin is not None:
                key = f"{opening}{names[row.arm]}/{_clean(labels)}"
                one = row.to_twin.estimate
                numbers |= {key: one.mean, f"{key}/low": one.low, f"{key}/high": one.high}
    return numbers


def _name_arms(arms: Iterable[Arm]) -> dict[Arm, str]:
    """Return names of arms for keys; hash of the weights and input only where arms differ in nothing else."""
    names = {arm: _clean(arm.label) for arm in arms}
    counts = Counter(names.values())
    return {
        arm: name if counts[name] == 1 else _clean(f"{name} {arm.weights.partition('@')[2]} {arm.input}")
        for arm, name in names.items()
    }


def _clean(text: str) -> str:
    """Return text of the letters that the key of a metric may have.

    >>> _clean("fine-tune (frozen to 3) · resnet18"), _clean("30%")
    ('fine-tune_frozen_to_3_resnet18', '30percent')
    """
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text.replace("%", "percent")).strip("_")
