"""The one error a user ever sees: what was expected, what came, what the choices are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GraftError(Exception):
    """A mistake in what was asked for. Printed without a traceback; the command exits with code 2."""

    exit_code = 2


class RunFailedError(GraftError):
    """A run that was asked for correctly and failed. The command exits with code 1."""

    exit_code = 1


class DivergedError(RunFailedError):
    """The loss of a run became NaN or infinite; trying again would give the same."""


class RunInterrupted(BaseException):
    """A run that was asked to stop, and has written down where it was. The same command goes on from there.

    Args:
        signum: The signal that asked.
    """

    def __init__(self, signum: int) -> None:
        super().__init__("asked to stop; the same command goes on from there")
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """What the shell expects of a process that a signal ended."""
        return 128 + self.signum


class PrunedError(GraftError):
    """The run was cut on purpose, to give its time to better trials."""


class StoreAwayError(RunFailedError):
    """The tracking store does not answer at the moment; trying again later may work."""


def nearest_first(name: str, choices: Iterable[str]) -> list[str]:
    """Sort ``choices`` by likeness to ``name``, the likeliest first.

    >>> nearest_first("resnet81", ["vgg16", "resnet18"])
    ['resnet18', 'vgg16']
    """

    def unlikeness(choice: str) -> float:
        return -difflib.SequenceMatcher(None, name.lower(), choice.lower()).ratio()

    return sorted(choices, key=lambda choice: (unlikeness(choice), choice))


def expected_one_of(key: str, name: object, choices: Iterable[str], limit: int = 6) -> str:
    """Say that ``key`` must be one of ``choices``, the nearest first.

    >>> expected_one_of("optim.name", "adamv", ["sgd", "adam", "adamw"])
    "Expected `optim.name` to be one of: adam, adamw, sgd; but got 'adamv'. Did you mean 'adam'?"
    """
    ordered = nearest_first(str(name), choices)
    if not ordered:
        return f"Expected `{key}` to be one of a list that is empty here; but got {str(name)!r}."
    listed = ", ".join(ordered[:limit])
    more = f" (and {len(ordered) - limit} more)" if len(ordered) > limit else ""
    close = difflib.get_close_matches(
        str(name).lower(), [choice.lower() for choice in ordered], n=1, cutoff=0.6
    )
    hint = f" Did you mean {ordered[0]!r}?" if close else ""
    return f"Expected `{key}` to be one of: {listed}{more}; but got {str(name)!r}.{hint}"
