from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft.config.load import flatten, to_plain
from graft.errors import DivergedError, GraftError
from graft.plan.spec import RunSpec
from graft.track.reader import plan_digest
from graft.track.store import Store, open_store
from graft.track.writer import RunWriter, recording, start_run, start_sweep

Plan = Callable[..., RunSpec]


def read(store: Store, writer: RunWriter) -> Any:
    return store.client.get_run(writer.run_id)


def test_a_run_is_recorded_whole(store: Store, plan: Plan) -> None:
    spec = plan("whole", seed=3)
    writer = start_run(store, spec, parent_id=None, notes={"frozen_stages": "none"})
    run = read(store, writer)
    assert run.info.status == "RUNNING"
    expected = flatten(to_plain(spec.config))
    assert run.data.params == {key: "" if value is None else str(value) for key, value in expected.items()}
    tags = run.data.tags
    assert tags["graft.run_key"] == spec.key
    assert tags["graft.arm"] == spec.arm.text
    assert tags["graft.trial"] == spec.trial
    assert tags["graft.seed"] == "3"
    assert tags["graft.frozen_stages"] == "none"
    assert tags["graft.status"] == "running"
    assert tags["graft.pid"] == str(os.getpid())
    assert {"graft.version", "graft.torch", "graft.mlflow", "graft.host", "graft.python"} <= set(tags)
    assert "mlflow.parentRunId" not in tags
    writer.end("finished")
    run = read(store, writer)
    assert (run.info.status, run.data.tags["graft.status"]) == ("FINISHED", "finished")
    assert run.info.end_time >= run.info.start_time


def test_numbers_are_sent_in_batches(store: Store, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = start_run(store, plan("batches"), parent_id=None, notes={})
    sizes: list[int] = []
    send = store.client.log_batch

    def log_batch(run_id: str, metrics: Any = (), **rest: Any) -> Any:
        sizes.append(len(metrics))
        return send(run_id, metrics=metrics, **rest)

    monkeypatch.setattr(store.client, "log_batch", log_batch)
    for step in range(300):
        writer.record({f"val/{name}": step / 2 for name in "abcd"}, step)
    assert sizes == []
    writer.end("finished")
    assert sizes[:2] == [1000, 200]
    history = store.client.get_metric_history(writer.run_id, "val/c")
    assert [(point.step, point.value) for point in history] == [(step, step / 2) for step in range(300)]


def test_a_long_run_can_be_watched(store: Store, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = start_run(store, plan("watched"), parent_id=None, notes={})
    monkeypatch.setattr("graft.track.writer._FLUSH_SECONDS", -1.0)
    writer.record({"train/loss": 1.5}, 7)
    assert read(store, writer).data.metrics == {"train/loss": 1.5}
    writer.end("finished")


def test_the_last_word_on_a_step_counts(store: Store, plan: Plan) -> None:
    """MLflow would take the larger one of two numbers in one millisecond."""
    writer = start_run(store, plan("last"), parent_id=None, notes={})
    for value in (0.5, 0.9, 0.1):
        writer.record({"val/loss": value}, 4)
    writer.end("finished")
    assert read(store, writer).data.metrics == {"val/loss": 0.1}


def test_infinity_is_left_out_and_nan_is_kept(store: Store, plan: Plan) -> None:
    writer = start_run(store, plan("infinite"), parent_id=None, notes={})
    writer.record({"train/loss": float("inf"), "val/loss": float("nan"), "val/accuracy": 0.1}, 1)
    writer.end("diverged", "DivergedError: inf")
    found = read(store, writer).data.metrics
    assert set(found) == {"val/loss", "val/accuracy"}
    assert found["val/loss"] != found["val/loss"]


@pytest.mark.parametrize(
    ("error", "status", "word"),
    [
        (ValueError("no such thing"), "FAILED", "failed"),
        (GraftError("Expected this, but got that."), "FAILED", "failed"),
        (DivergedError("The loss became nan."), "FAILED", "diverged"),
        (KeyboardInterrupt(), "KILLED", "killed"),
        (SystemExit(143), "KILLED", "killed"),
    ],
)
def test_a_status_tells_the_truth(
    store: Store, plan: Plan, error: BaseException, status: str, word: str
) -> None:
    held: list[RunWriter] = []

    def run_into_it() -> None:
        with recording(store, plan("statuses"), None, {}) as writer:
            assert writer is not None
            held.append(writer)
            writer.record({"train/loss": 2.0}, 1)
            raise error

    with pytest.raises(type(error)):
        run_into_it()
    run = read(store, held[0])
    assert (run.info.status, run.data.tags["graft.status"]) == (status, word)
    assert run.data.tags["graft.reason"] == f"{type(error).__name__}: {error}"
    assert run.data.metrics == {"train/loss": 2.0}, "what was measured until then is kept"


def test_an_endless_reason_is_cut(store: Store, plan: Plan) -> None:
    writer = start_run(store, plan("endless"), parent_id=None, notes={})
    writer.end("failed", "x" * 100_000)
    assert read(store, writer).data.tags["graft.reason"] == "x" * 5000


def test_a_process_that_does_not_record_writes_nothing(plan: Plan) -> None:
    with recording(None, plan(), None, {}) as writer:
        assert writer is None


def test_a_sweep_is_a_parent_with_a_child_per_run(store: Store, plan: Plan) -> None:
    specs = [plan("family", seed=seed) for seed in range(3)]
    parent = start_sweep(store, "family", specs, "graft train -m seed=0,1,2")
    for spec in specs:
        with recording(store, spec, parent.run_id, {}):
            pass
    parent.end("finished")
    identity = store.experiment_id("family")
    children = store.client.search_runs([identity], f"tags.`mlflow.parentRunId` = '{parent.run_id}'")
    assert {child.data.tags["graft.run_key"] for child in children} == {spec.key for spec in specs}
    run = read(store, parent)
    assert (run.info.status, run.data.tags["graft.kind"]) == ("FINISHED", "sweep")
    assert run.data.tags["graft.command"] == "graft train -m seed=0,1,2"
    assert run.data.tags["graft.plan"] == plan_digest([spec.key for spec in specs])
    stored = json.loads(Path(store.client.download_artifacts(parent.run_id, "plan.json")).read_text())
    assert stored == {"run_keys": [spec.key for spec in specs]}


def test_the_same_plan_has_the_same_parent(store: Store, plan: Plan) -> None:
    specs = [plan("again", seed=seed) for seed in range(2)]
    first = start_sweep(store, "again", specs, "")
    first.end("failed", "1 run did not finish")
    second = start_sweep(store, "again", specs[::-1], "")
    assert second.run_id == first.run_id
    assert read(store, second).info.status == "RUNNING"
    second.end("finished")
    run = read(store, second)
    assert run.info.status == "FINISHED"
    assert "graft.reason" not in run.data.tags
    assert start_sweep(store, "again", specs[:1], "").run_id != first.run_id
    assert start_sweep(store, "elsewhere", specs, "").run_id != first.run_id


def test_artifacts_lie_under_the_root(plan: Plan, tmp_path: Path, store: Store) -> None:
    assert store.artifacts is not None
    writer = start_run(store, plan("files"), parent_id=None, notes={})
    writer.log_json({"a": 1}, "a.json")
    (tmp_path / "b.txt").write_text("b")
    writer.log_folder(tmp_path, "folder")
    writer.end("finished")
    found = {path.name for path in (store.artifacts / "files").rglob("*") if path.is_file()}
    assert {"a.json", "b.txt"} <= found
    assert open_store(None, store.artifacts.parent) is store
