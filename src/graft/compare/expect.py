"""Verdicts that have to hold: ``fine_tune helps at 10``, for the tests of a research group."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import get_args

from graft.compare.comparison import Budget, Comparison, Row
from graft.compare.naming import name_budget, write_gain
from graft.compare.select import order_labels
from graft.compare.statistics import Verdict
from graft.config.names import METHODS
from graft.errors import GraftError, expected_one_of

_VERDICTS = get_args(Verdict)
_FORM = re.compile(
    rf"(?P<who>.+?)\s+(?:is\s+)?(?P<verdict>{'|'.join(_VERDICTS)})(?:\s+at\s+(?P<labels>\S+))?"
)

#: Who speaks for transfer at a label budget: the arm that validation chose.
_HEADLINE = "transfer"


@dataclass(frozen=True)
class Expectation:
    """A verdict that has to hold.

    Attributes:
        text: What was asked.
        who: A method, the name of an arm, or ``transfer`` for the arm that validation chose.
        verdict: The verdict.
        labels: The label budget, None for all of them.
    """

    text: str
    who: str
    verdict: str
    labels: str | None


def parse_expectation(text: str) -> Expectation:
    """Read an expectation.

    Raises:
        GraftError: When the text is not one of the grammar.

    >>> parse_expectation("fine_tune helps at 10").labels
    '10'
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise GraftError(
            f"Expected `--expect` as <who> <verdict> [at <labels>], but got {text!r}. Who is"
            f" `{_HEADLINE}` (the arm that validation chose), a method ({', '.join(METHODS)}) or the name of"
            f" an arm in the report; the verdict is one of: {', '.join(_VERDICTS)}; for example:"
            ' --expect "fine_tune helps at 10"'
        )
    return Expectation(text.strip(), found["who"], found["verdict"], found["labels"])


def list_failures(comparison: Comparison, expectation: Expectation) -> list[str]:
    """Return where an expectation does not hold, in words; nothing when it holds everywhere.

    Every arm that is meant has to have the verdict, at each label budget that is meant, in each condition.

    Raises:
        GraftError: When it speaks of an arm or a label budget that is not compared.
    """
    budgets = [budget for section in comparison.sections for budget in section.budgets]
    labels = order_labels(budget.labels for budget in budgets)
    if expectation.labels is not None and expectation.labels not in labels:
        raise GraftError(expected_one_of("labels of --expect", expectation.labels, labels))
    asked = [budget for budget in budgets if expectation.labels in (None, budget.labels)]
    found = [(budget, row) for budget in asked for row in budget.rows if _is_meant(row, expectation.who)]
    if not found:
        rows = [row for budget in budgets for row in budget.rows]
        names = [_HEADLINE, *(row.arm.method for row in rows), *(row.name for row in rows)]
        raise GraftError(expected_one_of("who of --expect", expectation.who, dict.fromkeys(names), limit=12))
    return [
        _say_instead(budget, row, comparison.metric)
        for budget, row in found
        if row.verdict != expectation.verdict
    ]


def _is_meant(row: Row, who: str) -> bool:
    return row.headline if who == _HEADLINE else who in (row.arm.method, row.name)


def _say_instead(budget: Budget, row: Row, metric: str) -> str:
    where = f"{row.name}, {name_budget(budget.labels)}"
    if row.to_twin is None:
        return f"{where}: there is no twin to compare with"
    return f"{where}: {row.verdict}, {write_gain(row.to_twin.estimate, metric)}"
