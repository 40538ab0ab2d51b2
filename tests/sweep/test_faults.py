"""A run that falls, however it does, ends alone: it is recorded with its reason, and the sweep goes on."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from graft.config.load import conf_folder, register_schema, to_config
from graft.sweep.nodes import register_plugins
from graft.track.reader import read_experiment
from graft.track.record import RunRecord
from graft.track.store import Store, open_store

#: Real processes, each of which takes long to start on a machine that has other work.
pytestmark = pytest.mark.timeout(1200)


def read(root: Path) -> tuple[Store, dict[str, RunRecord]]:
    """Return the runs under ``root`` by fault; each has one record."""
    store = open_store(None, root)
    records = read_experiment(store, "default")
    parent = store.client.search_runs([store.experiment_id("default")], "tags.`graft.kind` = 'run'")
    assert len(parent) == len(records), "one record for each run, however often it was tried"
    return store, {record.arm.backbone.removeprefix("faulty_"): record for record in records}


def log_of(store: Store, record: RunRecord, folder: Path) -> str:
    return Path(store.client.download_artifacts(record.run_id, "log.txt", str(folder))).read_text()


def ask(*faults: str) -> list[str]:
    return ["-m", "backbone.name=" + ",".join(f"faulty_{fault}" for fault in faults)]


def test_a_run_that_falls_ends_alone(graft_train, tmp_path: Path) -> None:
    done = graft_train(*ask("exit", "raise", "memory", "kill_once", "none"), "sweep.retries=1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    store, records = read(graft_train.root)
    statuses = {fault: record.status for fault, record in records.items()}
    assert statuses == {
        "exit": "failed", "raise": "failed", "memory": "failed", "kill_once": "finished", "none": "finished"
    }  # fmt: skip
    assert records["exit"].notes["reason"] == "its process exited with code 3"
    assert "ValueError: no more" in records["raise"].notes["reason"]
    assert "Try a smaller `data.batch_size`" in records["memory"].notes["reason"]
    assert records["kill_once"].notes["retried"] == "its process was ended by SIGKILL"
    assert "about to exit" in log_of(store, records["exit"], tmp_path)
    assert log_of(store, records["raise"], tmp_path).endswith("ValueError: no more")
    assert "tried again" in done.stdout
    assert "trainer.accumulate 1 -> 2" in done.stdout
    assert "3 runs did not finish" in done.stdout
    parents = store.client.search_runs([store.experiment_id("default")], "tags.`graft.kind` = 'sweep'")
    assert [parent.info.status for parent in parents] == ["FAILED"]
    assert not list((graft_train.root / "logs").iterdir())
    assert len(list((graft_train.root / "locks").iterdir())) <= 3, "finished runs leave no lock behind"
    check_commands(done.stdout, {"exit", "raise", "memory"})


def check_commands(told: str, faults: set[str]) -> None:
    """Check that there is a command for each run that failed, and that it composes just this run."""
    commands = re.findall(r"^  (graft train .*)$", told, flags=re.MULTILINE)
    register_schema()
    register_plugins()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        configs = [to_config(compose("train", overrides=shlex.split(text)[2:])) for text in commands]
    assert sorted(config.backbone.name for config in configs) == sorted(f"faulty_{fault}" for fault in faults)
    assert all(config.trainer.limit_batches == 2 and config.data.image_size == 12 for config in configs)


@pytest.mark.full
def test_crashes_and_hangs(graft_train, tmp_path: Path) -> None:
    faults = ("kill", "segfault", "sleep", "freeze", "freeze_once", "memory_once", "none")
    done = graft_train(
        *ask(*faults), "sweep.retries=1", "sweep.run_timeout=60", "sweep.workers=2", timeout=900
    )
    assert done.returncode == 1, done.stdout + done.stderr
    store, records = read(graft_train.root)
    reasons = {
        fault: record.notes["reason"] for fault, record in records.items() if record.status == "failed"
    }
    hung = "it hung: not finished after sweep.run_timeout=60 s"
    assert reasons == {
        "kill": "its process was ended by SIGKILL",
        "segfault": "its process was ended by SIGSEGV",
        "sleep": hung, "freeze": hung, "freeze_once": hung,
    }  # fmt: skip
    assert records["memory_once"].status == records["none"].status == "finished"
    assert "trainer.accumulate 1 -> 2" in records["memory_once"].notes["retried"]
    assert "about to segfault" in log_of(store, records["segfault"], tmp_path)
    again = graft_train(
        *ask(*faults), "sweep.retries=0", "sweep.run_timeout=60", "sweep.workers=2", timeout=900
    )
    assert "7 runs, 2 done already" in again.stdout
    now = {record.arm.backbone: record.status for record in read_experiment(store, "default")}
    assert now["faulty_freeze_once"] == "finished", "what failed is asked for again"
