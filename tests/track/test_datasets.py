"""Runs name their data in the dashboard."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from graft.plan.spec import RunSpec
from graft.track.store import Store
from graft.track.writer import start_run, start_sweep

Plan = Callable[..., RunSpec]


def test_a_run_and_its_sweep_name_the_data_once(store: Store, plan: Plan) -> None:
    specs = [plan("datasets", seed=seed) for seed in range(3)]
    parent = start_sweep(store, "datasets", specs, "graft train -m")
    child = start_run(store, specs[0], parent_id=parent.run_id, notes={})
    for run_id in (parent.run_id, child.run_id):
        (found,) = store.client.get_run(run_id).inputs.dataset_inputs
        assert (found.dataset.name, found.dataset.digest) == ("digits", "d" * 36)
        assert json.loads(found.dataset.profile) == {"sha256": "d" * 64}
        assert json.loads(found.dataset.source) == {"name": "digits"}
    for writer in (child, parent):
        writer.end("finished")


def test_a_store_that_does_not_take_it_stops_no_run(
    store: Store, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException

    def refuse(*_: object) -> None:
        raise MlflowException("no such endpoint")

    monkeypatch.setattr(store.client, "log_inputs", refuse)
    monkeypatch.setattr("graft.track.away.time.sleep", lambda seconds: None)
    writer = start_run(store, plan("datasets", seed=9), parent_id=None, notes={})
    writer.end("finished")
    assert store.client.get_run(writer.run_id).info.status == "FINISHED"
