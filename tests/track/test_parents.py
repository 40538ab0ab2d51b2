from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from graft.errors import GraftError
from graft.plan.spec import RunSpec
from graft.track.parents import Parent, publish_report, read_parents
from graft.track.reader import count_ahead, read_experiment
from graft.track.store import Store
from graft.track.views import save_views
from graft.track.writer import recording, start_sweep

Plan = Callable[..., RunSpec]


def test_parents_say_what_was_asked_for(store: Store, plan: Plan) -> None:
    first = start_sweep(store, "parents", [plan("parents")], "graft train -m seed=0")
    second = start_sweep(store, "parents", [plan("parents", seed=1)], "graft train -m seed=1")
    found = read_parents(store, "parents")
    assert {(one.run_id, one.command) for one in found} == {
        (first.run_id, "graft train -m seed=0"),
        (second.run_id, "graft train -m seed=1"),
    }
    assert read_parents(store, first.run_id)[0].command == "graft train -m seed=0"
    with pytest.raises(GraftError, match=r"`experiment` to be one of: .*parents"):
        read_parents(store, "parrents")


def test_a_parent_carries_the_verdict(store: Store, plan: Plan, tmp_path: Path) -> None:
    parent = start_sweep(store, "carries", [plan("carries")], "")
    home = store.experiment_id("carries")
    (tmp_path / "figures").mkdir()
    for name in ("index.html", "figures/curve.png"):
        (tmp_path / name).write_text(name)
    for _ in range(2):
        numbers = {"gain/fine-tune/2": 0.125, "gain/fine-tune/2/low": float("nan")}
        text = "Transfer **helps**.\n" * 1000
        publish_report(
            store, [Parent(parent.run_id, home, "")], text, numbers, tmp_path, ["2", "30%"], "macro_f1"
        )
    run = store.client.get_run(parent.run_id)
    said = run.data.tags["mlflow.note.content"]
    link = f"(#/experiments/{home}/runs?workflowType=machine_learning&viewStateShareKey=graft-"
    assert said.startswith(
        f"The chosen runs, side by side, by labels: [2]{link}2), [30%]{link}30percent)\n\nTransfer"
    )
    assert 7900 < len(said) <= 8000
    assert said.endswith("helps**.\n\nMore in the report, among the artifacts: `report/index.html`.\n")
    assert run.data.metrics == {"gain/fine-tune/2": 0.125}
    assert [one.path for one in store.client.list_artifacts(parent.run_id, "report")] == [
        "report/figures",
        "report/index.html",
    ]
    view = json.loads(store.client.get_experiment(home).tags["mlflow.sharedViewState.graft-30percent"])
    assert view["searchFilter"].endswith("tags.`graft.labels` = '30%'")
    assert view["orderByKey"] == "metrics.`test/macro_f1`" == view["selectedColumns"][0]
    assert not view["orderByAsc"]
    save_views(store, home, ["2"], "nll")  # the lower the better
    assert json.loads(store.client.get_experiment(home).tags["mlflow.sharedViewState.graft-2"])["orderByAsc"]
    store.client.search_runs([home], view["searchFilter"], order_by=[f"{view['orderByKey']} DESC"])


def test_a_gain_that_is_no_longer_said_is_no_number(store: Store, plan: Plan, tmp_path: Path) -> None:
    """MLflow deletes no metric: an old number beside the new ones would mislead."""
    writer = start_sweep(store, "renamed", [plan("renamed")], "")
    parent = Parent(writer.run_id, store.experiment_id("renamed"), "")
    store.client.log_metric(parent.run_id, "seconds", 3.0)

    def publish(numbers: dict[str, float]) -> dict[str, float]:
        publish_report(store, [parent], "Short.\n", numbers, tmp_path, [], "accuracy")
        return dict(store.client.get_run(parent.run_id).data.metrics)

    assert publish({"gain/a/2": 0.5, "gain/a/2/low": 0.1}) == {
        "gain/a/2": 0.5, "gain/a/2/low": 0.1, "seconds": 3.0,
    }  # fmt: skip
    many = {f"gain/b/{labels}": 0.25 for labels in range(1500)}
    found = publish({"gain/a/2": 0.5, "gain/a/2/low": math.nan} | many)
    assert (found["gain/a/2"], found["gain/b/1499"], found["seconds"]) == (0.5, 0.25, 3.0)
    assert math.isnan(found["gain/a/2/low"])
    assert len(store.client.get_metric_history(parent.run_id, "gain/a/2/low")) == 2
    found = publish({"gain/a/2/low": 0.2})
    assert found["gain/a/2/low"] == 0.2
    assert all(math.isnan(found[key]) for key in ("gain/a/2", "gain/b/0", "gain/b/1499"))
    assert "More in the report" not in store.client.get_run(parent.run_id).data.tags["mlflow.note.content"]


def test_what_a_sweep_has_still_to_do_is_counted(store: Store, plan: Plan) -> None:
    specs = [plan("ahead", seed=seed) for seed in range(3)]
    start_sweep(store, "ahead", specs, "")
    assert count_ahead(store, "ahead", []) == 3
    with recording(store, specs[0], None, {}):
        assert count_ahead(store, "ahead", read_experiment(store, "ahead")) == 3  # it is running
    assert count_ahead(store, "ahead", read_experiment(store, "ahead")) == 2
