from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from sklearn.metrics import confusion_matrix

from graft.config.load import to_config, to_plain
from graft.data.image_set import ImageSet, SourceFacts
from graft.data.splits import Split
from graft.plan.spec import RunSpec
from graft.track.archive import Archive
from graft.track.results import checkpoint_folder, drop_weights, keep_weights, record_result
from graft.track.store import Store
from graft.track.writer import start_run
from graft.train.evaluation import Evaluation
from graft.train.fit import Fitted

Plan = Callable[..., RunSpec]
NAMES = ("one", "two", "three")


def make_images() -> ImageSet:
    labels = np.arange(12, dtype=np.int64) % 3
    ids = tuple(str(number) for number in range(12))
    return ImageSet(
        "toy",
        NAMES,
        labels,
        None,
        ids,
        "d",
        1,
        SourceFacts("", "", ""),
        lambda _: np.zeros((2, 2, 1), np.uint8),
    )


def make_fitted(best_step: int, steps: int) -> Fitted:
    index = torch.arange(6, 12)
    outputs = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    return Fitted(
        best_step=best_step,
        validation={"accuracy": 0.9, "loss": 0.3},
        test=Evaluation(index, index % 3, outputs),
        test_metrics={"accuracy": 0.8, "loss": 0.4},
        steps=steps,
        train_seconds=1.5,
        images_seen=64,
    )


@pytest.fixture
def recorded(store: Store, plan: Plan, tmp_path: Path) -> tuple[Any, Path, Fitted, Split]:
    """A run whose best validation was its first of two, with its artifacts."""
    spec, fitted = plan("results"), make_fitted(best_step=5, steps=10)
    split = Split(np.arange(4), np.arange(4, 6), np.arange(6, 12), "s" * 64)
    writer = start_run(store, spec, parent_id=None, notes={})
    for step, accuracy in ((5, 0.9), (10, 0.2)):
        writer.record({"val/accuracy": accuracy}, step)
    record_result(writer, spec.config, make_images(), split, fitted)
    writer.end("finished")
    for name in (
        "config.yaml",
        "split.json",
        "confusion.json",
        "predictions.npz",
        "per_class.json",
        "worst_errors.json",
    ):
        store.client.download_artifacts(writer.run_id, name, str(tmp_path))
    return store.client.get_run(writer.run_id), tmp_path, fitted, split


def test_the_chosen_validation_stands_though_a_later_one_was_worse(recorded: Any) -> None:
    run, *_ = recorded
    assert run.data.metrics["val/accuracy"] == 0.9
    assert run.data.metrics["test/accuracy"] == 0.8
    assert run.data.metrics["best_step"] == 5
    assert run.data.metrics["train_seconds"] == 1.5
    assert run.data.metrics["images_seen"] == 64


def test_the_split_can_be_drawn_again(recorded: Any) -> None:
    run, folder, _, split = recorded
    stored = json.loads((folder / "split.json").read_text())
    assert stored == {
        "data": "d",
        "sha256": split.digest,
        "train": split.train.tolist(),
        "val": split.val.tolist(),
        "test": split.test.tolist(),
    }
    assert run.data.tags["graft.split"] == split.digest


def test_predictions_and_confusion_say_the_same(recorded: Any) -> None:
    _, folder, fitted, split = recorded
    with np.load(folder / "predictions.npz") as stored:
        index, label, scores = stored["index"], stored["label"], stored["scores"]
    assert index.tolist() == split.test.tolist()
    assert label.tolist() == make_images().labels[index].tolist()
    np.testing.assert_array_equal(scores, fitted.test.outputs.numpy())
    confusion = json.loads((folder / "confusion.json").read_text())
    assert confusion["class_names"] == list(NAMES)
    expected = confusion_matrix(label, scores.argmax(axis=1), labels=range(3))
    np.testing.assert_array_equal(confusion["counts"], expected)


def test_what_training_held_copies_of_is_kept(store: Store, plan: Plan, tmp_path: Path) -> None:
    """Test images 7 and 10 show what images 1 and 3 show; 11 shows what an image of validation does."""
    spec, fitted = plan("copies"), make_fitted(best_step=5, steps=10)
    split = Split(np.arange(4), np.arange(4, 6), np.arange(6, 12), "s" * 64)
    likenesses = np.array([0, 1, 2, 3, 4, 5, 6, 1, 8, 9, 3, 5], dtype=np.int64)
    for images, known in ((replace(make_images(), likenesses=likenesses), True), (make_images(), False)):
        writer = start_run(store, spec, parent_id=None, notes={})
        record_result(writer, spec.config, images, split, fitted)
        writer.end("finished")
        saved = Archive(store).test_scores(writer.run_id)
        assert saved is not None
        tags = store.client.get_run(writer.run_id).data.tags
        if known:
            assert saved.copied is not None
            assert saved.index[saved.copied].tolist() == [7, 10]
            assert saved.keep(~saved.copied).index.tolist() == [6, 8, 9, 11]
            assert tags["graft.test_copies"] == "2"
        else:
            assert saved.copied is None
            assert "graft.test_copies" not in tags


def test_classes_and_worst_errors_are_named(recorded: Any) -> None:
    _, folder, fitted, _ = recorded
    rows = json.loads((folder / "per_class.json").read_text())
    assert [row["class"] for row in rows] == list(NAMES)
    assert [row["images"] for row in rows] == [2, 2, 2]
    errors = json.loads((folder / "worst_errors.json").read_text())
    wrong = fitted.test.index[fitted.test.predicted != fitted.test.label].tolist()
    assert sorted(error["index"] for error in errors) == wrong
    assert all(error["item"] == make_images().item_ids[error["index"]] for error in errors)


def test_the_configuration_can_be_read_back(recorded: Any, plan: Plan) -> None:
    _, folder, *_ = recorded
    config = to_config(yaml.safe_load((folder / "config.yaml").read_text()))
    assert to_plain(config) == to_plain(plan("results").config)


def test_kept_weights_can_be_loaded_and_dropped(plan: Plan, tmp_path: Path) -> None:
    specs = [plan(seed=seed) for seed in range(2)]
    wide = torch.arange(12.0).reshape(3, 4)
    for spec in specs:
        keep_weights(tmp_path, spec, NAMES, {"head.weight": wide.T, "head.bias": torch.ones(2)})
    folder = checkpoint_folder(tmp_path, specs[0].key)
    state = load_file(folder / "weights.safetensors")
    assert torch.equal(state["head.weight"], wide.T)
    sidecar = json.loads((folder / "run.json").read_text())
    assert sidecar["sha256"] == hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    assert sidecar["class_names"] == list(NAMES)
    assert sidecar["run_key"] == specs[0].key
    assert to_config(sidecar["config"]) == specs[0].config
    keep_weights(tmp_path, specs[0], NAMES, {"head.bias": torch.zeros(2)})  # again, over the old ones
    assert set(load_file(folder / "weights.safetensors")) == {"head.bias"}
    assert drop_weights(tmp_path, {specs[0].key, "unknown"}) == 1
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [specs[1].key]


def test_an_interrupted_write_leaves_what_was_there(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = plan()
    keep_weights(tmp_path, spec, NAMES, {"head.bias": torch.ones(2)})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        keep_weights(tmp_path, spec, NAMES, {"head.bias": torch.zeros(2)})
    folder = checkpoint_folder(tmp_path, spec.key)
    assert torch.equal(load_file(folder / "weights.safetensors")["head.bias"], torch.ones(2))
    assert [path.name for path in folder.parent.iterdir()] == [spec.key]
