"""`graft train`, killed for real and asked again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from graft.cli import main
from graft.track.store import Store, open_store

WORDS = (
    "train", "data.labels_per_class=10", "data.test_size=300", "data.image_size=8", "backbone=small_cnn",
    "head=mlp", "head.dropout=0.5", "augment=flip_crop", "trainer.min_steps=240", "trainer.max_validations=6",
    "trainer.accelerator=cpu", "trainer.threads=1", "checkpoint.keep=all",
)  # fmt: skip


def command(root: Path, more: Sequence[str] = ()) -> list[str]:
    return [*WORDS, *more, f"paths.root={root}"]


def newest(root: Path) -> int:
    """Return the number of the newest checkpoint, 0 before the first."""
    found = [int(path.name.partition("-")[0]) for path in root.glob("resume/*/*.safetensors")]
    return max((number for number in found), default=0)


def end_midway(root: Path, signum: int, words: Sequence[str]) -> int:
    """Start the command, send it a signal after its next checkpoints, and return its exit code."""
    before = newest(root)
    process = subprocess.Popen(
        [sys.executable, "-m", "graft", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        deadline = time.monotonic() + 120
        while newest(root) <= before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signum)
        said = process.communicate(timeout=120)[0].decode()
        assert "Traceback" not in said, said
        return process.returncode
    finally:
        process.kill()
        process.communicate()


def runs_of(root: Path) -> tuple[Store, list[tuple[str, str]]]:
    """Return MLflow's id and status of every run under ``root``."""
    store = open_store(None, root)
    experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
    found = store.client.search_runs(experiments, "tags.`graft.kind` = 'run'")
    return store, [(run.info.run_id, run.info.status) for run in found]


def weights_of(root: Path) -> dict[str, torch.Tensor]:
    (path,) = root.glob("checkpoints/*/weights.safetensors")
    return load_file(path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed")
    torch.set_num_threads(1)
    assert main(command(root)) == 0
    return root


def numbers_of(root: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the history of every number of the only run, but for times."""
    store, ((run_id, status),) = runs_of(root)
    assert status == "FINISHED"
    keys = store.client.get_run(run_id).data.metrics
    return {
        key: [(point.step, point.value) for point in store.client.get_metric_history(run_id, key)]
        for key in keys
        if not key.endswith("seconds")
    }


@pytest.mark.parametrize("killed_before", [False, pytest.param(True, marks=pytest.mark.full)])
def test_a_run_that_was_killed_and_terminated_ends_as_if_it_had_not_been(
    undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], killed_before: bool
) -> None:
    words = command(tmp_path, ["checkpoint.every_seconds=0.05"])
    if killed_before:
        assert end_midway(tmp_path, signal.SIGKILL, words) == -signal.SIGKILL
    assert end_midway(tmp_path, signal.SIGTERM, words) == 143
    assert [status for _, status in runs_of(tmp_path)[1]] == ["KILLED"]
    assert newest(tmp_path) >= 2

    capsys.readouterr()
    assert main(words) == 0
    assert "Interrupted, and gone on with from step " in capsys.readouterr().out
    ours, theirs = weights_of(tmp_path), weights_of(undisturbed)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert numbers_of(tmp_path) == numbers_of(undisturbed), "none is missing, none is there twice"
    assert not list(tmp_path.glob("resume/*")), "a finished run keeps its weights only"


@pytest.mark.full
def test_a_run_of_two_processes_that_was_terminated_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Each process draws for itself, and has BatchNorm statistics and a part of the loss of its own."""
    words = command(tmp_path / "ours", ["trainer=ddp", "trainer.accelerator=cpu"])
    assert end_midway(tmp_path / "ours", signal.SIGTERM, [*words, "checkpoint.every_seconds=0.05"]) == 143
    assert [status for _, status in runs_of(tmp_path / "ours")[1]] == ["KILLED"]
    assert main(words) == 0
    assert main(command(tmp_path / "theirs", ["trainer=ddp", "trainer.accelerator=cpu"])) == 0
    ours, theirs = weights_of(tmp_path / "ours"), weights_of(tmp_path / "theirs")
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert numbers_of(tmp_path / "ours") == numbers_of(tmp_path / "theirs")
