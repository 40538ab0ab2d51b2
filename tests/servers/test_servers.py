"""Stores that are servers: used as they are, and taken away during a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft.errors import StoreAwayError
from graft.plan.spec import RunSpec
from graft.track.closing import close_run
from graft.track.outbox import list_unsent
from graft.track.reader import find_finished, finished_runs, read_experiment, search
from graft.track.store import Store, open_store
from graft.track.writer import RunWriter, recording, start_run

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]

Plan = Callable[..., RunSpec]


@pytest.fixture(params=["mlflow_server", "postgres"])
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def graft(root: Path, uri: str, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "graft", *words, f"paths.root={root}", f"tracking.uri={uri}"]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def end(process: subprocess.Popen[str], code: int = 0) -> str:
    said = process.communicate(timeout=600)[0]
    assert process.returncode == code, said
    return said


def history(store: Store, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in store.client.get_metric_history(run_id, key)]


def test_a_server_that_is_away_for_a_while(server: Any, plan: Plan, tmp_path: Path) -> None:
    store = open_store(server.uri, tmp_path)
    artifacts = tmp_path / "kept"
    artifacts.mkdir()
    (artifacts / "a.txt").write_text("a")
    with recording(store, plan(), None, {}) as writer:
        assert writer is not None
        for step in range(12):
            if step == 3:
                server.stop()
            if step == 9:
                server.start()
                writer.beat()
                assert list_unsent(tmp_path) == [], "sent as soon as the store answers again"
            started = time.monotonic()
            writer.record({"val/accuracy": step / 12, "train/loss": float("nan")}, step)
            writer.flush()
            assert time.monotonic() - started < 30, "training does not wait"
            if step == 5:
                writer.log_folder(artifacts)
                writer.tag({"graft.split": "s"})
                assert list_unsent(tmp_path) == [writer.run_id]
    run = store.client.get_run(writer.run_id)
    assert (run.info.status, run.data.tags["graft.split"]) == ("FINISHED", "s")
    assert history(store, writer.run_id, "val/accuracy") == [(step, step / 12) for step in range(12)]
    assert len(history(store, writer.run_id, "train/loss")) == 12
    assert Path(store.client.download_artifacts(writer.run_id, "a.txt")).read_text() == "a"
    assert find_finished(store, plan().key, "accuracy") == 11 / 12


def test_a_run_that_ends_while_the_server_is_away(server: Any, plan: Plan, tmp_path: Path) -> None:
    store = open_store(server.uri, tmp_path)
    with recording(store, plan(), None, {}) as writer:
        assert writer is not None
        server.stop()
        writer.conclude({"val/accuracy": 0.5}, 1)
    with pytest.raises(StoreAwayError):
        start_run(store, plan(seed=1), parent_id=None, notes={})
    with pytest.raises(StoreAwayError):
        finished_runs(store)
    lost = RunWriter(store, writer.run_id)
    assert list_unsent(tmp_path) == [writer.run_id]
    close_run(store, lost.run_id, "failed", "the worker died after the end", "its log")
    server.start()
    assert plan().key in finished_runs(open_store(server.uri, tmp_path))
    run = store.client.get_run(writer.run_id)
    assert (run.info.status, run.data.tags["graft.status"]) == ("FINISHED", "finished")
    assert history(store, writer.run_id, "val/accuracy") == [(1, 0.5)]
    assert Path(store.client.download_artifacts(writer.run_id, "log.txt")).read_text() == "its log"
    assert list_unsent(tmp_path) == []


def test_a_small_sweep(server: Any, tmp_path: Path) -> None:
    grid = ("transfer=from_scratch", "optim.lr=1e-3,1e-2", "seed=0,1", "trainer.epochs=1")
    asked = ("train", "-m", *grid, "data.labels_per_class=5", "tracking.experiment=small")
    end(graft(tmp_path, server.uri, *asked))
    store = open_store(server.uri, tmp_path)
    records = read_experiment(store, "small")
    assert [record.status for record in records] == ["finished"] * 4
    again = end(graft(tmp_path, server.uri, *asked))
    assert len(list(search(store, [store.experiment_id("small")], "tags.`graft.kind` = 'run'"))) == 4, again
    found = json.loads(end(graft(tmp_path, server.uri, "status", "--json")))
    assert [sweep["finished"] for sweep in found["sweeps"]] == [4]
    said = end(graft(tmp_path, server.uri, "compare", "small"))
    assert "The report:" in said


def test_a_real_run_through_an_outage(server: Any, tmp_path: Path) -> None:
    """The server goes when the run has begun, and comes back before it ends, or after."""
    asked = ("train", "transfer=from_scratch", "trainer.epochs=100", "data.labels_per_class=10")
    process = graft(tmp_path, server.uri, *asked)
    store = open_store(server.uri, tmp_path)
    deadline = time.monotonic() + 300
    while not list(search(store, [store.experiment_id("default")], "metrics.`val/accuracy` >= 0")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.2)
    server.stop()
    time.sleep(5)
    server.start()
    said = process.communicate(timeout=600)[0]
    store = open_store(server.uri, tmp_path)
    assert len(finished_runs(store)) == 1, said
    (run_id,) = finished_runs(store).values()
    steps = [step for step, _ in history(store, run_id, "train/loss")]
    assert len(steps) == len(set(steps)) == 20, "one for each validation"
    assert list_unsent(tmp_path) == []
    assert "finished already" in end(graft(tmp_path, server.uri, *asked))


def test_a_crowd_on_a_fresh_server(server: Any, tmp_path: Path) -> None:
    """Each process has a root of its own: no file lock orders them, as on several machines."""
    script = (
        "import sys; from pathlib import Path; from graft.track.store import open_store\n"
        "store = open_store(sys.argv[1], Path(sys.argv[2]))\n"
        "run = store.client.create_run(store.experiment_id('crowd'))\n"
        "store.client.set_terminated(run.info.run_id)"
    )
    open_store(server.uri, tmp_path / "first")  # a fresh PostgreSQL wants one process to be first
    crowd = [
        subprocess.Popen([sys.executable, "-c", script, server.uri, str(tmp_path / str(one))])
        for one in range(4)
    ]
    assert [process.wait(timeout=300) for process in crowd] == [0] * 4
    store = open_store(server.uri, tmp_path / "first")
    assert len(list(search(store, [store.experiment_id("crowd")], ""))) == 4
