from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from graft.config.load import to_config
from graft.config.schema import Config
from graft.data.datamodule import ImageDataModule
from graft.data.preprocessing import Preprocessing
from graft.data.schedule import count_steps_per_pass
from graft.data.splits import Split
from graft.model.classifier import Classifier, build_classifier
from graft.train.fit import Fitted, fit, plan_budget, seed_everything

CLASSES = 3
Shoot = Callable[..., tuple[Classifier, Fitted]]


class Notebook:
    """A recorder that remembers."""

    def __init__(self) -> None:
        self.rounds: list[tuple[int, dict[str, float]]] = []
        self.flushed = 0

    def record(self, metrics: Any, step: int) -> None:
        self.rounds.append((step, dict(metrics)))

    def flush(self) -> None:
        self.flushed = len(self.rounds)


def make_config(**knobs: Any) -> Config:
    """Return a configuration; knobs are written with two underscores for the dot."""
    tree: dict[str, Any] = {
        "data": {"name": "digits", "batch_size": 8},
        "backbone": {"name": "cnn2"},
        "transfer": {"method": "fine_tune"},
        "optim": {"name": "sgd", "lr": 0.05, "schedule": "constant"},
        "trainer": {"epochs": 2, "accelerator": "cpu"},
        "metric": "accuracy",
    }
    for key, value in knobs.items():
        *sections, name = key.split("__")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return to_config(tree)


def make_data(
    config: Config, side: int = 16, channels: int = 1, val: int = 11, noise: int = 60, test: int = 13
) -> ImageDataModule:
    """Return images of three classes, which third is bright: 32 to train, then ``val`` and ``test``."""
    rng = np.random.default_rng(0)
    count = 32 + val + test
    labels = np.arange(count, dtype=np.int64) % CLASSES
    pixels = rng.integers(0, noise, (count, channels, side, side))
    for position, label in enumerate(labels):
        pixels[position, :, :, label * side // 3 : (label + 1) * side // 3] += 120
    order = rng.permutation(count)
    split = Split(*(np.sort(part) for part in np.split(order, [32, 32 + val])), "digest")
    budget = plan_budget(config.trainer, count_steps_per_pass(32, config.data.batch_size))
    return ImageDataModule(
        pixels=pixels.astype(np.uint8),
        labels=labels,
        split=split,
        preprocessing=Preprocessing(
            channels, side, None, "bilinear", True, (0.5,) * channels, (0.25,) * channels
        ),
        batch_size=config.data.batch_size,
        seed=config.seed,
        augment=config.augment,
        balance=config.data.balance,
        accumulate=config.trainer.accumulate,
        workers=config.data.workers,
        limit_batches=config.trainer.limit_batches,
        steps_per_round=budget.steps_per_round,
        total_steps=budget.total_steps,
    )


def make_classifier(config: Config, side: int = 16, channels: int = 1) -> Classifier:
    seed_everything(config.seed)
    return build_classifier(config, num_classes=CLASSES, channels=channels, image_size=side, weights=None)[0]


@pytest.fixture
def configure() -> Callable[..., Config]:
    return make_config


@pytest.fixture
def classify() -> Callable[..., Classifier]:
    return make_classifier


@pytest.fixture
def feed() -> Callable[..., ImageDataModule]:
    return make_data


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


@pytest.fixture
def shoot() -> Shoot:
    """Train a fresh classifier on the tiny images, and return it with what came out."""

    def run(
        config: Config,
        *,
        side: int = 16,
        channels: int = 1,
        classifier: Classifier | None = None,
        **more: Any,
    ) -> tuple[Classifier, Fitted]:
        data = make_data(
            config, side, channels, **{key: more.pop(key) for key in ("val", "noise", "test") if key in more}
        )
        classifier = classifier or make_classifier(config, side, channels)
        budget = plan_budget(config.trainer, data.schedule.steps_per_pass)
        return classifier, fit(classifier, data, config, budget, **more)

    return run


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
