from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from graft.errors import RunInterrupted
from graft.train.stop import StopRequest


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_interrupts_at_once_where_nobody_looks(signum: int, code: int) -> None:
    before = signal.getsignal(signum)
    with pytest.raises(RunInterrupted) as asked, StopRequest():
        send(signum)
    assert asked.value.exit_code == code
    assert signal.getsignal(signum) is before


def test_a_signal_waits_for_who_looks() -> None:
    looked = []

    def work(stop: StopRequest) -> None:
        looked.append(stop.signum)
        send(signal.SIGTERM)
        send(signal.SIGTERM)  # whoever ends a process may say it twice
        looked.append(stop.signum)

    with pytest.raises(RunInterrupted), StopRequest() as stop, stop.waiting():
        work(stop)
    assert looked == [None, signal.SIGTERM]


def test_another_exit_stays_what_it_is() -> None:
    with pytest.raises(SystemExit), StopRequest() as stop, stop.waiting():
        raise SystemExit(3)


def test_an_exit_that_a_signal_caused_is_an_interruption() -> None:

    def work() -> None:
        send(signal.SIGTERM)
        raise SystemExit(1)

    with pytest.raises(RunInterrupted), StopRequest() as stop, stop.waiting():
        work()


def test_what_is_ignored_stays_ignored() -> None:
    """Workers of a sweep ignore Ctrl-C: their driver tells them."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            send(signal.SIGINT)
            assert stop.signum is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_slurm_announces_the_end_with_a_signal_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with StopRequest():
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    with pytest.raises(RunInterrupted) as asked, StopRequest():
        send(signal.SIGUSR1)
    assert asked.value.exit_code == 128 + signal.SIGUSR1


def test_outside_the_main_thread_nobody_listens() -> None:
    found = []

    def look() -> None:
        with StopRequest() as stop:
            found.append(stop.signum)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [None]


def test_processes_that_read_batches_leave_ctrl_c_to_the_one_that_trains() -> None:
    """In a terminal it reaches all of them; one that died of it would fail the run."""
    with StopRequest() as stop, stop.waiting():
        child = os.fork()
        if child == 0:
            for _ in range(3):
                send(signal.SIGINT)
            send(signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143


def test_a_second_ctrl_c_leaves_at_once() -> None:
    code = """
        import os, signal
        from graft.train.stop import StopRequest
        with StopRequest() as stop, stop.waiting():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGINT)
            finally:
                print("never said", flush=True)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
