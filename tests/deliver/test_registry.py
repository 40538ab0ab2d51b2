"""`graft compare tracking.register=true`: the champion comes back from a registry with its scores."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from graft.cli import main
from graft.config.schema import Config
from graft.deliver.kept import load_kept
from graft.deliver.registry import register_chosen
from graft.deliver.scorer import Scorer
from graft.errors import GraftError
from graft.plan.spec import RunSpec, specify
from graft.run import execute, gather_facts
from graft.track.reader import finished_runs, read_experiment, read_run
from graft.track.results import checkpoint_folder
from graft.track.store import Store, open_store

NAME = "graft-registered"


@pytest.fixture(scope="module")
def specs(toy_root: Path, build_config: Callable[..., Config]) -> dict[str, RunSpec]:
    usual = {
        "paths.root": str(toy_root), "backbone.name": "cnn2", "data.labels_per_class": 4,
        "data.test_size": 100.0, "data.batch_size": 16, "optim.lr": 0.01, "trainer.epochs": 2,
        "trainer.min_steps": 2, "trainer.accelerator": "cpu", "tracking.experiment": "registered",
    }  # fmt: skip
    changes = {
        "scratch": {},
        "ridge": {
            "transfer.method": "linear_probe", "transfer.freeze_depth": 5, "backbone.weights": "toy",
            "head.name": "ridge",
        },
    }  # fmt: skip
    specs = {}
    for name, change in changes.items():
        config = build_config(usual | change)
        specs[name] = specify(config, gather_facts(config))
        execute(specs[name])
    return specs


@pytest.fixture(scope="module")
def store(specs: dict[str, RunSpec], toy_root: Path) -> Store:
    return open_store(None, toy_root)


@pytest.fixture(scope="module", autouse=True)
def no_trace() -> Iterator[None]:
    """Keep torch's log of an export, which pytest would capture, from taking a minute."""
    logger = logging.getLogger("torch.__trace")
    logger.disabled = True
    yield
    logger.disabled = False


@pytest.fixture(scope="module", autouse=True)
def global_uris(store: Store) -> Iterator[None]:
    """Loading by `models:/` reads MLflow's global addresses; graft itself never sets them."""
    import mlflow

    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    mlflow.set_tracking_uri(store.uri)
    mlflow.set_registry_uri(store.uri)
    yield
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):  # where MLflow keeps them for other processes
        os.environ.pop(name, None)


def register(store: Store, root: Path, experiment: str = "registered") -> list[str]:
    """Register what was chosen in an experiment, and return what is said."""
    said: list[str] = []
    register_chosen(store, root, experiment, read_experiment(store, experiment), "accuracy", said.append)
    return said


def test_the_champion_comes_back_with_the_same_scores(specs, store: Store, toy_root: Path, capsys) -> None:
    import mlflow

    infos = {name: store.client.get_run(finished_runs(store)[spec.key]).info for name, spec in specs.items()}
    records = read_experiment(store, "registered")
    [said] = register(store, toy_root)
    assert said.startswith(f"Registered as {NAME}: 2 new of 2 models. The champion is ")
    best = max(records, key=lambda run: (run.metrics["val/accuracy"], run.arm.freeze_depth))
    version = store.client.get_model_version_by_alias(NAME, "champion")
    assert version.run_id == best.run_id
    assert version.tags["graft.arm"] == best.arm.text
    assert json.loads(version.tags["graft.class_names"]) == [str(digit) for digit in range(10)]

    kept = load_kept(toy_root, best.run_key)
    size = kept.preprocessing.size
    shape = (5, kept.preprocessing.channels, size, size)
    images = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    expected = Scorer(kept)(torch.from_numpy(images)).numpy()
    loaded = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    np.testing.assert_allclose(loaded.predict(images), expected, atol=1e-6)
    again = mlflow.pytorch.load_model(f"models:/{NAME}@champion")
    np.testing.assert_allclose(again(torch.from_numpy(images)).numpy(), expected, atol=1e-6)
    signature = loaded.metadata.signature
    assert signature.inputs.inputs[0].shape == (-1, *shape[1:])
    assert signature.outputs.inputs[0].shape == (-1, 10)
    for name, info in infos.items():  # what is logged later changes no run
        now = store.client.get_run(info.run_id)
        assert (now.info.status, now.info.end_time) == ("FINISHED", info.end_time), name
        assert len(now.outputs.model_outputs) == 1


def test_asking_again_adds_nothing(specs, store: Store, toy_root: Path) -> None:
    register(store, toy_root)
    started = time.perf_counter()
    [said] = register(store, toy_root)
    assert ": 0 new of 2 models. " in said
    assert time.perf_counter() - started < 10
    assert len(store.client.search_model_versions(f"name = '{NAME}'")) == 2


def test_compare_registers_when_it_is_asked_to(specs, store: Store, toy_root: Path, capsys) -> None:
    assert main(["compare", "registered", f"paths.root={toy_root}"]) == 0
    assert "Registered as" not in capsys.readouterr().out
    assert main(["compare", "registered", "tracking.register=true", f"paths.root={toy_root}"]) == 0
    assert f"models:/{NAME}@champion" in " ".join(capsys.readouterr().out.split())


def test_runs_can_be_filtered(specs, store: Store) -> None:
    experiment = store.experiment_id("registered")

    def find(words: str) -> set[str]:
        return {run.info.run_name for run in store.client.search_runs([experiment], words)}

    assert find("tags.graft.role = 'twin'") == {"from scratch · cnn2 · 4 labels · lr 0.01 · seed 0"}
    assert find("tags.graft.backbone = 'cnn2' and tags.graft.freeze_depth = '5'") == {
        "ridge probe · cnn2 · toy · 4 labels · seed 0"
    }
    assert len(find("tags.graft.seed = '0' and tags.graft.labels = '4'")) == 2
    assert find("tags.graft.chosen = 'false'") == set()  # compared above: both arms are chosen
    run = store.client.get_run(finished_runs(store)[specs["ridge"].key])
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("digits", specs["ridge"].facts.data_digest[:36])
    assert "chosen" in read_run(store, run.info.run_id).notes


def test_a_champion_without_weights_is_refused(specs, store: Store, toy_root: Path) -> None:
    folders = [checkpoint_folder(toy_root, spec.key) for spec in specs.values()]
    for folder in folders:
        folder.rename(folder.with_name(f"away-{folder.name}"))
    with pytest.raises(GraftError, match="Expected the weights of the champion"):
        register(store, toy_root)
    for folder in folders:
        folder.with_name(f"away-{folder.name}").rename(folder)


def test_each_condition_has_a_champion_of_its_own(specs, store: Store, toy_root: Path) -> None:
    """Two training budgets: validation is not compared between them, and names tell them apart."""
    longer = replace(specs["scratch"].config.trainer, epochs=3)
    tracking = replace(specs["scratch"].config.tracking, experiment="two")
    briefly = replace(specs["scratch"].config, tracking=tracking, seed=1)
    runs = [specify(config, gather_facts(config)) for config in (briefly, replace(briefly, trainer=longer))]
    for spec in runs:
        execute(spec)
    names = {spec.key: f"graft-two+digits-{spec.condition[:6]}" for spec in runs}
    told = register(store, toy_root, "two")
    assert {words.partition(":")[0] for words in told} == {f"Registered as {name}" for name in names.values()}
    for spec in runs:
        version = store.client.get_model_version_by_alias(names[spec.key], "champion")
        tags = {key: version.tags[f"graft.{key}"] for key in ("run_key", "data", "condition")}
        assert tags == {"run_key": spec.key, "data": "digits", "condition": spec.condition}
    shutil.rmtree(checkpoint_folder(toy_root, runs[0].key))
    said: list[str] = []
    with pytest.raises(GraftError, match=re.escape(f"to register it as {names[runs[0].key]}")):
        register_chosen(store, toy_root, "two", read_experiment(store, "two"), "accuracy", said.append)
    assert [words.partition(":")[0] for words in said] == [f"Registered as {names[runs[1].key]}"]
