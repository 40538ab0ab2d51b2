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
from graft.reuse.fused import Cut, HeadRun, fit_group
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
    """Return the classifier and the batches of a run: its seed and its label budget draw the images."""
    rng = np.random.default_rng(7)
    labels = np.arange(COUNT) % CLASSES
    seed_everything(config.seed)
    classifier, _ = build_classifier(config, num_classes=CLASSES, channels=1, image_size=SIDE, weights=None)
    classifier.backbone.entry = 5
    width = classifier.backbone.feature_dim
    centres = rng.normal(size=(CLASSES, width))
    values = torch.from_numpy(scale * (centres[labels] + 2 * rng.normal(size=(COUNT, width)))).float()
    order = np.random.default_rng(config.seed).permutation(COUNT)
    train, val, test = np.split(order, [32, 60])
    labelled = CLASSES * (config.data.labels_per_class or COUNT)
    split = Split(*(np.sort(part) for part in (train[:labelled], val[:labelled], test)), "digest")
    budget = plan_budget(config.trainer, count_steps_per_pass(len(split.train), config.data.batch_size))
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
        draw = COUNT * config.seed + (config.data.labels_per_class or 0)
        runs.append(HeadRun(config, classifier, batches, draw, notes[-1]))
    return runs, notes, fit_group(runs, budget, stop=stop or StopRequest())


def check_as_alone(configs, scale=1.0):
    """Train together and one by one, and compare all that comes out, to the bit."""
    runs, notes, together = fuse(configs, scale)
    for config, run, note, fitted in zip(configs, runs, notes, together, strict=True):
        classifier, batches, budget = prepare(config, scale)
        own = Notebook()
        alone = fit(classifier, batches, config, budget, recorder=own)
        for name, value in classifier.trainable_state().items():
            assert torch.equal(value, run.classifier.trainable_state()[name]), (config, name)
        assert (fitted.best_step, fitted.steps) == (alone.best_step, alone.steps)
        assert fitted.images_seen == alone.images_seen
        assert fitted.validation == alone.validation
        assert fitted.test_metrics == alone.test_metrics
        assert torch.equal(fitted.test.outputs, alone.test.outputs)
        assert note.rounds == own.rounds
    return together


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
    check_as_alone([configure(seed, **head, trainer=trainer) for head in HEADS for seed in (0, 1)], scale)


def test_heads_of_other_label_budgets_end_as_alone():
    trainer = {"epochs": 1, "min_steps": 40, "max_validations": 10}
    check_as_alone(
        [
            configure(seed, data={"labels_per_class": shots, "balance": balance}, trainer=trainer)
            for seed in (0, 1)
            for shots, balance in ((None, "none"), (1, "none"), (4, "none"), (4, "class_weights"))
        ]
    )


def test_a_head_that_stopped_early_pays_for_its_own_steps():
    early = configure(optim={"lr": 0.0}, trainer={"patience": 1})
    together = fuse([early, configure()])[2]
    assert (together[0].steps, together[1].steps) == (8, 16)
    assert together[1].train_seconds == pytest.approx(2 * together[0].train_seconds)


def test_a_head_that_diverges_leaves_the_others_alone():
    configs = [
        configure(),
        configure(optim={"name": "sgd", "lr": 100.0, "schedule": "constant"}),
        configure(1),
    ]
    _, _, (first, second, third) = fuse(configs, scale=1e20)
    _, _, (healthy, lone) = fuse([configure(), configure(1)], scale=1e20)
    assert isinstance(second, Cut)
    assert isinstance(second.failure, DivergedError)
    assert second.seconds > 0
    assert 0 < second.steps < first.steps
    assert first.validation == healthy.validation
    assert third.validation == lone.validation


def test_a_request_to_stop_ends_the_group():
    stop = StopRequest()
    stop.signum = 15
    with pytest.raises(RunInterrupted):
        fuse([configure(), configure(1)], stop=stop)
