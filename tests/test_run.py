"""One run from end to end, in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, confusion_matrix

from graft.config.schema import Config
from graft.errors import DivergedError, GraftError, RunFailedError
from graft.plan.spec import RunSpec, specify
from graft.run import execute, gather_facts
from graft.sweep.worker import Job, Outcome, describe_job, execute_job, read_job
from graft.track.reader import finished_runs, read_run
from graft.track.results import checkpoint_folder
from graft.track.store import Store, open_store
from graft.verbs import train

Describe = Callable[..., Config]


@pytest.fixture(scope="module")
def root(toy_root: Path) -> Path:
    return toy_root


def plan(config: Config) -> RunSpec:
    return specify(config, gather_facts(config))


def artifact(store: Store, run_id: str, name: str, folder: Path) -> Path:
    return Path(store.client.download_artifacts(run_id, name, str(folder)))


def test_a_run_from_end_to_end(describe: Describe, root: Path, tmp_path: Path) -> None:
    spec = plan(describe())
    told: list[tuple[int, int]] = []
    val = execute(spec, progress=lambda done, total: told.append((done, total)))
    store = open_store(None, root)
    record = read_run(store, finished_runs(store)[spec.key])
    assert record.status == "finished"
    assert record.metrics["val/accuracy"] == val
    expected = {
        "train/loss", "val/accuracy", "val/balanced_accuracy", "val/macro_f1", "val/loss", "test/accuracy",
        "test/balanced_accuracy", "test/macro_f1", "test/loss", "train_seconds", "run_seconds", "images_seen",
        "best_step", "labels_train", "labels_val", "images_test", "test/majority_accuracy",
        "test/pixel_1nn_accuracy", "lr/head/decay", "val/auroc", "test/auroc", "test/nll",
        "test/average_precision", "test/calibration_error", "test/top5_accuracy", "test/macro_precision",
    }  # fmt: skip
    assert expected <= set(record.metrics)
    assert record.metrics["labels_train"] == 40
    assert record.metrics["images_test"] == 200
    assert told[-1] == (6, 6)
    history = store.client.get_metric_history(record.run_id, "train/loss")
    assert [point.step for point in history] == [3, 6]

    with np.load(artifact(store, record.run_id, "predictions.npz", tmp_path)) as stored:
        index, label, predicted = stored["index"], stored["label"], stored["scores"].argmax(axis=1)
    split = json.loads(artifact(store, record.run_id, "split.json", tmp_path).read_text())
    assert index.tolist() == split["test"]
    assert not set(split["train"]) & set(split["val"])
    assert not (set(split["train"]) | set(split["val"])) & set(split["test"])
    assert record.metrics["test/accuracy"] == pytest.approx(accuracy_score(label, predicted))
    counts = json.loads(artifact(store, record.run_id, "confusion.json", tmp_path).read_text())["counts"]
    np.testing.assert_array_equal(counts, confusion_matrix(label, predicted, labels=range(10)))

    kept = checkpoint_folder(root, spec.key)
    assert {path.name for path in kept.iterdir()} == {"weights.safetensors", "run.json"}
    stored_names = set(load_file(kept / "weights.safetensors"))
    assert {name.partition(".")[0] for name in stored_names} == {"backbone", "head"}


def test_a_finished_run_is_not_run_again(
    describe: Describe, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    config = describe(seed=8)
    train(config)
    first = capsys.readouterr().out

    def compute(*_: Any, **__: Any) -> float:
        raise AssertionError("computed again")

    monkeypatch.setattr("graft.run.execute", compute)
    train(config)
    second = capsys.readouterr().out
    assert "This run is finished already; nothing was computed again." in second
    assert first.splitlines()[-4:-1] == second.splitlines()[-4:-1], "the same numbers"


def test_asked_twice_gives_the_same_to_the_bit(describe: Describe, root: Path) -> None:
    spec = plan(describe(seed=5))
    first = execute(spec)
    weights = load_file(checkpoint_folder(root, spec.key) / "weights.safetensors")
    assert execute(spec) == first
    again = load_file(checkpoint_folder(root, spec.key) / "weights.safetensors")
    assert all(torch.equal(again[name], value) for name, value in weights.items())


def test_from_scratch_sees_as_the_weights_see_and_has_none_of_them(describe: Describe) -> None:
    scratch = plan(describe(backbone__weights="toy", data__image_size=None))
    tuned = plan(describe(backbone__weights="toy", data__image_size=None, transfer__method="fine_tune"))
    assert dict(scratch.facts.preprocessing) == dict(tuned.facts.preprocessing)
    assert scratch.facts.preprocessing["mean"] == [0.3]
    assert scratch.facts.preprocessing["size"] == 20
    assert scratch.facts.weights_sha256 is None
    assert scratch.arm.weights == "none"
    assert tuned.arm.weights.startswith("toy@")
    assert tuned.arm.twin == scratch.arm
    # The bundle's name is out of the key: said in numbers, the same preprocessing is the same run.
    alone = describe(data__image_size=20, data__mean=[0.3], data__std=[0.7])
    facts = gather_facts(alone)
    named = {**facts.preprocessing, "interpolation": "nearest"}
    assert (
        specify(alone, gather_facts(describe(backbone__weights="toy", data__image_size=None))).key
        == scratch.key
    )
    assert named == dict(scratch.facts.preprocessing)


def test_a_linear_probe_keeps_the_weights_and_stores_the_head_only(describe: Describe, root: Path) -> None:
    probe = plan(describe(
        backbone__weights="toy", data__image_size=None, transfer__method="linear_probe",
        transfer__freeze_depth=5,
    ))  # fmt: skip
    execute(probe)
    kept = load_file(checkpoint_folder(root, probe.key) / "weights.safetensors")
    assert kept
    assert all(name.startswith("head.") for name in kept)
    store = open_store(None, root)
    record = read_run(store, finished_runs(store)[probe.key])
    assert record.notes["frozen_stages"] == "stage1, stage2, stage3, stage4, stage5"
    assert 0 <= record.metrics["test/feature_knn_accuracy"] <= 1


def test_a_diverged_run_is_recorded_as_such(describe: Describe, root: Path) -> None:
    spec = plan(describe(optim__lr=100.0, loss__name="mean_squared_error", trainer__epochs=20))
    with pytest.raises(DivergedError):
        execute(spec)
    store = open_store(None, root)
    assert spec.key not in finished_runs(store)
    found = store.client.search_runs([store.experiment_id("default")], f"tags.`graft.run_key` = '{spec.key}'")
    assert [run.data.tags["graft.status"] for run in found] == ["diverged"]
    assert found[0].data.metrics["train_seconds"] > 0  # what the search for a good trial paid for it
    assert found[0].data.metrics["images_seen"] >= 0
    assert not checkpoint_folder(root, spec.key).exists()
    assert execute_job(Job(spec)).status == "diverged"


def test_a_job_travels_between_processes(describe: Describe) -> None:
    spec = plan(describe(seed=9))
    again = read_job(json.loads(json.dumps(describe_job(Job(spec, "parent")))))
    assert again == Job(spec, "parent")


def test_a_failure_is_an_outcome(describe: Describe, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def fall(*_: Any, **__: Any) -> float:
        raise ValueError("no more")

    spec = plan(describe(seed=14))
    monkeypatch.setattr("graft.run.execute", fall)
    assert execute_job(Job(spec)) == Outcome(spec.key, "failed", "ValueError: no more")
    assert "Traceback" in capsys.readouterr().err


def test_weights_that_are_gone_are_named(describe: Describe) -> None:
    with pytest.raises(GraftError, match="'toyy'"):
        gather_facts(describe(backbone__weights="toyy", transfer__method="fine_tune"))


def test_nothing_is_kept_when_nothing_is_asked_for(describe: Describe, root: Path) -> None:
    spec = plan(describe(seed=6, checkpoint__keep="none", trainer__limit_batches=1))
    execute(spec)
    assert not checkpoint_folder(root, spec.key).exists()


def test_weights_that_cannot_be_written_fail_the_run_and_training_is_not_lost(
    describe: Describe, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is where the folder should be: no user, not even root, can write there."""
    monkeypatch.setattr("graft.train.resume._LARGEST_SHARE", 1e9)
    monkeypatch.setattr("graft.train.resume._WORTH_SECONDS", 0.0)
    spec = plan(describe(seed=12))
    (root / "checkpoints").mkdir(exist_ok=True)
    (root / "checkpoints").rename(root / "aside")
    (root / "checkpoints").touch()
    try:
        with pytest.raises(
            RunFailedError, match=r"Expected to write the weights of the run to .*, but could not"
        ):
            execute(spec)
    finally:
        (root / "checkpoints").unlink()
        (root / "aside").rename(root / "checkpoints")
    store = open_store(None, root)
    assert spec.key not in finished_runs(store), "no silent success"
    told: list[tuple[int, int]] = []
    execute(spec, progress=lambda done, total: told.append((done, total)))
    assert told == [], "only the test was left"
    assert (checkpoint_folder(root, spec.key) / "weights.safetensors").exists()
    assert not (root / "resume" / spec.key).exists()


def test_who_asks_is_told_the_id_of_the_run(describe: Describe, root: Path) -> None:
    spec = plan(describe(seed=13, trainer__limit_batches=1))
    told: list[str] = []
    execute(spec, on_start=told.append)
    assert told == [finished_runs(open_store(None, root))[spec.key]]
