"""What is recorded of where the weights of a run come from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from graft.config.schema import Config
from graft.data.image_set import ImageSet, SourceFacts
from graft.inputs import _describe_choices, _describe_source
from graft.model.bundle import Sidecar
from graft.model.weights import resolve_weights, write_bundle

SIDECAR = Sidecar(
    architecture="small_cnn",
    options={},
    classes=["cat", "dog"],
    channels=1,
    image_size=32,
    preprocessing={
        "channels": 1, "size": 32, "resize": None, "interpolation": "bilinear", "antialias": True,
        "mean": [0.5], "std": [0.5],
    },
    data="glyphs",
    data_digest="d" * 64,
    metrics={"train_seconds": 12.0},
    graft_version="0",
    run_key="k",
)  # fmt: skip


def open_toy(*class_names: str) -> ImageSet:
    labels = np.arange(4, dtype=np.int64) % 2
    return ImageSet(
        "toy",
        class_names,
        labels,
        None,
        ("0", "1", "2", "3"),
        "d",
        1,
        SourceFacts("", "", ""),
        lambda _: np.zeros((2, 2, 1), np.uint8),
    )


@pytest.mark.parametrize(
    ("parent", "classes", "told"),
    [
        (None, ("bee", "fly"), {"pretrain_seconds", "source_data"}),
        (None, ("cat", "fly"), {"pretrain_seconds", "source_data", "source_contains_target"}),
        ("a" * 64, ("bee", "fly"), {"pretrain_seconds"}),  # of its first weights it does not tell
    ],
)
def test_a_bundle_names_its_source(
    tmp_path: Path, parent: str | None, classes: tuple[str, ...], told: set[str]
) -> None:
    folder = tmp_path / "weights" / "mine"
    write_bundle(folder, {"a": torch.zeros(1)}, {}, replace(SIDECAR, parent=parent))
    found = _describe_source(resolve_weights("mine", "small_cnn", tmp_path), open_toy(*classes))
    assert set(found) == told
    assert found.get("source_data", "glyphs") == "glyphs"


def test_a_file_of_weights_names_none(tmp_path: Path) -> None:
    folder = tmp_path / "weights" / "mine"
    write_bundle(folder, {"a": torch.zeros(1)}, {}, SIDECAR)
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((folder / "weights.safetensors").read_bytes())
    assert _describe_source(resolve_weights(str(alone), "small_cnn", tmp_path), open_toy("cat", "dog")) == {}
    assert _describe_source(None, open_toy("cat", "dog")) == {}


def write_file(folder: Path) -> Path:
    path = folder / "alone.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    return path


@pytest.mark.parametrize(
    ("asked", "listed"),
    [
        ({}, None),
        ({"image_size": 224, "resize": 256, "mean": [0.485, 0.456, 0.406]}, None),  # what the weights expect
        ({"image_size": 64}, "data.image_size=64"),
        # smaller than the crop of the weights: fits only together with the size
        ({"image_size": 32, "resize": 32}, "data.image_size=32, data.resize=32"),
        ({"std": [1.0, 1.0, 1.0]}, "data.std=[1.0, 1.0, 1.0]"),
    ],
)
def test_only_preprocessing_that_differs_from_the_weights_is_an_override(
    tmp_path: Path, asked: dict[str, object], listed: str | None
) -> None:
    config = Config()
    config.backbone.name, config.backbone.weights = "resnet18", "IMAGENET1K_V1"
    config.paths.root = str(tmp_path)
    for name, value in asked.items():
        setattr(config.data, name, value)
    file = resolve_weights(str(write_file(tmp_path)), "resnet18", tmp_path)
    assert file is not None
    published = replace(file, kind="torchvision")
    assert _describe_choices(config, published).get("preprocessing_override") == listed
    assert _describe_choices(config, file) == {}  # it says nothing that could be overridden
