from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from graft.errors import GraftError
from graft.plan.replicates import Replicate
from graft.plan.spec import RunSpec
from graft.track.reader import (
    finished_runs,
    last_experiment,
    read_class_names,
    read_experiment,
    read_run,
)  # fmt: skip
from graft.track.store import Store, open_store
from graft.track.writer import recording, start_run, start_sweep

Plan = Callable[..., RunSpec]


def finish(store: Store, spec: RunSpec, parent: str | None = None, **metrics: float) -> str:
    with recording(store, spec, parent, {"reason": "none"}) as writer:
        assert writer is not None
        writer.record({key.replace("_", "/", 1): value for key, value in metrics.items()}, 1)
    return writer.run_id


def fail(store: Store, spec: RunSpec) -> str:
    writer = start_run(store, spec, parent_id=None, notes={})
    writer.end("failed", "ValueError: no")
    return writer.run_id


def test_a_record_is_what_was_written(store: Store, plan: Plan) -> None:
    spec = plan("record", seed=4, data={"name": "digits", "labels_per_class": 5})
    record = read_run(store, finish(store, spec, val_accuracy=0.75))
    assert (record.run_key, record.arm, record.trial) == (spec.key, spec.arm, spec.trial)
    assert (record.condition, record.labels, record.seed) == (spec.condition, "5", 4)
    assert (record.status, record.data) == ("finished", "digits")
    assert record.metrics == {"val/accuracy": 0.75}
    assert record.notes["reason"] == "none"
    assert record.notes["metric"] == "accuracy"


@pytest.mark.parametrize("status", ["finished", "failed", "killed", "diverged"])
def test_every_status_is_read_back(store: Store, plan: Plan, status: str) -> None:
    writer = start_run(store, plan("statuses"), parent_id=None, notes={})
    assert read_run(store, writer.run_id).status == "running"
    writer.end(status, "")
    assert read_run(store, writer.run_id).status == status


def test_only_finished_runs_are_finished(store: Store, plan: Plan) -> None:
    done, failed, running, deleted = (plan("ends", seed=seed) for seed in range(4))
    identity = finish(store, done)
    fail(store, failed)
    start_run(store, running, parent_id=None, notes={})
    store.client.delete_run(finish(store, deleted))
    found = finished_runs(store)
    assert found[done.key] == identity
    assert not {failed.key, running.key, deleted.key} & set(found)


def test_a_sweep_finds_its_runs_in_other_experiments(store: Store, plan: Plan) -> None:
    shared, own, stranger = plan("first", seed=0), plan("second", seed=1), plan("first", seed=2)
    finish(store, shared, val_accuracy=0.5)
    finish(store, stranger)
    parent = start_sweep(store, "second", [shared, own], "")
    finish(store, own, parent.run_id)
    parent.end("finished")
    by_name = read_experiment(store, "second")
    assert {record.run_key for record in by_name} == {shared.key, own.key}
    assert {record.experiment for record in by_name} == {"first", "second"}
    assert by_name[0].metrics or by_name[1].metrics
    by_id = read_experiment(store, parent.run_id)
    assert {record.run_id for record in by_id} == {record.run_id for record in by_name}
    assert {record.run_key for record in read_experiment(store, "first")} == {shared.key, stranger.key}


def test_the_finished_run_of_a_key_stands_for_it(store: Store, plan: Plan) -> None:
    one, two = plan("latest", seed=0), plan("latest", seed=1)
    fail(store, one)
    first = finish(store, one)
    fail(store, one)
    fail(store, two)
    newest = fail(store, two)
    found = {record.run_key: record for record in read_experiment(store, "latest")}
    assert (found[one.key].run_id, found[one.key].status) == (first, "finished")
    assert (found[two.key].run_id, found[two.key].status) == (newest, "failed")
    assert found[two.key].notes["reason"] == "ValueError: no"


def test_more_runs_than_a_page_are_all_read(
    store: Store, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [plan("pages", seed=seed) for seed in range(7)]
    for spec in specs:
        finish(store, spec)
    monkeypatch.setattr("graft.track.reader._PAGE", 3)
    assert len(read_experiment(store, "pages")) == 7
    assert {spec.key for spec in specs} <= set(finished_runs(store))


def test_an_unknown_experiment_is_answered_with_the_nearest(store: Store, plan: Plan) -> None:
    finish(store, plan("digits_transfer"))
    with pytest.raises(
        GraftError, match=r"Expected `experiment` to be one of: digits_transfer, .*'digit_transfer'"
    ):
        read_experiment(store, "digit_transfer")


def test_a_single_run_is_no_sweep(store: Store, plan: Plan) -> None:
    identity = finish(store, plan("single"))
    with pytest.raises(
        GraftError, match=f"Expected the parent run of a sweep, but '{identity}' is a single run"
    ):
        read_experiment(store, identity)


def test_a_plan_that_is_gone_is_named(store: Store, plan: Plan) -> None:
    parent = start_sweep(store, "gone", [plan("gone")], "")
    assert store.artifacts is not None
    next((store.artifacts / "gone").rglob("plan.json")).unlink()
    with pytest.raises(GraftError, match=f"plan.json.*{parent.run_id}"):
        read_experiment(store, "gone")


def test_class_names_are_read_back(store: Store, plan: Plan) -> None:
    writer = start_run(store, plan("classes"), parent_id=None, notes={})
    assert read_class_names(store, writer.run_id) == ()
    writer.log_json({"class_names": ["a", "b"], "counts": [[3, 1], [0, 4]]}, "confusion.json")
    assert read_class_names(store, writer.run_id) == ("a", "b")


def test_the_last_experiment_is_the_one_of_the_newest_run(tmp_path: Path, database: Path, plan: Plan) -> None:
    shutil.copy(database, tmp_path)
    fresh = open_store(None, tmp_path)
    with pytest.raises(GraftError, match=r"Expected at least one run in sqlite.*Start with: graft train"):
        last_experiment(fresh)
    finish(fresh, plan("one"))
    finish(fresh, plan("two"))
    assert last_experiment(fresh) == "two"
    finish(fresh, plan("one", seed=9))
    assert last_experiment(fresh) == "one"


def test_a_fold_is_read_back(store: Store, plan: Plan) -> None:
    data = {"name": "digits", "folds": 5, "fold": 3, "fold_repeat": 1}
    spec = plan("folds", seed=2, data=data)
    run_id = finish(store, spec)
    record = read_run(store, run_id)
    assert (record.replicate, record.folds, record.seed) == (Replicate(2, 1, 3), 5, 2)
    assert not {"replicate", "folds", "seed"} & set(record.notes)
    assert store.client.get_run(run_id).info.run_name.endswith("seed 2, repeat 1, fold 3")
    plain = finish(store, plan("folds", seed=4))
    store.client.delete_tag(plain, "graft.replicate")  # as runs from before there were folds
    assert (read_run(store, plain).replicate, read_run(store, plain).folds) == (Replicate(4), None)
