"""The ranked table of a label budget: its columns and cells, the same in Markdown, LaTeX and HTML."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from graft.compare.comparison import Budget, Row, Section
from graft.compare.cost import Cost
from graft.compare.importance import Importance
from graft.compare.naming import name_budget, write_count, write_gain, write_seconds, write_value
from graft.compare.replicates import count_replicates

#: What stands where there is nothing to say.
NOTHING = "–"


@dataclass(frozen=True)
class Column:
    """One column of the ranked table.

    Attributes:
        title: Its heading.
        write: Writes its cell of a row.
    """

    title: str
    write: Callable[[Row], str]


@dataclass(frozen=True)
class Ranking:
    """The ranked table of a label budget.

    Attributes:
        title: The label budget, the labels used, and the replicates.
        columns: Headings.
        rows: Cells, the best arm on test first.
        bold: Whether a row is the arm that validation chose.
        verdicts: The verdict of each row, empty without a twin.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bold: tuple[bool, ...]
    verdicts: tuple[str, ...]


def rank_budget(section: Section, budget: Budget, metric: str) -> Ranking:
    """Return the ranked table of a label budget."""
    columns = list_columns(section, metric)
    replicates = count_replicates(budget.rows[0].replicates)
    return Ranking(
        title=f"{name_budget(budget.labels)}{_count_labels(budget)}, {replicates}",
        columns=tuple(column.title for column in columns),
        rows=tuple(tuple(column.write(row) for column in columns) for row in budget.rows),
        bold=tuple(row.headline for row in budget.rows),
        verdicts=tuple(row.verdict or "" for row in budget.rows),
    )


def list_columns(section: Section, metric: str) -> list[Column]:
    """Return the columns that a section has something to say in."""
    name = metric.replace("_", " ")
    columns = [
        Column("arm", lambda row: row.name),
        Column(f"test {name}", lambda row: write_value(row.test)),
        Column("difference to the twin", lambda row: write_difference(row, metric)),
        Column("verdict", lambda row: row.verdict or NOTHING),
    ]
    if any(row.multiplier for budget in section.budgets for row in budget.rows):
        columns.append(
            Column("labels it is worth", lambda row: row.multiplier.text if row.multiplier else NOTHING)
        )
    columns += [
        Column(f"val {name}", lambda row: f"{row.validation:.3f}"),
        Column("trials", lambda row: str(row.trials)),
        Column("training", lambda row: write_seconds(row.train_seconds)),
        Column("chosen values", lambda row: row.tuned or NOTHING),
    ]
    return columns


def write_difference(row: Row, metric: str) -> str:
    """Write the difference of an arm to its twin with its interval."""
    return write_gain(row.to_twin.estimate, metric) if row.to_twin else NOTHING


def rank_costs(budget: Budget) -> Ranking | None:
    """Return what each arm costs as a table, the cheapest with its tuning first; None if nobody counted."""
    known = [(row, row.cost) for row in budget.rows if row.cost and math.isfinite(row.cost.tuned_seconds)]
    if not known:
        return None
    ordered = sorted(known, key=lambda one: one[1].tuned_seconds)
    columns: dict[str, Callable[[Row, Cost], str]] = {
        "arm": lambda row, cost: row.name,
        "one run": lambda row, cost: write_seconds(cost.seconds),
        "images seen": lambda row, cost: write_count(cost.images),
        "FLOPs": lambda row, cost: write_count(cost.flops),
        "with all trials": lambda row, cost: write_seconds(cost.tuned_seconds),
        "images of all trials": lambda row, cost: write_count(cost.tuned_images),
        "on the Pareto front": lambda row, cost: "yes" if cost.on_front else NOTHING,
        "as good as its twin after": lambda row, cost: _write_reach(cost.reach_seconds),
        "the twin itself after": lambda row, cost: write_seconds(cost.twin_seconds),
        "pretraining": lambda row, cost: write_seconds(cost.pretrain_seconds),
        "paid back after": lambda row, cost: _write_runs(cost.paid_back_runs),
    }
    cells = [tuple(write(row, cost) for write in columns.values()) for row, cost in ordered]
    said = [
        place
        for place in range(len(columns))
        if any(one[place] != NOTHING for one in cells)  # a column in which nothing is known says nothing
    ]
    return Ranking(
        title=f"What it costs, {name_budget(budget.labels)}",
        columns=tuple(title for place, title in enumerate(columns) if place in said),
        rows=tuple(tuple(one[place] for place in said) for one in cells),
        bold=tuple(row.headline for row, _ in ordered),
        verdicts=("",) * len(ordered),
    )


def _write_reach(seconds: float) -> str:
    return "never" if seconds == math.inf else write_seconds(seconds)


def _write_runs(runs: float) -> str:
    """Write a number of runs, infinite for one that is never reached.

    >>> _write_runs(27.0), _write_runs(math.inf), _write_runs(math.nan)
    ('27 runs', 'never', '–')
    """
    if math.isnan(runs):
        return NOTHING
    return "never" if runs == math.inf else f"{runs:,.0f} run{'s' if runs != 1 else ''}"


def rank_importance(importance: Importance) -> Ranking:
    """Return what the validation metric varies with as a table."""
    return Ranking(
        title=f"What validation varies with, {name_budget(importance.labels)}, {importance.runs} runs",
        columns=("factor", "share of the variance"),
        rows=tuple((name, f"{100 * share:.0f} %") for name, share in importance.shares),
        bold=(False,) * len(importance.shares),
        verdicts=("",) * len(importance.shares),
    )


def name_section(section: Section) -> str:
    """Return what tells a section from the others for people."""
    return f"{section.data} (condition {section.condition[:6]})"


def _count_labels(budget: Budget) -> str:
    total = budget.labels_train + budget.labels_val
    if not math.isfinite(total):
        return ""
    return f" ({budget.labels_train:.0f} training + {budget.labels_val:.0f} validation = {total:.0f} labels)"
