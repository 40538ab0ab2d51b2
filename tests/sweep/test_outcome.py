"""What an error, a signal or a silent death means for a run."""

from __future__ import annotations

import json
import signal
from dataclasses import asdict

import pytest
import torch

from graft.errors import DivergedError, GraftError, RunFailedError, RunInterrupted, StoreAwayError
from graft.sweep.outcome import Outcome, describe_death, describe_error


@pytest.mark.parametrize(
    ("error", "status", "cause", "mistake"),
    [
        (GraftError("no such weights"), "failed", "", True),
        (RunFailedError("fell"), "failed", "", False),
        (DivergedError("nan"), "diverged", "", False),
        (StoreAwayError("no answer"), "failed", "away", False),
        (ValueError("no more"), "failed", "", False),
        (MemoryError("too much"), "failed", "memory", False),
        (torch.OutOfMemoryError("CUDA out of memory."), "failed", "memory", False),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "failed", "memory", False),
        (ValueError("a label called out of memory"), "failed", "", False),
        (RunInterrupted(signal.SIGTERM), "killed", "killed", False),
        (KeyboardInterrupt(), "killed", "killed", False),
        (SystemExit(143), "killed", "killed", False),
    ],
)
def test_an_error_has_a_status_and_a_cause(error, status, cause, mistake):
    outcome = describe_error("k", error)
    assert (outcome.status, outcome.cause, outcome.mistake) == (status, cause, mistake)
    assert Outcome(**json.loads(json.dumps(asdict(outcome)))) == outcome, "it travels between processes"


@pytest.mark.parametrize(
    ("code", "reason", "cause"),
    [
        (3, "its process exited with code 3", ""),
        (-signal.SIGKILL, "its process was ended by SIGKILL", "killed"),
        (-signal.SIGTERM, "its process was ended by SIGTERM", "killed"),
        (-signal.SIGSEGV, "its process was ended by SIGSEGV", ""),
        (-signal.SIGABRT, "its process was ended by SIGABRT", ""),
        (-199, "its process was ended by signal 199", ""),
    ],
)
def test_a_death_is_told_by_its_exit_code(code, reason, cause):
    assert describe_death("k", code) == Outcome("k", "failed", reason, cause=cause)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_single_run_that_was_asked_to_stop_ends_as_the_shell_expects(signum, code):
    with pytest.raises(RunInterrupted) as caught:
        describe_error("k", RunInterrupted(signum)).require_finished()
    assert caught.value.exit_code == code


def test_a_single_run_that_failed_says_why():
    with pytest.raises(RunFailedError, match="The run diverged: nan"):
        Outcome("k", "diverged", "nan").require_finished()
    with pytest.raises(RunFailedError, match="The run failed: its process exited"):
        describe_death("k", 3).require_finished()
    with pytest.raises(GraftError, match=r"^no such weights$") as caught:
        describe_error("k", GraftError("no such weights")).require_finished()
    assert caught.value.exit_code == 2
    Outcome("k", "finished", val=0.5).require_finished()
