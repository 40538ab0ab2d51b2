"""The ridge probe as a run: the strength that validation chooses, the weights and numbers that come out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from graft.config.schema import Config
from graft.data.batches import Activations
from graft.data.datamodule import ImageDataModule
from graft.errors import DivergedError, GraftError
from graft.model.classifier import Classifier
from graft.train.fit import Fitted, plan_budget
from graft.train.losses import build_loss
from graft.train.metrics import measure
from graft.train.ridge_fit import describe_outputs, fit_ridge

Solve = Callable[..., tuple[Classifier, ImageDataModule, Fitted]]
RIDGE = {"head__name": "ridge", "transfer__method": "random_features", "transfer__freeze_depth": 5}


@dataclass(frozen=True)
class Stored:
    """Features in the place of images."""

    features: Tensor

    def read(self, rows: Any) -> Tensor:
        return self.features[rows]


@pytest.fixture
def solve(configure: Callable[..., Config], classify: Callable[..., Classifier], feed: Any) -> Solve:
    """Solve on the tiny images, or on ``features`` of all of them."""

    def run(features: Tensor | None = None, weights: Any = None, val: int = 11, **more: Any) -> Any:
        told = {name: more.pop(name) for name in ("recorder", "progress") if name in more}
        config = configure(**(RIDGE | more))
        data, classifier = feed(config, val=val), classify(config)
        data.image_weights = weights
        if features is not None:
            data.activations, data.inputs = Activations(Stored(features)), Stored(features)
            classifier.backbone.entry = 5
        budget = plan_budget(config.trainer, data.schedule.steps_per_pass)
        return classifier, data, fit_ridge(classifier, data, config, budget, **told)

    return run


def test_features_that_are_too_many_for_the_memory_are_not_even_read(solve, monkeypatch) -> None:
    monkeypatch.setattr("graft.train.ridge.find_free_memory", lambda: 10_000)
    with pytest.raises(
        GraftError, match=r"in the 0\.0 GB of memory that are free, but got \d+ training images"
    ):
        solve()


def draw_features(data: ImageDataModule, width: int, scale: float, shift: float) -> Tensor:
    """Features whose classes overlap, so that not every strength is perfect."""
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(3, width))
    drawn = centres[data.labels] + 5 * rng.normal(size=(len(data.labels), width))
    return torch.from_numpy(scale * drawn + shift).float()


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e3, 2e4), (1e-3, 0.0)])
def test_every_strength_gives_scikit_learns_predictions(solve, feed, configure, scale, shift) -> None:
    """One strength at a time, so that the choice is no part of it; features well scaled, large and small."""
    plain = feed(configure(**RIDGE))
    features = draw_features(plain, 128, scale, shift)
    train, test = plain.split.train, plain.split.test
    known = features[train].double().numpy()
    variance = np.square(known - known.mean(axis=0)).mean()
    for strength in (1e-3, 1.0, 100.0):
        _, data, fitted = solve(features, head__strengths=[strength])
        oracle = Ridge(alpha=strength * variance * len(train), solver="svd")
        oracle.fit(known, np.eye(3)[data.labels[train]])
        expected = oracle.predict(features[test].double().numpy())
        given = fitted.test.outputs.double().numpy()
        factor = (expected * given).sum() / np.square(expected).sum()
        np.testing.assert_allclose(given / factor, expected, atol=2e-4)
        assert (fitted.test.predicted.numpy() == expected.argmax(axis=1)).all()


def test_validation_chooses_and_ties_go_to_the_lower_loss(solve, feed, configure, notebook) -> None:
    features = draw_features(feed(configure(**RIDGE)), 128, 1.0, 0.0)
    strengths = [1e-4, 1e-2, 1.0, 10.0, 100.0]
    alone = {each: solve(features, head__strengths=[each])[2].validation for each in strengths}
    assert len({values["accuracy"] for values in alone.values()}) > 1
    best = max(strengths, key=lambda each: (alone[each]["accuracy"], -alone[each]["loss"]))
    _, _, fitted = solve(features, head__strengths=strengths, recorder=notebook)
    assert fitted.validation == alone[best]
    ((step, told),) = notebook.rounds
    assert (step, told["ridge/strength"]) == (1, best)
    assert told["val/accuracy"] == fitted.validation["accuracy"]
    assert {"train/loss", "val/loss", "val/balanced_accuracy", "val/macro_f1", "ridge/temperature"} <= set(
        told
    )


def test_of_equal_strengths_the_stronger_is_chosen(solve, feed, configure, notebook) -> None:
    """Features that say nothing give the shares of the classes at every strength."""
    count = len(feed(configure(**RIDGE)).labels)
    solve(torch.full((count, 128), 2.0), head__strengths=[0.1, 10.0, 1.0], recorder=notebook)
    assert notebook.rounds[0][1]["ridge/strength"] == 10


def test_the_head_that_is_kept_gives_the_numbers_that_are_told(solve, configure) -> None:
    classifier, data, fitted = solve()
    images = torch.from_numpy(data.pixels[data.split.val]).float()
    ready = (images / 255 - 0.5) / 0.25
    with torch.no_grad():
        outputs = classifier.eval()(ready)
    seen = measure(describe_outputs(data, data.split.val, outputs), build_loss(configure().loss))
    assert {name: pytest.approx(value, abs=1e-5) for name, value in seen.items()} == fitted.validation
    assert set(classifier.trainable_state()) == {"head.layers.weight", "head.layers.bias"}
    assert (fitted.steps, fitted.best_step, fitted.images_seen) == (1, 1, 32)
    assert fitted.train_seconds > 0
    assert fitted.test_metrics["accuracy"] == 1, "these classes are easy"


def test_its_probabilities_are_fitted(solve, feed, configure) -> None:
    """No temperature that is much another has a lower validation loss."""
    features = draw_features(feed(configure(**RIDGE)), 128, 1.0, 0.0)
    classifier, data, fitted = solve(features, head__strengths=[1.0])
    outputs = classifier.head(features[data.split.val]).detach()
    for factor in (0.25, 0.5, 2.0, 4.0):
        seen = describe_outputs(data, data.split.val, factor * outputs)
        assert measure(seen, build_loss(configure().loss), ["nll"])["nll"] > fitted.validation["nll"]


@pytest.mark.parametrize("by", ["class_weights", "loss", "images"])
def test_weights_of_classes_and_images_count(solve, feed, configure, by) -> None:
    data = feed(configure(**RIDGE))
    features = draw_features(data, 128, 1.0, 0.0)
    train = data.split.train
    counts = np.bincount(data.labels[train])
    by_class = np.array([1.0, 3.0, 0.5]) if by == "loss" else len(train) / (3 * counts)
    options: dict[str, Any] = {
        "class_weights": {"data__balance": "class_weights"},
        "loss": {"loss__class_weights": by_class.tolist()},
        "images": {"weights": by_class[data.labels].astype(np.float32)},
    }[by]
    classifier, _, _ = solve(features, head__strengths=[1.0], **options)
    known, share = features[train].double().numpy(), by_class[data.labels[train]]
    share = share / share.mean()
    centre = (share[:, None] * known).mean(axis=0)
    oracle = Ridge(alpha=(share[:, None] * np.square(known - centre)).mean() * len(train), solver="svd")
    oracle.fit(known, np.eye(3)[data.labels[train]], sample_weight=share)
    weight = classifier.head.last.weight.detach().numpy()
    factor = (oracle.coef_ * weight).sum() / np.square(oracle.coef_).sum()
    np.testing.assert_allclose(weight / factor, oracle.coef_, atol=1e-6)


def test_mixed_precision_and_a_smoke_run_work(solve) -> None:
    _, _, fitted = solve(trainer__precision="bf16-mixed")
    assert fitted.test_metrics["accuracy"] == 1
    _, _, smoke = solve(trainer__limit_batches=1, trainer__threads=1)
    assert smoke.images_seen == 32


def test_progress_is_told_and_ends_complete(solve) -> None:
    steps: list[int] = []
    solve(progress=steps.append)
    assert steps == sorted(steps)
    assert steps[-1] == 8


@pytest.mark.parametrize("strengths", [[1.0], [1e-3, 1e-2, 1e-1]])
def test_a_strength_at_the_edge_is_told(solve, strengths) -> None:
    _, _, fitted = solve(head__strengths=strengths)
    assert bool(fitted.notes) == (len(strengths) > 1)
    if fitted.notes:
        assert "of `head.strengths`: a better one may lie beyond" in fitted.notes[0]


def test_a_metric_without_a_meaning_cannot_choose(solve) -> None:
    with pytest.raises(GraftError, match=r"`metric=auroc` has a meaning, but got images of one class"):
        solve(metric="auroc", val=1)


def test_features_that_are_not_finite_are_named(solve, feed, configure) -> None:
    features = draw_features(feed(configure(**RIDGE)), 128, 1.0, 0.0)
    features[0, 0] = float("nan")
    with pytest.raises(DivergedError, match="Expected finite features of the frozen backbone"):
        solve(features)


def test_training_images_that_count_nothing_are_named(solve, feed, configure) -> None:
    data = feed(configure(**RIDGE))
    with pytest.raises(GraftError, match="Expected a weight above 0 for a training image"):
        solve(weights=np.zeros(len(data.labels), dtype=np.float32))
