from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from graft.errors import GraftError
from graft.plan.spec import RunSpec
from graft.track.parents import Parent, publish_report, read_parents
from graft.track.store import Store
from graft.track.writer import start_sweep

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
    (tmp_path / "figures").mkdir()
    for name in ("index.html", "figures/curve.png"):
        (tmp_path / name).write_text(name)
    for _ in range(2):
        numbers = {"gain/fine-tune/2": 0.125, "gain/fine-tune/2/low": float("nan")}
        publish_report(
            store, [Parent(parent.run_id, "7", "")], "Transfer **helps**. " * 1000, numbers, tmp_path
        )
    run = store.client.get_run(parent.run_id)
    said = run.data.tags["mlflow.note.content"]
    assert said.startswith("[The chosen runs, side by side](#/experiments/7/runs?searchFilter=tags.")
    assert ")\n\nTransfer **helps**." in said
    assert run.data.metrics == {"gain/fine-tune/2": 0.125}
    assert [one.path for one in store.client.list_artifacts(parent.run_id, "report")] == [
        "report/figures",
        "report/index.html",
    ]
