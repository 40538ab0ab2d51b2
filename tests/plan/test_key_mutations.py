"""Thousands of random changes: two runs share a key exactly when nothing that a run reads differs."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from graft.config.schema import DataConfig
from graft.data.catalog import open_images
from graft.plan.spec import Facts, specify

VALUES: dict[str, tuple[Any, ...]] = {
    "transfer.method": ("from_scratch", "linear_probe", "fine_tune", "random_features"),
    "transfer.freeze_depth": (1, 3, 5),
    "head.name": ("linear", "mlp", "cosine", "ridge"),
    "head.strengths": ([1.0], [1.0, 10.0], [10.0, 1.0, 1.0]),
    "head.hidden": ([256], [64], [64, 32]),
    "head.dropout": (0.0, 0.5),
    "loss.name": ("cross_entropy", "focal", "mean_squared_error"),
    "loss.label_smoothing": (0.0, 0.1),
    "loss.focal_gamma": (2.0, 3.0),
    "optim.name": ("adamw", "adam", "sgd"),
    "optim.lr": (0.001, 0.01, 1),
    "optim.momentum": (0.9, 0.0),
    "optim.nesterov": (False, True),
    "optim.weight_decay": (0.01, 0.0),
    "optim.decay_norms_and_biases": (False, True),
    "optim.backbone_lr_multiplier": (1.0, 0.1),
    "optim.schedule": ("cosine", "step", "plateau"),
    "optim.step_every": (0.33, 0.5),
    "optim.decay_factor": (0.1, 0.5),
    "optim.plateau_checks": (5, 2),
    "augment.name": ("none", "flip_crop"),
    "augment.mixup": (0.0, 0.2),
    "data.balance": ("none", "effective_number", "sampler"),
    "data.balance_beta": (0.999, 0.99),
    "data.labels_per_class": (None, 2, 5),
    "data.test_size": (0.2, 0.3),
    "data.val_size": (0.2, 0.4),
    "data.split_seed": (0, 1),
    "data.folds": (None, 3, 5),
    "data.fold": (0, 1),
    "data.batch_size": (32, 64),
    "data.workers": (0, 2),
    "trainer.epochs": (10, 3),
    "trainer.min_steps": (0, 100),
    "trainer.patience": (None, 3),
    "trainer.devices": (1, 2),
    "trainer.accelerator": ("auto", "cpu"),
    "tracking.experiment": ("default", "other"),
    "paths.root": ("./runs", "/elsewhere"),
    "seed": (0, 1, 2),
}
FACT_VALUES: dict[str, tuple[Any, ...]] = {
    "data_digest": ("d1", "d2"),
    "official_splits": ((), ("test",), ("val", "test")),
    "weights_sha256": ("a" * 64, "b" * 64),
    "weights_name": ("glyphs", "copy"),
    "processes": (1, 2),
    "precision": ("32", "bf16-mixed"),
}
SPLIT_SIZES = ("data.test_size", "data.val_size", "data.split_seed")


def what_a_run_reads(state: dict[str, Any]) -> frozenset[tuple[str, str]]:
    """Say, from what the knobs mean and not from the code, what decides the result of a run."""
    read = dict(state)

    def forget(*names: str) -> None:
        for name in names:
            read.pop(name)

    forget("data.workers", "trainer.devices", "trainer.accelerator", "tracking.experiment", "paths.root")
    forget("weights_name", "transfer.method", "transfer.freeze_depth")
    method, depth = state["transfer.method"], state["transfer.freeze_depth"]
    depth = {"from_scratch": 0, "linear_probe": 5}.get(method, depth)
    read["depth"], read["pretrained"] = depth, method in ("linear_probe", "fine_tune")
    if not read["pretrained"]:
        forget("weights_sha256")
    if depth == 5:
        forget("optim.backbone_lr_multiplier")
    if state["head.name"] != "mlp":
        forget("head.hidden", "head.dropout")
    forget("loss.label_smoothing") if state["loss.name"] != "cross_entropy" else None
    forget("loss.focal_gamma") if state["loss.name"] != "focal" else None
    if state["optim.name"] != "sgd":
        forget("optim.momentum", "optim.nesterov")
    if state["optim.weight_decay"] == 0:
        forget("optim.decay_norms_and_biases")
    forget("optim.step_every") if state["optim.schedule"] != "step" else None
    forget("optim.decay_factor") if state["optim.schedule"] == "cosine" else None
    forget("optim.plateau_checks") if state["optim.schedule"] != "plateau" else None
    forget("data.balance_beta") if state["data.balance"] != "effective_number" else None
    folded, official = state["data.folds"] is not None, state["official_splits"]
    forget("official_splits", *SPLIT_SIZES)
    if folded:
        read |= {name: state[name] for name in ("data.val_size", "data.split_seed")}
    else:
        forget("data.fold")
        brings = {"data.test_size": "test", "data.split_seed": "test", "data.val_size": "val"}
        read |= {name: state[name] for name, split in brings.items() if split not in official}
    strengths = sorted(set(read.pop("head.strengths")))
    if state["head.name"] == "ridge" and method == "from_scratch":  # in a grid it trains a linear head
        read["head.name"] = "linear"
    elif state["head.name"] == "ridge":
        read = {name: value for name, value in read.items() if not name.startswith("optim.")}
        del read["data.batch_size"]
        read["head.strengths"] = strengths
    return frozenset((name, repr(value)) for name, value in read.items())


def key_of(state: dict[str, Any], build_config) -> str:
    facts = Facts(
        **{"preprocessing": {"size": 16}, **{name: state[name] for name in FACT_VALUES}}  # type: ignore[arg-type]
    )
    knobs = {name: value for name, value in state.items() if name in VALUES}
    return specify(build_config({"backbone.weights": "glyphs", **knobs}), facts, grid=True).key


@pytest.mark.parametrize("count", [1500, pytest.param(10_000, marks=pytest.mark.full)])
def test_no_stale_hit_and_no_false_miss(count, build_config):
    rng = random.Random(0)
    choices = VALUES | FACT_VALUES
    state = {name: values[0] for name, values in choices.items()}
    seen: dict[frozenset[tuple[str, str]], str] = {}
    for _ in range(count):
        for name in rng.sample(sorted(choices), rng.choice((1, 1, 1, 2, 4))):
            state[name] = rng.choice(choices[name])
        if rng.random() < 0.2:  # back to something that may have been seen before
            state |= {name: values[0] for name, values in choices.items() if rng.random() < 0.8}
        key, read = key_of(state, build_config), what_a_run_reads(state)
        assert seen.setdefault(read, key) == key, f"false miss: {state}"
    assert len(set(seen.values())) == len(seen), "stale hit: two runs that differ share a key"
    assert len(seen) > count / 4


def _describe(root) -> str:
    """Return what matters of a folder of images, from the files alone."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    entries = [
        (path.relative_to(root).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files
    ]
    return repr(entries)


@pytest.mark.parametrize("count", [60, pytest.param(600, marks=pytest.mark.full)])
def test_images_that_change_change_the_digest(count, tmp_path):
    rng = random.Random(1)
    pixels = np.random.default_rng(2)
    root, cache = tmp_path / "images", tmp_path / "cache"

    def write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(path)

    for name in ("ant", "bee"):
        for number in range(4):
            write(root / name / f"{number}.png")

    def pick():
        return rng.choice(sorted(root.rglob("*.png")))

    def repaint():
        path = pick()
        write(path)
        os.utime(path, ns=(0, rng.randrange(10**18)))

    def repaint_in_secret():
        """Other content of the same length, under the old time of change: what `cp -p` may do."""
        path = pick()
        before = path.stat()
        content = bytearray(path.read_bytes())
        content[-5] ^= 1  # the check sum of the last chunk: Pillow does not mind
        path.write_bytes(bytes(content))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def touch():
        path = pick()
        os.utime(path, ns=(0, rng.randrange(10**18)))

    def move_away():
        nonlocal root
        root = root.rename(tmp_path / f"images{rng.randrange(10**9)}")

    def copy_away():
        nonlocal root
        root = shutil.copytree(root, tmp_path / f"images{rng.randrange(10**9)}")

    changes = (
        repaint,
        repaint_in_secret,
        touch,
        touch,
        move_away,
        copy_away,
        lambda: write(root / rng.choice(("ant", "bee")) / f"{rng.randrange(10)}.png"),
        lambda: pick().rename(root / rng.choice(("ant", "bee")) / f"{rng.randrange(10, 20)}.png"),
    )
    seen: dict[str, str] = {}
    for _ in range(count):
        rng.choice(changes)()
        config = replace(DataConfig(name="folder"), root=str(root))
        digest = open_images(config, cache).digest
        assert seen.setdefault(_describe(root), digest) == digest
    assert len(set(seen.values())) == len(seen)
    assert len(seen) > count / 4
