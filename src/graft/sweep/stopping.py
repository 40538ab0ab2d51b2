"""Signals to the process that drives a sweep: it ends what it started, and says how to go on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from types import FrameType

from graft.errors import RunInterrupted


class Stop:
    """Whether the sweep was asked to stop.

    Attributes:
        signum: The signal that asked, None when none did.
    """

    def __init__(self) -> None:
        self.signum: int | None = None

    def answer(self, signum: int, _: FrameType | None) -> None:
        """Remember the first signal; a Ctrl-C after it leaves at once.

        Raises:
            RunInterrupted: Ctrl-C after another signal.
        """
        if self.signum is None:
            self.signum = signum
        elif signum == signal.SIGINT:
            raise RunInterrupted(self.signum)


@contextlib.contextmanager
def listening() -> Iterator[Stop]:
    """Listen for SIGTERM, Ctrl-C and, under Slurm, SIGUSR1, which says that the node will be taken."""
    stop, before = Stop(), {}
    if threading.current_thread() is threading.main_thread():
        before = {signum: signal.getsignal(signum) for signum in _signals()}
        for signum, answer in before.items():
            if answer is not signal.SIG_IGN:
                signal.signal(signum, stop.answer)
    try:
        yield stop
    finally:
        for signum, answer in before.items():
            signal.signal(signum, answer)


def _signals() -> list[int]:
    usual = [int(signal.SIGTERM), int(signal.SIGINT)]
    return [*usual, int(signal.SIGUSR1)] if "SLURM_JOB_ID" in os.environ else usual


def answer_interruption(signum: int) -> str:
    """Return what to tell a user whose command was interrupted; a pre-empted Slurm job is requeued."""
    job = os.environ.get("SLURM_JOB_ID")
    if signum != signal.SIGUSR1 or job is None:
        return "interrupted. The same command goes on where it was."
    if os.environ.get("SLURM_PROCID", "0") != "0":
        return "interrupted; the first process asks Slurm to run the job again."
    command = ["scontrol", "requeue", job]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        refused = "" if done.returncode == 0 else done.stderr.strip() or f"exit code {done.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        refused = str(error)
    if refused:
        return f"interrupted, and Slurm does not requeue job {job} ({refused}): submit it again, it goes on."
    return f"interrupted; Slurm runs job {job} again, and it goes on where it was."
