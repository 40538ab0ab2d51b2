"""Two processes on the CPU do what one does."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from graft.cli import main
from graft.config.schema import Config
from graft.data.pixels import prepare_pixels
from graft.data.preprocessing import Preprocessing
from graft.data.transforms import normalise
from graft.inputs import open_run_images
from graft.model.classifier import build_classifier
from graft.plan.spec import RunSpec, specify
from graft.run import execute, gather_facts
from graft.track.record import RunRecord
from graft.track.results import checkpoint_folder
from graft.track.store import Store, open_store

#: 33 images in batches of 8: shares of two processes differ in size, and the last batch has nine images.
KNOBS: dict[str, Any] = {
    "data.labels_per_class": 3, "data.val_labels_per_class": 1, "data.test_size": 101, "data.image_size": 12,
    "data.batch_size": 7, "optim": "sgd", "optim.lr": 0.05, "optim.weight_decay": 0.01, "trainer.epochs": 2,
    "checkpoint.keep": "all",
}  # fmt: skip
TWO = ("trainer=ddp", "trainer.accelerator=cpu")


def command(root: Path, words: Sequence[str]) -> list[str]:
    return ["train", *words, *(f"{key}={value}" for key, value in KNOBS.items()), f"paths.root={root}"]


@pytest.fixture
def describe(build_config: Callable[..., Config]) -> Callable[..., Config]:
    """The configuration that `command` composes, for one process or two."""

    def describe(root: Path, backbone: str, devices: int) -> Config:
        own = {key: value for key, value in KNOBS.items() if key != "optim"}
        own["data.test_size"] = 101.0
        return build_config(own | {
            "paths.root": str(root), "backbone.name": backbone, "optim.name": "sgd",
            "trainer.devices": devices,
            "trainer.accelerator": "cpu", "trainer.strategy": "ddp" if devices > 1 else "auto",
        })  # fmt: skip

    return describe


def only_run(root: Path) -> tuple[Store, RunRecord]:
    """Return the one run that is recorded under ``root``, whatever its status."""
    from graft.track.reader import read_run

    store = open_store(None, root)
    experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
    runs = store.client.search_runs(experiments, "tags.`graft.kind` = 'run'")
    assert len(runs) == 1, "one MLflow run, however many processes"
    return store, read_run(store, runs[0].info.run_id)


def predictions(store: Store, run_id: str, folder: Path) -> dict[str, np.ndarray]:
    with np.load(store.client.download_artifacts(run_id, "predictions.npz", str(folder))) as stored:
        return dict(stored)


def rebuild(spec: RunSpec, root: Path, index: np.ndarray) -> torch.Tensor:
    """Return what the kept weights say of the images ``index``."""
    images = open_run_images(spec.config)
    preprocessing = Preprocessing.from_dict(spec.facts.preprocessing)
    classifier, _ = build_classifier(
        spec.config, num_classes=10, channels=1, image_size=preprocessing.size, weights=None
    )
    classifier.load_state_dict(
        load_file(checkpoint_folder(root, spec.key) / "weights.safetensors"), strict=False
    )
    pixels = prepare_pixels(images, preprocessing, root / "cache")[index]
    with torch.no_grad():
        return classifier.eval()(normalise(torch.from_numpy(pixels), preprocessing))


def test_two_processes_train_what_one_does(
    tmp_path: Path, describe: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    several, alone = tmp_path / "two", tmp_path / "one"
    assert main(command(several, ["backbone=cnn2", *TWO])) == 0
    one, two = (
        specify(config, gather_facts(config))
        for config in (describe(alone, "cnn2", 1), describe(several, "cnn2", 2))
    )
    assert one.key == two.key, "no BatchNorm trains: the number of processes changes nothing"
    execute(one)
    ours, theirs = (
        load_file(checkpoint_folder(root, one.key) / "weights.safetensors") for root in (several, alone)
    )
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-5)

    (store, record), (plain_store, plain) = only_run(several), only_run(alone)
    assert record.status == "finished"
    for name in ("train/loss", "val/loss", "val/accuracy", "test/loss", "test/accuracy", "test/macro_f1"):
        assert record.metrics[name] == pytest.approx(plain.metrics[name], abs=1e-5), name
    for name in ("images_seen", "best_step", "labels_train", "images_test"):
        assert record.metrics[name] == plain.metrics[name], name
    found = predictions(store, record.run_id, tmp_path)
    expected = predictions(plain_store, plain.run_id, alone)
    assert found["index"].tolist() == expected["index"].tolist()
    assert len(set(found["index"].tolist())) == len(found["index"]) == 101
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4)
    assert not list((several / "logs").glob("*.rank*")), "logs of processes that ended well are gone"

    capsys.readouterr()
    assert main(command(several, ["backbone=cnn2", "trainer.accelerator=cpu"])) == 0
    assert "finished already" in capsys.readouterr().out


def test_two_processes_in_a_sweep_with_batch_norm(tmp_path: Path, describe: Callable[..., Config]) -> None:
    """Each process has statistics of its own while it trains: what is measured is what is kept."""
    words = ["-m", "backbone=small_cnn", "seed=0", "trainer.min_steps=9", *TWO]
    assert main(command(tmp_path, words)) == 0
    store, record = only_run(tmp_path)
    assert record.status == "finished"
    assert "A batch falls into 2 parts (processes, micro-batches)" in record.notes["notes"]
    one, two = describe(tmp_path, "small_cnn", 1), describe(tmp_path, "small_cnn", 2)
    for config in (one, two):
        config.trainer.min_steps = 9
    spec = specify(two, gather_facts(two))
    assert spec.key == record.run_key
    assert spec.key != specify(one, gather_facts(one)).key
    found = predictions(store, record.run_id, tmp_path)
    assert len(set(found["index"].tolist())) == 101
    scores = rebuild(spec, tmp_path, found["index"]).numpy()
    np.testing.assert_allclose(found["scores"], scores, atol=1e-4)
    parents = store.client.search_runs([store.experiment_id("default")], "tags.`graft.kind` = 'sweep'")
    assert [parent.info.status for parent in parents] == ["FINISHED"]
    children = json.loads(json.dumps([parent.info.run_id for parent in parents]))
    assert store.client.get_run(record.run_id).data.tags["mlflow.parentRunId"] == children[0]
