"""A sweep that is told to stop, or whose driver dies, leaves no process and no lie, and can go on."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from graft.track.reader import read_experiment
from graft.track.store import open_store

#: Real processes, each of which takes long to start on a machine that has other work.
pytestmark = pytest.mark.timeout(1200)

SLOW = ["-m", "backbone.name=faulty_slow", "seed=0,1", "trainer.limit_batches=null", "trainer.min_steps=300"]


def wait_until_none(find, text: str, seconds: float = 90) -> list[int]:
    """Wait until no process has ``text`` in its environment, and return those that still do."""
    deadline = time.monotonic() + seconds
    while (left := find(text)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def statuses(root: Path, kind: str) -> list[str]:
    store = open_store(None, root)
    runs = store.client.search_runs([store.experiment_id("default")], f"tags.`graft.kind` = '{kind}'")
    return sorted(run.info.status for run in runs)


def stop(graft_train, processes_of, signum: int, code: int) -> None:
    """Start a slow sweep, tell it to stop while it trains, and look at what is left."""
    process = graft_train.start(*SLOW)
    graft_train.training(1)
    time.sleep(1)
    process.send_signal(signum)
    told, complained = process.communicate(timeout=120)
    assert process.returncode == code, told + complained
    assert "interrupted. The same command goes on where it was." in complained
    assert "Traceback" not in told + complained
    assert not wait_until_none(processes_of, f"FAULTS={graft_train.faults}"), "no orphan"
    assert statuses(graft_train.root, "run") == ["KILLED"]
    assert statuses(graft_train.root, "sweep") == ["KILLED"]


def test_a_sweep_that_is_told_to_stop(graft_train, processes_of) -> None:
    stop(graft_train, processes_of, signal.SIGTERM, 143)


@pytest.mark.full
def test_a_sweep_that_was_interrupted_goes_on_when_asked_again(graft_train, processes_of) -> None:
    stop(graft_train, processes_of, signal.SIGINT, 130)
    graft_train.go()
    done = graft_train(*SLOW)
    assert done.returncode == 0, done.stdout + done.stderr
    assert statuses(graft_train.root, "run") == ["FINISHED"] * 2, "the interrupted run was gone on with"
    assert statuses(graft_train.root, "sweep") == ["FINISHED"]
    records = read_experiment(open_store(None, graft_train.root), "default")
    assert "gone on with from step" in "".join(record.notes["notes"] for record in records)


@pytest.mark.full
def test_a_second_ctrl_c_leaves_at_once(graft_train, processes_of) -> None:
    process = graft_train.start("-m", "backbone.name=faulty_sleep", "seed=0,1")
    graft_train.training(1)
    process.send_signal(signal.SIGINT)
    time.sleep(2)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - started < 15
    assert not wait_until_none(processes_of, f"FAULTS={graft_train.faults}", 5)


@pytest.mark.full
def test_workers_whose_driver_is_gone_end_by_themselves(graft_train, processes_of) -> None:
    process = graft_train.start(*SLOW, "sweep.workers=2", "sweep.oversubscribe=true")
    graft_train.training(2)
    time.sleep(1)
    process.kill()
    process.communicate(timeout=60)
    assert not wait_until_none(processes_of, f"FAULTS={graft_train.faults}"), "no orphan"
    assert statuses(graft_train.root, "run") == ["KILLED"] * 2, "they wrote down where they were"
    graft_train.go()
    done = graft_train(*SLOW)
    assert done.returncode == 0, done.stdout + done.stderr
    assert statuses(graft_train.root, "run") == ["FINISHED"] * 2
    assert statuses(graft_train.root, "sweep") == ["FINISHED"]


@pytest.mark.full
def test_a_worker_that_somebody_ends_is_replaced_and_its_run_goes_on(graft_train) -> None:
    process = graft_train.start(*SLOW)
    (worker,) = graft_train.training(1)
    time.sleep(1)
    os.kill(worker, signal.SIGTERM)
    graft_train.training(2)
    graft_train.go()
    told, complained = process.communicate(timeout=500)
    assert process.returncode == 0, told + complained
    assert "tried again" in told
    assert statuses(graft_train.root, "run") == ["FINISHED"] * 2


@pytest.mark.full
def test_two_sweeps_at_once_execute_each_run_once(graft_train) -> None:
    first = graft_train.start(*SLOW)
    graft_train.training(1)
    second = graft_train.start(*SLOW, "tracking.experiment=other")
    time.sleep(15)
    graft_train.go()
    for process in (first, second):
        told, complained = process.communicate(timeout=500)
        assert process.returncode == 0, told + complained
    assert statuses(graft_train.root, "run") == ["FINISHED"] * 2
    store = open_store(None, graft_train.root)
    assert len(read_experiment(store, "other")) == 2, "found by key where they were run"
    assert not list((graft_train.root / "locks").iterdir())
