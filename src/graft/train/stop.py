"""Being asked to stop: signals become a flag, looked at where training can stop without losing anything."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

from graft.errors import RunInterrupted


class StopRequest:
    """Listens for SIGTERM, Ctrl-C and, under Slurm, SIGUSR1, while it is entered.

    The first signal raises `RunInterrupted` at once, except inside `waiting`: there it is remembered in
    ``signum``, for whoever looks. A Ctrl-C after that leaves the process at once; nothing more is written.
    What the process ignores stays ignored, and outside the main thread nothing is listened for.

    Attributes:
        signum: The signal that asked to stop, None when none did.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._process = os.getpid()
        self._waits = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for signum in _signals():
                before = signal.getsignal(signum)
                if before is not signal.SIG_IGN:
                    self._before[signum] = before
        self.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, before in self._before.items():
            signal.signal(signum, before)
        self._before = {}

    def listen(self) -> None:
        """Listen again: Lightning puts handlers of its own in the place of those it finds."""
        for signum in self._before:
            signal.signal(signum, self._answer)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Let a signal wait until somebody looks; if nobody did, it is answered at the end.

        Raises:
            RunInterrupted: A signal came.
        """
        self._waits = True
        try:
            yield
        except SystemExit as exit_:  # Lightning's own answer, where the signal came before `listen`
            if self.signum is None:
                raise
            raise RunInterrupted(self.signum) from exit_
        finally:
            self._waits = False
        if self.signum is not None:
            raise RunInterrupted(self.signum)

    def _answer(self, signum: int, _: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked process that reads batches; Ctrl-C reaches it, too
            if signum != signal.SIGINT:
                os._exit(128 + signum)
            return
        if self.signum is not None:
            if signum == signal.SIGINT:
                os._exit(128 + signum)
            return  # whoever ends a process often says so twice: itself, and to the whole group
        self.signum = signum
        if not self._waits:
            raise RunInterrupted(signum)


def _signals() -> list[int]:
    """Return the signals that ask a run to stop; with SIGUSR1 Slurm announces that it takes the node."""
    usual: list[int] = [signal.SIGTERM, signal.SIGINT]
    return [*usual, signal.SIGUSR1] if "SLURM_JOB_ID" in os.environ else usual
