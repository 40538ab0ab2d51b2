"""Heads that train together end as each would alone: weights, numbers and the moment of their best."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from graft.config.load import to_config
from graft.data.batches import Activations
from graft.data.datamodule import ImageDataModule
from graft.data.preprocessing import Preprocessing
from graft.data.schedule import count_steps_per_pass
from graft.data.splits import Split
from graft.errors import DivergedError, RunInterrupted
from graft.model.classifier import build_classifier
from graft.reuse.fused import HeadRun, fit_group
from graft.train.fit import fit, plan_budget, seed_everything
from graft.train.stop import StopRequest

COUNT, CLASSES, SIDE = 90, 3, 16


@dataclass
class Notebook:
    """A recorder that remembers."""

    rounds: list = field(default_factory=list)

    def record(self, metrics, step):
        self.rounds.append((step, dict(metrics)))

    def flush(self):
        """Nothing is kept back."""


@dataclass
class Features:
    """Features of every image."""

    values: torch.Tensor

    def read(self, rows):
        return self.values[torch.as_tensor(rows)]


def configure(seed=0, **sections):
    tree = {
        "data": {"name": "digits", "batch_size": 8},
        "backbone": {"name": "cnn2", "weights": "x"},
        "transfer": {"method": "linear_probe", "freeze_depth": 5},
        "optim": {"name": "adamw", "lr": 0.01, "schedule": "one_cycle"},
        "trainer": {"epochs": 4, "accelerator": "cpu"},
        "metric": "accuracy",
        "seed": seed,
    }
    for section, values in sections.items():
        tree[section] = tree[section] | values if section in tree else values
    return to_config(tree)


def prepare(config, scale=1.0):
    """Return the classifier and the batches of a run: the draw of images depends on its seed alone."""
    rng = np.random.default_rng(7)
    labels = np.arange(COUNT) % CLASSES
    seed_everything(config.seed)
    classifier, _ = build_classifier(config, num_classes=CLASSES, channels=1, image_size=SIDE, weights=None)
    classifier.backbone.entry = 5
    width = classifier.backbone.feature_dim
    centres = rng.normal(size=(CLASSES, width))
    values = torch.from_numpy(scale * (centres[labels] + 2 * rng.normal(size=(COUNT, width)))).float()
    order = np.random.default_rng(config.seed).permutation(COUNT)
    split = Split(*(np.sort(part) for part in np.split(order, [32, 60])), "digest")
    budget = plan_budget(config.trainer, count_steps_per_pass(32, config.data.batch_size))
    batches = ImageDataModule(
        pixels=np.zeros((COUNT, 1, SIDE, SIDE), dtype=np.uint8),
        labels=labels,
        split=split,
        preprocessing=Preprocessing(1, SIDE, None, "bilinear", True, (0.5,), (0.25,)),
        batch_size=config.data.batch_size,
        seed=config.seed,
        balance=config.data.balance,
        steps_per_round=budget.steps_per_round,
        total_steps=budget.total_steps,
        activations=Activations(Features(values)),
    )
    return classifier, batches, budget


HEADS = [
    {},
    {"optim": {"lr": 0.1}},
    {"optim": {"name": "sgd", "lr": 0.5, "momentum": 0.9}},
    {"optim": {"schedule": "plateau", "plateau_checks": 1, "lr": 0.05}},
    {"optim": {"weight_decay": 0.3, "l1": 1e-3, "l2": 1e-3}},
    {"optim": {"gradient_clip": 0.1}},
    {"loss": {"name": "focal"}},
    {"loss": {"label_smoothing": 0.2}},
    {"head": {"name": "mlp", "hidden": [16]}},
    {"head": {"name": "cosine"}},
    {"data": {"balance": "class_weights"}},
]


def fuse(configs, scale=1.0, stop=None):
    runs, notes = [], []
    for config in configs:
        classifier, batches, budget = prepare(config, scale)
        notes.append(Notebook())
        runs.append(HeadRun(config, classifier, batches, config.seed, notes[-1]))
    return runs, notes, fit_group(runs, budget, stop=stop or StopRequest())


@pytest.mark.parametrize(
    ("scale", "patience"),
    [
        (1.0, None),
        (1000.0, 1),
        *(pytest.param(*more, marks=pytest.mark.full) for more in ((1.0, 1), (1000.0, None))),
    ],
)
def test_every_head_ends_as_it_would_alone_to_the_bit(scale, patience):
    trainer = {"patience": patience}
    configs = [configure(seed, **head, trainer=trainer) for head in HEADS for seed in (0, 1)]
    runs, notes, together = fuse(configs, scale)
    for config, run, note, fitted in zip(configs, runs, notes, together, strict=True):
        classifier, batches, budget = prepare(config, scale)
        own = Notebook()
        alone = fit(classifier, batches, config, budget, recorder=own)
        for name, value in classifier.trainable_state().items():
            assert torch.equal(value, run.classifier.trainable_state()[name]), (config, name)
        assert (fitted.best_step, fitted.steps) == (alone.best_step, alone.steps)
        assert fitted.validation == alone.validation
        assert fitted.test_metrics == alone.test_metrics
        assert torch.equal(fitted.test.outputs, alone.test.outputs)
        assert note.rounds == own.rounds


def test_a_head_that_diverges_leaves_the_others_alone():
    configs = [
        configure(),
        configure(optim={"name": "sgd", "lr": 100.0, "schedule": "constant"}),
        configure(1),
    ]
    _, _, (first, second, third) = fuse(configs, scale=1e20)
    _, _, (healthy, lone) = fuse([configure(), configure(1)], scale=1e20)
    assert isinstance(second, DivergedError)
    assert first.validation == healthy.validation
    assert third.validation == lone.validation


def test_a_request_to_stop_ends_the_group():
    stop = StopRequest()
    stop.signum = 15
    with pytest.raises(RunInterrupted):
        fuse([configure(), configure(1)], stop=stop)
