"""What a person asked of a comparison on the command line."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from graft.compare.expect import Expectation, parse_expectation
from graft.compare.where import Where, parse_where
from graft.config.names import METRICS
from graft.errors import GraftError, expected_one_of

#: Options with a value, and a value that shows their form.
_VALUED = {
    "--where": '"backbone=resnet18 and labels<=20"',
    "--metric": "balanced_accuracy",
    "--expect": '"fine_tune helps"',
    "--margin": "0.5",
}
_FLAGS = ("--json", "--oracle")


@dataclass(frozen=True)
class Asked:
    """The options of a comparison.

    Attributes:
        where: Which runs count, None for all.
        metric: Name of the metric, None for the one that the runs were chosen by.
        expects: Verdicts that have to hold.
        margin: Difference that counts as none, in points for a fraction and in the metric's unit otherwise;
            None for the usual one.
        as_json: Whether to print ``comparison.json`` instead of tables.
        oracle: Whether test itself chooses the trials.
        words: The options as they were typed, to be typed again.
    """

    where: Where | None = None
    metric: str | None = None
    expects: tuple[Expectation, ...] = ()
    margin: float | None = None
    as_json: bool = False
    oracle: bool = False
    words: tuple[str, ...] = ()

    @property
    def is_usual(self) -> bool:
        """Whether this is the plain comparison, which the parent runs carry."""
        return self.where is None and self.metric is None and self.margin is None and not self.oracle


def read_options(words: Sequence[str]) -> tuple[Asked, list[str]]:
    """Read the options out of ``words``, with ``=`` or a space before a value, and return the rest.

    Raises:
        GraftError: For an option that is none, or whose value is none.
    """
    values: dict[str, list[str]] = {}
    rest, left = list[str](), list(words)
    while left:
        word = left.pop(0)
        name, sign, value = word.partition("=")
        if name in _VALUED:
            if not sign and (not left or left[0].startswith("--")):
                raise GraftError(f"Expected a value after `{name}`, such as: {name} {_VALUED[name]}")
            values.setdefault(name, []).append(value if sign else left.pop(0))
        elif word in _FLAGS:
            values[word] = []
        elif word.startswith("-"):
            raise GraftError(expected_one_of("option", name, (*_VALUED, *_FLAGS)))
        else:
            rest.append(word)
    for name in ("--where", "--metric", "--margin"):
        if len(values.get(name, ())) > 1:
            raise GraftError(f"Expected `{name}` once, but got it {len(values[name])} times.")
    metric = values.get("--metric", [None])[0]
    if metric is not None and metric not in METRICS:
        raise GraftError(expected_one_of("--metric", metric, METRICS))
    asked = Asked(
        where=parse_where(values["--where"][0]) if "--where" in values else None,
        metric=metric,
        expects=tuple(parse_expectation(text) for text in values.get("--expect", ())),
        margin=_read_margin(values["--margin"][0]) if "--margin" in values else None,
        as_json="--json" in values,
        oracle="--oracle" in values,
        words=tuple(_quote(name, value) for name, own in values.items() for value in own or [""]),
    )
    return asked, rest


def _read_margin(text: str) -> float:
    try:
        margin = float(text)
    except ValueError:
        margin = math.nan
    if not 0 < margin < math.inf:
        raise GraftError(
            "Expected `--margin` to be a positive number, in points (0.5 = half a point) or in the unit of"
            f" the metric, but got {text!r}."
        )
    return margin


def _quote(name: str, value: str) -> str:
    return f"{name} {shlex.quote(value)}" if value else name
