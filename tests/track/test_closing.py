from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from graft.plan.spec import RunSpec
from graft.track.closing import close_dead_runs, close_run
from graft.track.process import HEARTBEAT
from graft.track.store import Store, open_store
from graft.track.writer import start_run, start_sweep

Plan = Callable[..., RunSpec]


@pytest.fixture
def fresh(tmp_path: Path, database: Path) -> Store:
    shutil.copy(database, tmp_path)
    return open_store(None, tmp_path)


def forge(store: Store, run_id: str, **tags: str) -> None:
    for name, value in tags.items():
        store.client.set_tag(run_id, f"graft.{name}", value)


def status(store: Store, run_id: str) -> str:
    return str(store.client.get_run(run_id).info.status)


def test_what_dead_processes_left_is_closed_and_nothing_else(fresh: Store, plan: Plan) -> None:
    ids = [start_run(fresh, plan("dead", seed=seed), parent_id=None, notes={}).run_id for seed in range(6)]
    living, reused, elsewhere, silent, ancient, done = ids
    sweep = start_sweep(fresh, "dead", [plan("dead")], "").run_id
    mark = fresh.client.get_run(living).data.tags["graft.process"]
    other_start = mark.rpartition("/")[0] + "/7"
    forge(fresh, living, heartbeat="0")  # stopped, or its store was away: alive all the same
    forge(fresh, reused, process=other_start)
    forge(fresh, sweep, process=other_start)
    forge(fresh, elsewhere, host="elsewhere", process=other_start)
    forge(fresh, silent, host="elsewhere", heartbeat=f"{time.time() - 700:.0f}")
    forge(fresh, ancient, host="elsewhere", heartbeat=f"{time.time() - 4000:.0f}")
    forge(fresh, done, process=other_start)
    fresh.client.set_terminated(done)
    stranger = fresh.client.create_run(fresh.experiment_id("not ours")).info.run_id
    assert close_dead_runs(fresh) == 3
    for run_id in (reused, sweep, ancient):
        run = fresh.client.get_run(run_id)
        assert (run.info.status, run.data.tags["graft.status"]) == ("KILLED", "killed")
        assert run.data.tags["graft.reason"] == "its process ended without a word"
    for run_id in (living, elsewhere, silent, stranger):
        assert status(fresh, run_id) == "RUNNING"
    assert status(fresh, done) == "FINISHED"
    assert close_dead_runs(fresh, stale=600) == 1
    assert status(fresh, silent) == "KILLED"
    assert status(fresh, elsewhere) == "RUNNING"
    assert close_dead_runs(fresh, stale=600) == 0


def test_a_run_from_before_processes_were_marked(fresh: Store, plan: Plan) -> None:
    ids = [start_run(fresh, plan("old", seed=seed), parent_id=None, notes={}).run_id for seed in range(2)]
    for run_id in ids:
        fresh.client.delete_tag(run_id, "graft.process")
        fresh.client.delete_tag(run_id, HEARTBEAT)
    forge(fresh, ids[0], pid="999999999", host=platform.node())
    assert close_dead_runs(fresh) == 1
    assert [status(fresh, run_id) for run_id in ids] == ["KILLED", "RUNNING"]


def test_a_closed_run_has_its_reason_and_its_last_words(store: Store, plan: Plan) -> None:
    run_id = start_run(store, plan("closed"), parent_id=None, notes={}).run_id
    close_run(store, run_id, "failed", "segmentation fault", "line 1\nline 2\n")
    run = store.client.get_run(run_id)
    assert (run.info.status, run.data.tags["graft.status"]) == ("FAILED", "failed")
    assert run.data.tags["graft.reason"] == "segmentation fault"
    assert "graft.transient" not in run.data.tags
    assert Path(store.client.download_artifacts(run_id, "log.txt")).read_text() == "line 1\nline 2\n"


@pytest.mark.parametrize("ended", ["finished", "failed", "diverged", "killed"])
def test_what_a_run_said_of_itself_stands(store: Store, plan: Plan, ended: str) -> None:
    writer = start_run(store, plan(f"stands{ended}"), parent_id=None, notes={})
    writer.end(ended, "its own reason")
    before = store.client.get_run(writer.run_id)
    close_run(store, writer.run_id, "failed", "the worker died afterwards", "words")
    after = store.client.get_run(writer.run_id)
    assert after.info.status == before.info.status
    assert after.data.tags["graft.status"] == ended
    assert after.data.tags["graft.reason"] == "its own reason"
    assert Path(store.client.download_artifacts(writer.run_id, "log.txt")).read_text() == "words"


def test_a_sweep_whose_run_lives_is_not_closed(fresh: Store, plan: Plan) -> None:
    """Two drivers of one sweep share its record; when one of them dies the other goes on."""
    sweep = start_sweep(fresh, "twice", [plan("twice")], "graft train -m").run_id
    run = start_run(fresh, plan("twice"), parent_id=sweep, notes={})
    mark = fresh.client.get_run(sweep).data.tags["graft.process"]
    forge(fresh, sweep, process=mark.rpartition("/")[0] + "/7")
    assert close_dead_runs(fresh) == 0
    assert status(fresh, sweep) == "RUNNING"
    run.end("finished")
    assert close_dead_runs(fresh) == 1
    assert status(fresh, sweep) == "KILLED"
