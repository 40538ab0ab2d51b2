"""One run key, one MLflow run, however often it is interrupted."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from graft.errors import DivergedError, GraftError, RunInterrupted, StoreAwayError
from graft.plan.spec import RunSpec
from graft.track.closing import close_run
from graft.track.reader import find_finished, read_experiment
from graft.track.store import Store
from graft.track.writer import RunWriter, recording, start_run, start_sweep

Plan = Callable[..., RunSpec]

STEPS = (2, 4, 6, 8)


def train(writer: RunWriter, until: int, first: int = 0) -> None:
    """Record as training does: the last number of a metric is that of its last validation."""
    for step in STEPS:
        if first < step <= until:
            writer.record({"val/accuracy": step / 10, "train/loss": 1 / step}, step)


def conclude(writer: RunWriter, seconds: float) -> None:
    writer.conclude({"val/accuracy": 0.6, "test/accuracy": 0.5, "train_seconds": seconds}, STEPS[-1])


def interrupt(store: Store, spec: RunSpec, error: BaseException, until: int, **rest: Any) -> str:
    held: list[RunWriter] = []

    def run_into_it() -> None:
        with recording(store, spec, rest.get("parent_id"), {"note": "first"}) as writer:
            assert writer is not None
            held.append(writer)
            train(writer, until)
            if rest.get("concluded"):
                conclude(writer, 1.0)
            raise error

    with pytest.raises(type(error)):
        run_into_it()
    return held[0].run_id


@pytest.mark.parametrize(
    "error",
    [RunInterrupted(signal.SIGTERM), KeyboardInterrupt(), SystemExit(143), StoreAwayError("away")],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("checkpoint", [0, 4])
def test_an_interrupted_run_goes_on_in_the_same_run(
    store: Store, plan: Plan, error: BaseException, checkpoint: int
) -> None:
    spec = plan(f"resume{type(error).__name__}{checkpoint}", seed=checkpoint)
    first = interrupt(store, spec, error, until=6)
    with recording(store, spec, "1" * 32, {"note": "second"}) as writer:
        assert writer is not None
        assert writer.run_id == first
        running = store.client.get_run(first)
        assert running.info.status == "RUNNING"
        assert running.data.tags["graft.status"] == "running"
        assert running.data.tags["graft.note"] == "second"
        assert running.data.tags["graft.resumed"] == "1"
        assert running.data.tags["mlflow.parentRunId"] == "1" * 32
        assert not {"graft.reason", "graft.transient"} & set(running.data.tags)
        train(writer, until=8, first=checkpoint)
        conclude(writer, 2.0)
    run = store.client.get_run(first)
    assert (run.info.status, run.data.tags["graft.status"]) == ("FINISHED", "finished")
    history = store.client.get_metric_history(first, "val/accuracy")
    assert [point.step for point in history] == [2, 4, 6, 8, 8], "the second 8 is the chosen one"
    losses = [point.step for point in store.client.get_metric_history(first, "train/loss")]
    assert losses == list(STEPS)
    assert run.data.metrics["val/accuracy"] == 0.6
    assert find_finished(store, spec.key, "accuracy") == 0.6
    assert len(read_experiment(store, spec.config.tracking.experiment)) == 1


def test_a_run_killed_after_its_conclusion_is_not_concluded_twice(store: Store, plan: Plan) -> None:
    spec = plan("concluded")
    first = interrupt(store, spec, KeyboardInterrupt(), until=8, concluded=True)
    with recording(store, spec, None, {}) as writer:
        assert writer is not None
        train(writer, until=8)
        conclude(writer, 9.0)
    history = store.client.get_metric_history(first, "val/accuracy")
    assert Counter(point.step for point in history) == {2: 1, 4: 1, 6: 1, 8: 2}
    assert store.client.get_run(first).data.metrics["val/accuracy"] == 0.6
    assert [point.value for point in store.client.get_metric_history(first, "train_seconds")] == [1.0]


@pytest.mark.parametrize("error", [ValueError("no"), GraftError("no"), DivergedError("nan")])
def test_a_failure_of_its_own_gets_a_new_run(store: Store, plan: Plan, error: BaseException) -> None:
    spec = plan(f"own{type(error).__name__}")
    first = interrupt(store, spec, error, until=4)
    with recording(store, spec, None, {}) as writer:
        assert writer is not None
        assert writer.run_id != first
    assert store.client.get_run(first).info.status == "FAILED"


def test_a_finished_run_is_never_opened_again(store: Store, plan: Plan) -> None:
    with recording(store, plan("done"), None, {}) as first:
        pass
    with recording(store, plan("done"), None, {}) as second:
        pass
    assert first is not None
    assert second is not None
    assert first.run_id != second.run_id


def test_a_running_run_is_left_to_its_process(store: Store, plan: Plan) -> None:
    living = start_run(store, plan("living"), parent_id=None, notes={})
    with recording(store, plan("living"), None, {}) as writer:
        assert writer is not None
        assert writer.run_id != living.run_id
    living.end("finished")


def test_a_run_of_a_dead_process_is_gone_on_with(store: Store, plan: Plan) -> None:
    dead = start_run(store, plan("dead"), parent_id="2" * 32, notes={})
    mark = store.client.get_run(dead.run_id).data.tags["graft.process"]
    store.client.set_tag(dead.run_id, "graft.process", mark.rpartition("/")[0] + "/1")
    with recording(store, plan("dead"), None, {}) as writer:
        assert writer is not None
        assert writer.run_id == dead.run_id
        tags = store.client.get_run(dead.run_id).data.tags
        assert tags["graft.process"] == mark, "it is this process's now"
        assert tags["mlflow.parentRunId"] == "2" * 32, "nobody claimed it"


def test_a_transient_failure_that_the_driver_saw(store: Store, plan: Plan) -> None:
    lost = start_run(store, plan("transient"), parent_id=None, notes={})
    close_run(store, lost.run_id, "failed", "killed by signal 9", "the last words\n", transient=True)
    run = store.client.get_run(lost.run_id)
    assert (run.info.status, run.data.tags["graft.reason"]) == ("FAILED", "killed by signal 9")
    with recording(store, plan("transient"), None, {}) as writer:
        assert writer is not None
        assert writer.run_id == lost.run_id


def test_a_parameter_that_has_changed_keeps_its_first_value(store: Store, plan: Plan) -> None:
    """MLflow refuses a change; `accumulate` may change, because it does not change the result."""
    spec = plan("params", trainer={"accumulate": 1})
    first = interrupt(store, spec, KeyboardInterrupt(), until=2)
    again = plan("params", trainer={"accumulate": 2})
    assert again.key == spec.key
    with recording(store, again, None, {}) as writer:
        assert writer is not None
        assert writer.run_id == first
    assert store.client.get_run(first).data.params["trainer.accumulate"] == "1"


def test_an_interrupted_sweep_is_the_same_sweep(store: Store, plan: Plan) -> None:
    specs = [plan("sweeps", seed=seed) for seed in range(2)]
    parent = start_sweep(store, "sweeps", specs, "graft train -m seed=0,1")
    parent.end("killed", "interrupted")
    again = start_sweep(store, "sweeps", specs, "graft train -m seed=1,0")
    assert again.run_id == parent.run_id
    tags = store.client.get_run(again.run_id).data.tags
    assert tags["graft.command"] == "graft train -m seed=1,0"
    assert tags["graft.status"] == "running"
    again.end("finished")


def test_a_heart_beats_while_a_run_is_under_way(
    store: Store, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    monkeypatch.setattr("graft.track.heartbeat._BEAT_SECONDS", 0.05)
    writer = start_run(store, plan("beats"), parent_id=None, notes={})
    store.client.set_tag(writer.run_id, "graft.heartbeat", "0")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        beat = float(store.client.get_run(writer.run_id).data.tags["graft.heartbeat"])
        if beat:
            break
        time.sleep(0.05)
    assert abs(beat - time.time()) < 30
    writer.end("finished")


def test_a_failed_run_whose_checkpoint_is_used_goes_on_in_its_own_record(store: Store, plan: Plan) -> None:
    spec = plan()
    failed = interrupt(store, spec, ValueError("no space"), until=4)
    with recording(store, spec, None, {}, goes_on=True) as writer:
        assert writer is not None
        assert writer.run_id == failed
        train(writer, 8, first=4)
    steps = [point.step for point in store.client.get_metric_history(failed, "train/loss")]
    assert steps == list(STEPS)
    interrupt(store, plan(seed=7), ValueError("no space"), until=4)
    with recording(store, plan(seed=7), None, {}) as writer:
        assert writer is not None
        assert writer.run_id != failed
