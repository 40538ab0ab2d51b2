"""A store that is away for a while; the real servers are in tests/servers."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

from graft.errors import StoreAwayError
from graft.plan.spec import RunSpec
from graft.track.closing import close_run
from graft.track.outbox import list_unsent, send_unsent
from graft.track.reader import find_finished, finished_runs
from graft.track.store import Store
from graft.track.writer import RunWriter, recording, start_run, start_sweep

Plan = Callable[..., RunSpec]

#: Numbers of calls after which the store goes away, for as long as the test wants.
WHENEVER = range(9)


class Flaky:
    """MLflow's client on a line that is cut after some calls, before or after the store has heard."""

    def __init__(self, client: Any, calls: int, heard: bool) -> None:
        self.client, self.calls, self.heard = client, calls, heard

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.client, name)

        def call(*arguments: Any, **named: Any) -> Any:
            self.calls -= 1
            if self.calls >= 0:
                return real(*arguments, **named)
            if self.heard:
                real(*arguments, **named)
            raise MlflowException("the line is cut", TEMPORARILY_UNAVAILABLE)

        return call


def cut(store: Store, calls: int, *, heard: bool = False) -> tuple[Store, Flaky]:
    line = Flaky(store.client, calls, heard)
    return dataclasses.replace(store, client=line), line  # type: ignore[arg-type]


def read(store: Store, run_id: str) -> tuple[Any, dict[str, list[tuple[int, float]]]]:
    run = store.client.get_run(run_id)
    histories = {
        key: [(point.step, point.value) for point in store.client.get_metric_history(run_id, key)]
        for key in run.data.metrics
    }
    return run, histories


def say_everything(writer: RunWriter, tmp_path: Path) -> None:
    for step in range(4):
        writer.record({"val/accuracy": step / 4, "train/loss": 1.0}, step)
        if step % 2:
            writer.flush()
    writer.tag({"graft.split": "s"})
    (tmp_path / "a.txt").write_text("a")
    writer.log_folder(tmp_path)
    writer.log_json({"b": 1}, "deep/b.json")
    writer.end("finished")


def check_everything(store: Store, run_id: str) -> None:
    run, histories = read(store, run_id)
    assert (run.info.status, run.data.tags["graft.status"]) == ("FINISHED", "finished")
    assert run.data.tags["graft.split"] == "s"
    assert histories["val/accuracy"] == [(step, step / 4) for step in range(4)]
    assert histories["train/loss"] == [(step, 1.0) for step in range(4)]
    assert Path(store.client.download_artifacts(run_id, "a.txt")).read_text() == "a"
    assert json.loads(Path(store.client.download_artifacts(run_id, "deep/b.json")).read_text()) == {"b": 1}
    assert run_id not in list_unsent(store.root)


@pytest.mark.parametrize("heard", [False, True], ids=["unheard", "heard"])
@pytest.mark.parametrize("calls", WHENEVER)
def test_nothing_is_lost_and_nothing_doubled(
    store: Store, plan: Plan, tmp_path: Path, calls: int, heard: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whenever the line is cut, and whether or not the store heard what was said last."""
    run_id = start_run(store, plan(f"lost{heard}", seed=calls), parent_id=None, notes={}).run_id
    away, _ = cut(store, calls, heard=heard)
    say_everything(RunWriter(away, run_id), tmp_path)
    if list_unsent(store.root):
        assert "does not take what is recorded: the line is cut." in capsys.readouterr().err
    send_unsent(away)
    assert list_unsent(store.root) == ([run_id] if calls < 7 else []), "still away"
    send_unsent(store)
    check_everything(store, run_id)


def test_a_store_that_comes_back_during_the_run(store: Store, plan: Plan, tmp_path: Path) -> None:
    run_id = start_run(store, plan("back"), parent_id=None, notes={}).run_id
    away, line = cut(store, 0)
    writer = RunWriter(away, run_id)
    writer.record({"early": 1.0}, 1)
    writer.flush()
    with pytest.raises(MlflowException):
        writer.store.client.get_run(run_id)
    writer.beat()
    assert list_unsent(store.root) == [run_id]
    send_unsent(store)
    assert list_unsent(store.root) == [run_id], "a living process sends its own"
    line.calls = 10**6
    writer.beat()
    assert list_unsent(store.root) == []
    assert read(store, run_id)[1]["early"] == [(1, 1.0)]
    say_everything(writer, tmp_path)
    check_everything(store, run_id)


def test_half_sent_is_sent_again_without_doubles(store: Store, plan: Plan, tmp_path: Path) -> None:
    run_id = start_run(store, plan("half"), parent_id=None, notes={}).run_id
    away, line = cut(store, 0)
    writer = RunWriter(away, run_id)
    say_everything(writer, tmp_path)
    for calls in range(1, 5):
        line.calls = calls
        send_unsent(away)
    assert list_unsent(store.root) == [run_id]
    send_unsent(store)
    check_everything(store, run_id)


def _record_and_die(folder: str, run_id: str) -> None:
    import os

    from graft.track.store import open_store

    away, _ = cut(open_store(None, Path(folder)), 0)
    writer = RunWriter(away, run_id)
    writer.record({"val/accuracy": 0.5}, 3)
    writer.flush()
    os._exit(9)


def test_what_a_killed_process_kept_is_sent_by_the_next_one(store: Store, plan: Plan) -> None:
    run_id = start_run(store, plan("killed"), parent_id=None, notes={}).run_id
    process = multiprocessing.get_context("spawn").Process(
        target=_record_and_die, args=(str(store.root), run_id)
    )
    process.start()
    process.join()
    assert process.exitcode == 9
    assert list_unsent(store.root) == [run_id]
    close_run(store, run_id, "killed", "its worker died")
    run, histories = read(store, run_id)
    assert run.info.status == "KILLED"
    assert histories["val/accuracy"] == [(3, 0.5)]
    assert list_unsent(store.root) == []


def test_a_refused_part_is_set_aside(
    store: Store, plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = start_run(store, plan("refused"), parent_id=None, notes={}).run_id
    away, _ = cut(store, 0)
    writer = RunWriter(away, run_id)
    writer.tag({"x" * 300: "too long a key"})
    say_everything(writer, tmp_path)
    send_unsent(store)
    check_everything(store, run_id)
    assert f"The store refused a part of the run {run_id}" in capsys.readouterr().err
    kept = store.root / "unsent" / f"{run_id}.refused" / "journal.jsonl"
    assert "too long a key" in kept.read_text()


def test_what_belongs_to_another_store_is_left_alone(store: Store) -> None:
    folder = store.root / "unsent" / ("0" * 32)
    folder.mkdir(parents=True)
    (folder / "journal.jsonl").write_text('{"kind": "end", "content": {"status": "FINISHED", "time": 1}}\n')
    send_unsent(store)
    assert list_unsent(store.root) == ["0" * 32]
    (folder / "journal.jsonl").unlink()
    folder.rmdir()


def test_a_run_cannot_start_while_the_store_is_away(
    store: Store, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graft.track.away._TRIES", 2)
    away, _ = cut(store, 0)
    with pytest.raises(StoreAwayError, match=r"does not answer: the line is cut\. Try again when"):
        start_run(away, plan("start"), parent_id=None, notes={})
    with pytest.raises(StoreAwayError), recording(away, plan("start"), None, {}):
        raise AssertionError("never reached")
    with pytest.raises(StoreAwayError):
        start_sweep(away, "start", [plan("start")], "")

    def no_file(file: Path) -> Any:
        raise sqlite3.OperationalError("a database that is no file")

    monkeypatch.setattr("graft.track.reader.look_into", no_file)
    with pytest.raises(StoreAwayError):
        finished_runs(away)
    with pytest.raises(StoreAwayError):
        find_finished(away, "k", "accuracy")


def test_a_store_that_is_busy_is_asked_again(store: Store, plan: Plan) -> None:
    class Busy(Flaky):
        def __getattr__(self, name: str) -> Any:
            self.calls = 0 if time.monotonic() < self.until else 10**6
            return super().__getattr__(name)

    busy = Busy(store.client, 0, False)
    busy.until = time.monotonic() + 0.5  # type: ignore[attr-defined]
    slow = dataclasses.replace(store, client=busy)  # type: ignore[arg-type]
    writer = start_run(slow, plan("busy"), parent_id=None, notes={})
    writer.end("finished")
    assert read(store, writer.run_id)[0].info.status == "FINISHED"
