"""How a run ended, and what that means for its being tried again."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from graft.errors import (
    DivergedError,
    GraftError,
    PrunedError,
    RunFailedError,
    RunInterrupted,
    StoreAwayError,
)

#: Why a run did not finish, where trying again may help.
KILLED, AWAY, MEMORY = "killed", "away", "memory"

#: Signals that somebody sends to a healthy process; the others say that the process itself is at fault.
_SENT_BY_OTHERS = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})

#: How libraries say that memory ran out without an exception of its own.
_MEMORY_WORDS = ("can't allocate memory", "cannot allocate memory", "out of memory")


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        key: Its run key.
        status: ``finished``, ``failed``, ``killed``, ``diverged`` or ``pruned``.
        reason: Why it did not finish.
        val: Value of the validation metric that chooses, None unless finished.
        mistake: Whether the reason is something that the user asked for.
        cause: ``killed``, ``away`` or ``memory`` where trying again may help, else empty.
        signum: The signal that asked it to stop, None when none did.
    """

    key: str
    status: str
    reason: str = ""
    val: float | None = None
    mistake: bool = False
    cause: str = ""
    signum: int | None = None

    def require_finished(self) -> None:
        """Raise what a single run owes its user when it did not finish.

        Raises:
            RunInterrupted: When it was asked to stop.
            GraftError: When it was asked for what cannot be done.
            RunFailedError: When it failed.
        """
        if self.signum is not None:
            raise RunInterrupted(self.signum)
        if self.mistake:
            raise GraftError(self.reason)
        if self.status != "finished":
            raise RunFailedError(f"The run {_SAID.get(self.status, self.status)}: {self.reason}")


_SAID = {"killed": "was ended"}


def describe_error(key: str, error: BaseException) -> Outcome:
    """Return the outcome of a run that raised ``error``."""
    if isinstance(error, RunInterrupted):
        return describe_interruption(key, error.signum)
    if isinstance(error, KeyboardInterrupt | SystemExit):  # before anybody listened for signals
        asked = signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM
        return describe_interruption(key, asked)
    if isinstance(error, DivergedError):
        return Outcome(key, "diverged", str(error))
    if isinstance(error, PrunedError):
        return Outcome(key, "pruned", str(error))
    if isinstance(error, GraftError):
        cause = AWAY if isinstance(error, StoreAwayError) else ""
        return Outcome(key, "failed", str(error), mistake=not isinstance(error, RunFailedError), cause=cause)
    said = (str(error).splitlines() or [""])[0]
    if _is_about_memory(error):
        return Outcome(key, "failed", f"out of memory ({type(error).__name__}: {said})", cause=MEMORY)
    return Outcome(key, "failed", f"{type(error).__name__}: {error}")


def describe_interruption(key: str, signum: int) -> Outcome:
    """Return the outcome of a run that a signal asked to stop."""
    return Outcome(key, "killed", f"asked to stop by {name_signal(signum)}", cause=KILLED, signum=signum)


def describe_death(key: str, exit_code: int) -> Outcome:
    """Return the outcome of a run whose process ended without a word.

    Args:
        key: Its run key.
        exit_code: Of the process; negative for the signal that ended it.
    """
    if exit_code >= 0:
        return Outcome(key, "failed", f"its process exited with code {exit_code}")
    cause = KILLED if -exit_code in _SENT_BY_OTHERS else ""
    return Outcome(key, "failed", f"its process was ended by {name_signal(-exit_code)}", cause=cause)


def name_signal(signum: int) -> str:
    """Return the name of a signal.

    >>> name_signal(9)
    'SIGKILL'
    """
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"


def _is_about_memory(error: BaseException) -> bool:
    """Whether memory ran out; torch is asked by name, so that it need not be there."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError | OSError) and any(words in said for words in _MEMORY_WORDS)
