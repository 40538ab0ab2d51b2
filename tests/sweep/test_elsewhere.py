"""The same sweep through Hydra's other launchers: the same keys, twins, parent run and table of failures."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from graft.cli import main
from graft.track.reader import read_experiment
from graft.track.store import open_store

#: Real processes, each of which takes long to start on a machine that has other work.
pytestmark = pytest.mark.timeout(1200)

LAUNCHERS = {
    "joblib": ("hydra_joblib_launcher", ["hydra.launcher.n_jobs=2"]),
    "submitit_local": ("hydra_submitit_launcher", ["hydra.launcher.timeout_min=10"]),
    "ray": ("hydra_ray_launcher", ["+hydra.launcher.ray.init.num_cpus=2"]),
}
SMALL = (
    "data.image_size=12", "data.val_labels_per_class=1", "data.test_size=40",
    "trainer=smoke", "trainer.accelerator=cpu", "checkpoint.keep=none",
)  # fmt: skip


def is_installed(launcher: str) -> bool:
    return importlib.util.find_spec(f"hydra_plugins.{LAUNCHERS[launcher][0]}") is not None


@pytest.mark.parametrize(
    ("launcher", "extra"), [("joblib", "joblib"), ("submitit_slurm", "slurm"), ("ray", "ray")]
)
def test_a_plug_in_that_is_missing_is_named_with_its_extra(launcher, extra, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["train", "-m", f"hydra/launcher={launcher}", "seed=0,1"]) == 2
    assert f"pip install 'graft-transfer[{extra}]'" in capsys.readouterr().err


def test_jobs_are_runs_of_the_sweep(tmp_path, capsys):
    """Hydra's own launcher executes its jobs in this process."""
    arms = ["data.labels_per_class=2,500", "seed=0"]
    words = ["train", "-m", "hydra/launcher=basic", *arms, *SMALL, f"paths.root={tmp_path}/runs"]
    assert main(words) == 1
    told, complained = capsys.readouterr()
    assert "1 runs did not finish" in told
    assert "Traceback" not in told + complained
    store = open_store(None, tmp_path / "runs")
    records = read_experiment(store, "default")
    assert sorted(record.status for record in records) == ["failed", "finished"], "a failing run is a row"
    (record,) = (record for record in records if record.status == "finished")
    parents = store.client.search_runs([store.experiment_id("default")], "tags.`graft.kind` = 'sweep'")
    assert [parent.info.status for parent in parents] == ["FAILED"]
    tags = store.client.get_run(record.run_id).data.tags
    assert tags["mlflow.parentRunId"] == parents[0].info.run_id
    assert main(["train", "-m", *arms, *SMALL, "sweep.dry_run=true", f"paths.root={tmp_path}/runs"]) == 0
    assert "2 runs, 1 done already" in capsys.readouterr().out, "the same keys as through graft's launcher"


@pytest.mark.full
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_sweep_through_another_launcher(launcher, tmp_path):
    if not is_installed(launcher):
        pytest.skip(f"the plug-in of hydra/launcher={launcher} is not installed")
    words = [f"hydra/launcher={launcher}", *LAUNCHERS[launcher][1], *SMALL, f"paths.root={tmp_path}/runs"]
    # There are not five hundred images of a class: those runs fail when they draw their images.
    arms = ["-m", "data.labels_per_class=2,500", "seed=0,1"]
    command = [sys.executable, "-m", "graft", "train", *arms, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=tmp_path)
    assert "4 runs, 0 done already" in done.stdout, done.stderr
    store = open_store(None, tmp_path / "runs")
    records = read_experiment(store, "default")
    assert len(records) == 4
    finished = [record for record in records if record.status == "finished"]
    assert {record.seed for record in finished} == {0, 1}
    parents = store.client.search_runs([store.experiment_id("default")], "tags.`graft.kind` = 'sweep'")
    assert len(parents) == 1
    for record in records:
        tags = store.client.get_run(record.run_id).data.tags
        assert tags["mlflow.parentRunId"] == parents[0].info.run_id
    assert done.returncode == 1
    assert len(finished) == 2
    assert "2 runs did not finish" in done.stdout
    assert "labels_per_class=500" in done.stdout, "the commands that repeat them"
    again = subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=tmp_path)
    assert f"4 runs, {len(finished)} done already" in again.stdout
    assert len(read_experiment(store, "default")) == 4
