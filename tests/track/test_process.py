from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from graft.track.process import HEARTBEAT, Mark, describe_process, is_dead, is_gone, mark_process

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def tags_of(pid: int, **changes: str) -> dict[str, str]:
    mark = replace(mark_process(pid), **changes)
    return {"graft.host": platform.node(), "graft.pid": str(pid), "graft.process": mark.text}


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    yield process
    process.kill()
    process.wait()


def test_this_process_is_alive() -> None:
    tags = describe_process()
    assert is_gone(tags) is False
    assert Mark.parse(tags["graft.process"]) == mark_process(os.getpid())
    assert abs(float(tags[HEARTBEAT]) - time.time()) < 5


def test_a_number_that_another_process_has_now_is_not_alive() -> None:
    start = int(mark_process(os.getpid()).start)
    assert is_gone(tags_of(os.getpid(), start=str(start - 1))) is True


def test_a_stopped_process_is_alive_and_an_ended_one_is_not(sleeper: subprocess.Popen[bytes]) -> None:
    tags = tags_of(sleeper.pid) | {HEARTBEAT: "0"}
    sleeper.send_signal(signal.SIGSTOP)
    assert is_gone(tags) is False
    assert not is_dead(tags, stale=1.0), "though its heart stands still"
    sleeper.kill()
    deadline = time.monotonic() + 30
    while not is_gone(tags) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_gone(tags) is True, "not yet waited for by its parent: a zombie"
    sleeper.wait()
    assert is_gone(tags) is True


def test_a_restarted_machine_has_none_of_its_processes() -> None:
    here = mark_process(os.getpid())
    known = replace(here, machine=here.machine or "cafe0000")
    tags = {"graft.host": platform.node(), "graft.pid": str(os.getpid()), "graft.process": known.text}
    before = tags | {"graft.process": replace(known, boot="before").text}
    assert is_gone(before) is (True if here.machine else None)
    assert is_gone(tags | {"graft.process": replace(known, boot="before", machine="other").text}) is None


def test_a_container_of_the_same_name_is_not_looked_into() -> None:
    assert is_gone(tags_of(os.getpid(), namespace="4026530000", start="1")) is None


@pytest.mark.parametrize(("age", "stale", "dead"), [(700, 600, True), (500, 600, False), (700, 3600, False)])
def test_of_another_machine_only_the_heartbeat_is_seen(age: int, stale: float, dead: bool) -> None:
    tags = tags_of(os.getpid(), start="1") | {"graft.host": "elsewhere"}
    assert is_gone(tags) is None
    assert is_dead(tags | {HEARTBEAT: f"{time.time() - age:.0f}"}, stale) is dead
    assert not is_dead(tags, stale), "without any heartbeat nothing is known"


def test_a_run_from_before_there_were_marks(sleeper: subprocess.Popen[bytes]) -> None:
    tags = {"graft.host": platform.node(), "graft.pid": str(sleeper.pid)}
    assert not is_dead(tags)
    sleeper.kill()
    sleeper.wait()
    assert is_dead(tags)
