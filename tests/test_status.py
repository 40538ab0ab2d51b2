"""`graft status`: read without MLflow where that is possible, and the same either way."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from graft.cli import main
from graft.config.schema import Config
from graft.plan.spec import Facts, RunSpec, specify
from graft.track import overview
from graft.track.overview import look, read_plans, summarise
from graft.track.store import Store, open_store
from graft.track.writer import start_run, start_sweep

PREPROCESSING = {
    "channels": 1, "size": 16, "resize": None, "interpolation": "bilinear", "antialias": True,
    "mean": [0.5], "std": [0.5],
}  # fmt: skip


def plan(build_config: Callable[..., Config], experiment: str, seed: int) -> RunSpec:
    facts = Facts("d" * 64, (), None, "none", PREPROCESSING, "32")
    return specify(build_config({"tracking.experiment": experiment, "seed": seed}), facts)


@pytest.fixture(scope="module", autouse=True)
def no_heartbeats() -> Iterator[None]:
    """Let no thread of a run that is left open work beside the tests after it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("graft.track.heartbeat._BEAT_SECONDS", 1e6)
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, build_config: Callable[..., Config]) -> Store:
    """A sweep with a run in every state, a second sweep that shares one, and a run of its own."""
    store = open_store(None, tmp_path_factory.mktemp("status"))
    specs = [plan(build_config, "first", seed) for seed in range(8)]
    parent = start_sweep(store, "first", specs, "graft train -m seed='range(8)'")
    for spec, status in zip(specs, ("finished", "finished", "failed", "diverged", "killed"), strict=False):
        writer = start_run(store, spec, parent_id=parent.run_id, notes={})
        writer.end(status, "" if status == "finished" else f"[{status}] for a reason\nand more")
    start_run(store, specs[5], parent_id=parent.run_id, notes={})
    lost = start_run(store, specs[6], parent_id=parent.run_id, notes={})
    mark = store.client.get_run(lost.run_id).data.tags["graft.process"]
    store.client.set_tag(lost.run_id, "graft.process", mark.rpartition("/")[0] + "/7")
    start_sweep(store, "second", specs[:1], "graft train -m seed=0,1").end("finished")
    start_run(store, plan(build_config, "third", 9), parent_id=None, notes={}).end("failed", "alone")
    again = start_run(store, specs[2], parent_id=None, notes={})  # tried again, and failed again
    again.end("failed", "[failed] the second time")
    return store


def show(store: Store, *words: str) -> int:
    return main(["status", f"paths.root={store.root}", *words])


def read_json(store: Store, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert show(store, "--json", *words) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_counts_of_a_sweep(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    found = read_json(store, capsys)
    by_name = {sweep["experiment"]: sweep for sweep in found["sweeps"]}
    counts = {state: by_name["first"][state] for state in overview.STATES}
    assert counts == {
        "finished": 2, "running": 1, "lost": 1, "failed": 1, "diverged": 1, "killed": 1, "pruned": 0,
            "waiting": 1,
    }  # fmt: skip
    assert by_name["first"]["command"] == "graft train -m seed='range(8)'"
    assert (by_name["first"]["state"], by_name["second"]["state"]) == ("running", "finished")
    assert by_name["second"]["finished"] == 1, "a run of another experiment serves it"
    states = [run["state"] for run in found["unfinished"]]
    assert sorted(states) == ["diverged", "failed", "failed", "killed", "lost", "running"]
    reasons = {run["state"]: run["reason"] for run in found["unfinished"] if run["experiment"] == "first"}
    assert reasons["failed"] == "[failed] the second time", "the newest of a key"
    running = next(run for run in found["unfinished"] if run["state"] == "running")
    assert 0 <= running["heartbeat_age_seconds"] < 600
    assert found["unsent"] == []


def test_one_experiment(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    found = read_json(store, capsys, "third")
    assert found["sweeps"] == []
    assert [run["reason"] for run in found["unfinished"]] == ["alone"]
    assert show(store, "thirt") == 2
    assert "Did you mean 'third'?" in capsys.readouterr().err


def test_the_table_for_people(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert show(store) == 0
    said = capsys.readouterr().out
    for words in (
        "Sweeps",
        "Not finished",
        "waiting",
        "[killed] for a reason",
        "s ago",
        "lost = its process is gone",
    ):
        assert words in said
    assert "and more" not in said


def test_mlflow_itself_says_the_same(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables are read directly; should they ever change, MLflow is asked."""

    def other_tables(file: Path) -> Any:
        import sqlite3

        raise sqlite3.OperationalError("no such column")

    direct = look(None, store.root)
    monkeypatch.setattr(overview, "look_into", other_tables)
    asked = look(None, store.root)
    assert len(direct) == 11
    assert sorted(direct, key=lambda seen: seen.run_id) == sorted(asked, key=lambda seen: seen.run_id)
    plans = read_plans(asked, None, store.root)
    assert summarise(direct, plans, None)[0][0].counts == summarise(asked, plans, None)[0][0].counts


def test_reaping_closes_what_is_lost(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(store, "--reap") == 0
    assert "1 runs whose process is gone were closed as killed." in capsys.readouterr().out
    found = read_json(store, capsys, "first")
    assert (found["sweeps"][0]["killed"], found["sweeps"][0]["lost"]) == (2, 0)
    assert found["sweeps"][0]["running"] == 1, "never a living one"


def test_what_waits_is_sent(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = store.client.create_run(store.experiment_id("first"), tags={"graft.kind": "run"}).info.run_id
    folder = store.root / "unsent" / run_id
    folder.mkdir(parents=True)
    (folder / "journal.jsonl").write_text('{"kind": "end", "content": {"status": "FINISHED", "time": 1}}\n')
    assert read_json(store, capsys)["unsent"] == []
    assert store.client.get_run(run_id).info.status == "FINISHED"
    store.client.delete_run(run_id)


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["--jsn"], "Expected `option` to be one of: --json, "),
        (["--stale=soon"], "Expected `--stale=<seconds>`, such as --stale=600, but got '--stale=soon'."),
        (["a", "b"], "Expected one experiment, but got 2: a, b."),
        ([f"paths.root={tmp_path}/none"], "there is no such folder. Start with: graft train"),
    ):
        assert main(["status", *words]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_thousand_runs(
    tmp_path: Path, build_config: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    """Printed, not asserted tightly: what a person waits for, the start of Python included."""
    store = open_store(None, tmp_path)
    specs = [plan(build_config, "many", seed) for seed in range(1000)]
    start_sweep(store, "many", specs, "graft train -m seed='range(1000)'").end("finished")
    for spec in specs[:990]:
        start_run(store, spec, parent_id=None, notes={}).end("finished")
    started = time.perf_counter()
    command = [sys.executable, "-m", "graft", "status", "--json", f"paths.root={tmp_path}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    seconds = time.perf_counter() - started
    with capsys.disabled():
        print(f"\ngraft status with 1,000 runs: {seconds:.2f} s")
    assert json.loads(said)["sweeps"][0]["finished"] == 990
    assert json.loads(said)["sweeps"][0]["waiting"] == 10
    assert seconds < 20


def test_a_database_that_is_not_there_is_said_and_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "deep" / "x.db"
    assert main(["status", f"tracking.uri=sqlite:///{missing}", f"paths.root={tmp_path}"]) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert not missing.parent.exists()
