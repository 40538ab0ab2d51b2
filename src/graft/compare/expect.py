"""Verdicts that have to hold: ``fine_tune helps at 10``, for the tests of a research group."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import get_args

from graft.compare.comparison import Comparison, Row, Section
from graft.compare.naming import name_budget, write_gain
from graft.compare.ranking import name_section
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

    Every arm that is meant has to have the verdict, at each label budget that is meant, in each condition. It
    does not hold for an arm that was left out, nor at a label budget where no such arm was compared.

    Raises:
        GraftError: When it speaks of an arm or a label budget that there is not.
    """
    who, names = expectation.who, _list_names(comparison)
    if who not in names:
        raise GraftError(expected_one_of("who of --expect", who, names, limit=12))
    places = [(section, labels) for section in comparison.sections for labels in _list_labels(section, who)]
    if not places:
        return [f"{who}: no such arm is compared"]
    known = order_labels(labels for _, labels in places)
    if expectation.labels is not None and expectation.labels not in known:
        raise GraftError(expected_one_of("labels of --expect", expectation.labels, known))
    if expectation.labels is not None:  # a condition without that budget has not what was expected
        judged = {section.condition: section for section, _ in places}
        places = [(section, expectation.labels) for section in judged.values()]
    several = len(comparison.sections) > 1
    return [
        f"{name_section(section)}: {failure}" if several else failure
        for section, labels in places
        for failure in _list_failures(section, labels, expectation, comparison.metric)
    ]


def _list_labels(section: Section, who: str) -> list[str]:
    """Return the label budgets of a section, with those at which no arm could be compared.

    Those at which there is from scratch alone are none to judge transfer at.
    """
    budgets = [
        one.labels
        for one in section.budgets
        if any(not row.arm.from_scratch or _is_meant(row, who) for row in one.rows)
    ]
    return order_labels([*budgets, *(one.labels for one in section.left_out)])


def _list_names(comparison: Comparison) -> list[str]:
    """Return whom an expectation can speak of: arms that were compared, and that were left out."""
    named = [item for section in comparison.sections for item in section.names.items()]
    return list(dict.fromkeys([_HEADLINE, *(arm.method for arm, _ in named), *(name for _, name in named)]))


def _list_failures(section: Section, labels: str, expectation: Expectation, metric: str) -> list[str]:
    """Return where an expectation does not hold at a label budget of a section."""
    rows = [row for budget in section.budgets if budget.labels == labels for row in budget.rows]
    meant = [row for row in rows if _is_meant(row, expectation.who)]
    where = name_budget(labels)
    failures = [
        f"{row.name}, {where}: {_say_instead(row, metric)}"
        for row in meant
        if row.verdict != expectation.verdict
    ]
    left_out = [
        f"{section.names[one.arm]}, {where}: left out, too few of its runs can be compared"
        for one in section.left_out
        if one.labels == labels and expectation.who in (one.arm.method, section.names[one.arm])
    ]
    if not meant and not left_out:
        return [f"{expectation.who}, {where}: no such arm is compared"]
    return failures + left_out


def _is_meant(row: Row, who: str) -> bool:
    return row.headline if who == _HEADLINE else who in (row.arm.method, row.name)


def _say_instead(row: Row, metric: str) -> str:
    if row.to_twin is None:
        return "there is no twin to compare with"
    return f"{row.verdict}, {write_gain(row.to_twin.estimate, metric)}"
