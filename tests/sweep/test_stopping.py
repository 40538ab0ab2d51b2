"""Signals to the driver, and what the user is told."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from graft.errors import RunInterrupted
from graft.sweep.stopping import answer_interruption, listening


def test_the_first_signal_is_remembered_and_ctrl_c_after_it_leaves() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with listening() as stop:
        assert stop.signum is None
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signum == signal.SIGTERM
        with pytest.raises(RunInterrupted) as caught:
            os.kill(os.getpid(), signal.SIGINT)
        assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_slurm_says_with_another_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    with listening() as stop:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.signum == signal.SIGUSR1


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in that notes what it is asked, first on the path."""
    asked = tmp_path / "asked"
    tool = tmp_path / "scontrol"
    tool.write_text(
        f'#!/bin/sh\necho "$@" > {asked}\ntest ! -f {tmp_path}/refuse || {{ echo no >&2; exit 1; }}\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    return asked


def test_a_pre_empted_job_is_requeued(scontrol: Path) -> None:
    assert "Slurm runs job 17 again" in answer_interruption(signal.SIGUSR1)
    assert scontrol.read_text() == "requeue 17\n"


def test_a_refused_requeue_is_said(scontrol: Path) -> None:
    (scontrol.parent / "refuse").touch()
    assert "does not requeue job 17 (no): submit it again" in answer_interruption(signal.SIGUSR1)


def test_one_process_of_several_asks(scontrol: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "1")
    answer_interruption(signal.SIGUSR1)
    assert not scontrol.exists()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_other_signals_requeue_nothing(signum: int, scontrol: Path) -> None:
    assert answer_interruption(signum) == "interrupted. The same command goes on where it was."
    assert not scontrol.exists()
