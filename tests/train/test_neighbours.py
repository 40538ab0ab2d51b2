from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from graft.config.schema import Config
from graft.data.datamodule import ImageDataModule
from graft.data.splits import Split
from graft.data.transforms import normalise
from graft.model.classifier import Classifier
from graft.train import neighbours
from graft.train.neighbours import measure_neighbours, read_features

Configure = Callable[..., Config]


@pytest.fixture
def setting(
    configure: Configure, classify: Callable[..., Classifier], feed: Callable[..., ImageDataModule]
) -> tuple[Config, Classifier, ImageDataModule]:
    config = configure()
    return config, classify(config), feed(config)


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_FEATURES", {})


def measure(setting: tuple[Config, Classifier, ImageDataModule], split: Split, *same: str) -> float:
    config, classifier, data = setting
    read = functools.partial(
        read_features,
        backbone=classifier.backbone,
        pixels=data.pixels,
        preprocessing=data.preprocessing,
        trainer=config.trainer,
        same=same,
    )
    found = measure_neighbours(read, data.labels, split)
    assert set(found) == {"test/feature_knn_accuracy"}
    return found["test/feature_knn_accuracy"]


def by_hand(setting: tuple[Config, Classifier, ImageDataModule], split: Split, voters: int) -> float:
    _, classifier, data = setting
    with torch.no_grad():
        images = normalise(torch.from_numpy(data.pixels), data.preprocessing)
        features = torch.nn.functional.normalize(classifier.eval().features(images)).numpy()
    right = 0
    for index in split.test:
        nearest = split.train[np.argsort(-features[split.train] @ features[index], kind="stable")[:voters]]
        right += int(np.bincount(data.labels[nearest]).argmax() == data.labels[index])
    return right / len(split.test)


def test_neighbours_are_those_by_hand(setting: Any) -> None:
    split = setting[2].split
    assert measure(setting, split, "a") == pytest.approx(by_hand(setting, split, 5))


def test_a_class_of_one_image_can_win(setting: Any) -> None:
    data = setting[2]
    labels = data.labels[data.split.train]
    few = np.concatenate([data.split.train[labels == 0][:6], data.split.train[labels == 1][:1]])
    split = Split(few, data.split.val, data.split.test, "few")
    assert measure(setting, split, "a") == pytest.approx(by_hand(setting, split, 1))


def test_features_are_computed_once_for_all_splits(setting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data, seen = setting[2], []
    extract = neighbours.extract_features

    def count(backbone: Any, pixels: Any, *rest: Any, **more: Any) -> Any:
        seen.append(len(pixels))
        return extract(backbone, pixels, *rest, **more)

    monkeypatch.setattr(neighbours, "extract_features", count)
    first = measure(setting, data.split, "a")
    assert sum(seen) == 32 + 13
    assert measure(setting, data.split, "a") == first
    other = Split(
        np.concatenate([data.split.train[:20], data.split.val[:3]]), data.split.val, data.split.test, "o"
    )
    measure(setting, other, "a")
    assert sum(seen) == 32 + 13 + 3
    measure(setting, data.split, "b")
    assert sum(seen) == 2 * (32 + 13) + 3, "other weights have other features"


def test_features_make_room(setting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_KEPT_VALUES", 10)
    for name in "abc":
        measure(setting, setting[2].split, name)
    assert list(neighbours._FEATURES) == [("c",)]
