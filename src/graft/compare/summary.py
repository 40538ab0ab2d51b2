"""The answer of a condition in one sentence."""

from __future__ import annotations

from graft.compare.comparison import Row, Section
from graft.compare.naming import name_budget, name_budgets, write_gain

#: What is said of the label budgets whose headline arm has a verdict.
_SAID = {
    "helps": "transfer helps at {}",
    "hurts": "transfer hurts at {}",
    "equivalent": "it makes no difference beyond the margin at {}",
    "not established": "at {} a difference is not established",
    "": "at {} there is no transfer arm with a from-scratch twin to judge",
}


def say_answer(section: Section, metric: str) -> str:
    """Return the answer of a condition: where transfer helps, and by how much where it helps most."""
    headlines = {
        budget.labels: next((row for row in budget.rows if row.headline), None) for budget in section.budgets
    }
    grouped: dict[str, list[str]] = {}
    for labels, row in headlines.items():
        grouped.setdefault((row.verdict if row else None) or "", []).append(labels)
    parts = []
    for verdict, form in _SAID.items():
        if verdict in grouped:
            part = form.format(name_budgets(grouped[verdict]))
            rows = [(labels, row) for labels in grouped[verdict] if (row := headlines[labels]) is not None]
            tells = verdict in ("helps", "hurts") or len(rows) == 1
            parts.append(part + (_say_most(rows, metric) if tells else ""))
    sentence = "; ".join(parts) + "."
    return sentence[:1].upper() + sentence[1:]


def _say_most(rows: list[tuple[str, Row]], metric: str) -> str:
    """Say the largest difference of several label budgets."""
    found = [(labels, row, row.to_twin.estimate) for labels, row in rows if row.to_twin is not None]
    if not found:
        return ""
    labels, row, estimate = max(found, key=lambda one: abs(one[2].mean))
    where = f" at {name_budget(labels)}" if len(found) > 1 else ""
    worth = f", worth {row.multiplier.text}" if row.multiplier and row.multiplier.says_more else ""
    opening = "most with" if len(found) > 1 else "with"
    return f" ({opening} {row.name}, {write_gain(estimate, metric)}{where}{worth})"
