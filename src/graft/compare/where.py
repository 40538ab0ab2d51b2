"""Which runs count: ``backbone=resnet18 and labels<=20``, a small closed grammar.

A condition is a field, one of ``= != < <= > >=`` and a value, in quotes where it holds spaces; conditions are
joined by ``and``. Fields are those of an arm, of the place of a run, and the tuning values of its trial.
"""

from __future__ import annotations

import operator
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from graft.compare.select import order_labels
from graft.errors import GraftError, expected_one_of
from graft.plan.arms import Arm
from graft.track.record import RunRecord

_CONDITION = re.compile(
    r"""\s*(?P<field>\w+)\s*(?P<sign><=|>=|!=|==|=|<|>)\s*(?P<value>"[^"]*"|'[^']*'|[^\s"'=<>!]+)\s*"""
)
_SIGNS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_ARM_FIELDS = tuple(item.name for item in fields(Arm))

#: Where a run stands; an arm and its twin are compared where they stand in the same place.
_PLACE_FIELDS = ("labels", "seed", "fold", "data", "experiment", "status", "condition")

_EXAMPLE = 'for example: --where "backbone=resnet18 and labels<=20"'


@dataclass(frozen=True)
class Condition:
    """One condition: a field, a sign and a value."""

    field: str
    sign: str
    value: str

    def holds(self, record: RunRecord) -> bool:
        """Whether it holds for a run. Numbers are compared as numbers; a run without the field fails."""
        own = read_field(record, self.field)
        if own is None:
            return False
        if self.field == "weights" and "@" not in self.value:
            own = own.partition("@")[0]
        mine, wanted = _measure(own), _measure(self.value)
        if mine is None or wanted is None or mine[0] != wanted[0]:
            return self.sign in ("=", "!=") and _SIGNS[self.sign](own, self.value)
        return _SIGNS[self.sign](mine[1], wanted[1])


@dataclass(frozen=True)
class Where:
    """Conditions that all have to hold, and the text they were read from."""

    text: str
    conditions: tuple[Condition, ...]

    def keep(self, records: Sequence[RunRecord]) -> list[RunRecord]:
        """Return the runs that count: those that match, and the from-scratch twins of their arms.

        A twin answers an arm whatever the arm is asked to be, in the same condition: what is asked of an arm
        is not asked of it, what is asked of the place is. It stays at label budgets at which no arm does, for
        they say how many labels transfer is worth. Of its trials those stay that have the tuning values asked
        for; where it has none such (no twin has a smaller rate for its backbone), that is not asked of it.

        Raises:
            GraftError: When a field is none, or nothing matches.
        """
        kept = self.match(records)
        twins = {(record.arm.twin, record.condition) for record in kept if not record.arm.from_scratch}
        ids = {record.run_id for record in [*kept, *self._keep_twins(records, twins)]}
        return [record for record in records if record.run_id in ids]

    def match(self, records: Sequence[RunRecord]) -> list[RunRecord]:
        """Return the runs that all conditions hold for.

        Raises:
            GraftError: When a field is none, or nothing matches.
        """
        known = list_fields(records)
        for condition in self.conditions:
            if condition.field not in known:
                raise GraftError(expected_one_of("a field of --where", condition.field, known, limit=20))
        kept = [record for record in records if all(one.holds(record) for one in self.conditions)]
        if not kept:
            raise GraftError(
                f"Expected some of {len(records)} runs to match --where {self.text!r}, but none does."
                f" {self._list_values(records)}"
            )
        return kept

    def _keep_twins(
        self, records: Sequence[RunRecord], twins: Collection[tuple[Arm, str]]
    ) -> list[RunRecord]:
        """Return the runs of twins in the places asked for, of the trials asked for as far as there are."""
        places = [one for one in self.conditions if one.field in _PLACE_FIELDS]
        tuning = [one for one in self.conditions if one.field not in (*_PLACE_FIELDS, *_ARM_FIELDS)]
        groups: dict[tuple[Arm, str, str], list[RunRecord]] = defaultdict(list)
        for record in records:
            if (record.arm, record.condition) in twins and all(one.holds(record) for one in places):
                groups[record.arm, record.condition, record.labels].append(record)
        found = []
        for runs in groups.values():
            for condition in tuning:
                runs = [record for record in runs if condition.holds(record)] or runs
            found += runs
        return found

    def _list_values(self, records: Sequence[RunRecord]) -> str:
        """Say which values there are of each field that was asked for."""
        said = []
        for name in dict.fromkeys(condition.field for condition in self.conditions):
            found = {value for record in records if (value := read_field(record, name)) is not None}
            values = order_labels(found) if name == "labels" else sorted(found, key=_order)
            more = f" and {len(values) - 12} more" if len(values) > 12 else ""
            said.append(f"`{name}`: {', '.join(values[:12])}{more}")
        return f"The values there are: {'; '.join(said)}."


def parse_where(text: str) -> Where:
    """Read conditions.

    Raises:
        GraftError: When the text is not one of the grammar.

    >>> [one.field for one in parse_where("backbone=resnet18 and labels<=20").conditions]
    ['backbone', 'labels']
    """
    conditions, place = [], 0
    while True:
        found = _CONDITION.match(text, place)
        if found is None:
            raise _complain(text, place, "a condition such as labels<=20")
        sign = "=" if found["sign"] == "==" else found["sign"]
        conditions.append(Condition(found["field"], sign, found["value"].strip("\"'")))
        place = found.end()
        if place == len(text):
            return Where(text.strip(), tuple(conditions))
        joined = re.compile(r"and\b", re.IGNORECASE).match(text, place)
        if joined is None:
            raise _complain(text, place, "`and` between conditions")
        place = joined.end()


def list_fields(records: Sequence[RunRecord]) -> list[str]:
    """Return the fields that runs can be told apart by."""
    tuned = {word.partition("=")[0] for record in records for word in record.trial.split()}
    return [
        *_ARM_FIELDS,
        *_PLACE_FIELDS,
        *sorted(tuned),
    ]


def read_field(record: RunRecord, name: str) -> str | None:
    """Return a field of a run as text, None where it has none."""
    if name in _ARM_FIELDS:
        return str(getattr(record.arm, name))
    if name == "fold":
        return None if record.replicate.fold is None else str(record.replicate.fold)
    if name in _PLACE_FIELDS:
        return str(getattr(record, name))
    words = dict(word.partition("=")[::2] for word in record.trial.split())
    return words.get(name)


def _measure(text: str) -> tuple[str, float] | None:
    """Return what kind of number a text is and its value; all labels are more than any count of them."""
    if text == "all":
        return ("", float("inf"))
    unit = "%" if text.endswith("%") else ""
    try:
        return (unit, float(text.removesuffix("%")))
    except ValueError:
        return None


def _order(text: str) -> tuple[bool, float, str]:
    measured = _measure(text)
    return (measured is None, measured[1] if measured else 0.0, text)


def _complain(text: str, place: int, wanted: str) -> GraftError:
    rest = text[place:].strip()
    came = f"{rest!r}" if rest else "nothing"
    return GraftError(
        f"Expected {wanted} in --where {text!r}, but got {came}. A condition is a field, one of"
        f" {' '.join(_SIGNS)} and a value; conditions are joined by `and`; {_EXAMPLE}"
    )
