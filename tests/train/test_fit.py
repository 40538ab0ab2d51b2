from __future__ import annotations

import math
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graft.config.schema import Config, TrainerConfig
from graft.data.datamodule import ImageDataModule
from graft.data.transforms import normalise
from graft.errors import DivergedError, GraftError, RunFailedError
from graft.model.classifier import Classifier
from graft.train.evaluation import Evaluation
from graft.train.fit import Fitted, plan_budget
from graft.train.losses import build_loss
from graft.train.metrics import CHEAP, measure
from graft.train.task import TransferTask

Configure = Callable[..., Config]
Feed = Callable[..., ImageDataModule]
Shoot = Callable[..., tuple[Classifier, Fitted]]


def snapshot(classifier: Classifier) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in classifier.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Budget


@given(st.integers(1, 50), st.integers(1, 300), st.integers(0, 1000), st.integers(1, 30))
def test_a_budget_is_the_passes_or_the_floor(
    epochs: int, per_pass: int, floor: int, validations: int
) -> None:
    trainer = TrainerConfig(epochs=epochs, min_steps=floor, max_validations=validations)
    budget = plan_budget(trainer, per_pass)
    assert budget.total_steps == max(epochs * per_pass, floor)
    assert 1 <= budget.steps_per_round <= budget.total_steps
    assert math.ceil(budget.total_steps / budget.steps_per_round) <= validations
    assert budget.steps_per_round >= min(per_pass, budget.total_steps), "at most one validation per pass"


def test_a_smoke_run_is_as_short_as_it_says() -> None:
    budget = plan_budget(TrainerConfig(epochs=10, min_steps=500, limit_batches=2), 30)
    assert (budget.total_steps, budget.steps_per_round) == (2, 2)


def test_a_run_takes_its_steps_and_validates_in_between(
    configure: Configure, shoot: Shoot, notebook: Any
) -> None:
    config = configure(trainer__epochs=3, trainer__min_steps=17, trainer__max_validations=4)
    _, fitted = shoot(config, recorder=notebook)
    assert fitted.steps == 17
    assert [step for step, _ in notebook.rounds] == [5, 10, 15, 17]
    assert fitted.images_seen == 4 * 32 + 8
    assert {"train/loss", "val/loss", "val/accuracy", "lr/head/decay"} <= set(notebook.rounds[0][1])


# What the chosen weights are


def evaluate(classifier: Classifier, data: ImageDataModule, part: str, config: Config) -> dict[str, float]:
    index = torch.from_numpy(getattr(data.split, part))
    images = normalise(torch.from_numpy(data.pixels[index.numpy()]), data.preprocessing)
    with torch.no_grad():
        outputs = classifier.eval()(images)
    return measure(Evaluation(index, torch.from_numpy(data.labels)[index], outputs), build_loss(config.loss))


@pytest.mark.parametrize("metric", ["accuracy", "loss", "auroc"])
@pytest.mark.parametrize("backbone", ["cnn2", "small_cnn"])
def test_the_weights_of_the_best_validation_are_tested(
    configure: Configure, shoot: Shoot, feed: Feed, notebook: Any, backbone: str, metric: str
) -> None:
    config = configure(backbone__name=backbone, optim__lr=0.3, trainer__epochs=6, metric=metric)
    classifier, fitted = shoot(config, recorder=notebook, noise=255)
    history = dict(notebook.rounds)
    sign = -1 if metric == "loss" else 1
    best = max(
        history, key=lambda step: (sign * history[step][f"val/{metric}"], -history[step]["val/loss"], -step)
    )
    assert fitted.best_step == best
    seen = {key[4:]: value for key, value in history[best].items() if key.startswith("val/")}
    assert set(seen) == {*CHEAP, metric}, "what costs more is measured once, of the chosen weights"
    assert seen == {name: fitted.validation[name] for name in seen}
    data = feed(config, noise=255)
    assert evaluate(classifier, data, "val", config) == pytest.approx(fitted.validation, rel=1e-5)
    assert evaluate(classifier, data, "test", config) == pytest.approx(fitted.test_metrics, rel=1e-5)
    assert fitted.test.index.tolist() == data.split.test.tolist()
    assert len(fitted.test.label) == 13


def test_the_training_loss_is_the_mean_over_the_round(
    configure: Configure, shoot: Shoot, feed: Feed, notebook: Any
) -> None:
    """At a rate of 0 nothing moves: the loss of each pass is that of all training images."""
    config = configure(optim__lr=0.0)
    classifier, _ = shoot(config, recorder=notebook)
    expected = evaluate(classifier, feed(config), "train", config)["loss"]
    assert [numbers["train/loss"] for _, numbers in notebook.rounds] == pytest.approx(
        [expected] * 2, rel=1e-5
    )


def test_a_metric_without_a_meaning_cannot_choose(configure: Configure, shoot: Shoot) -> None:
    with pytest.raises(GraftError, match=r"`metric=auroc` has a meaning, but got images of one class"):
        shoot(configure(metric="auroc"), val=1)


# Balance


def test_class_weights_of_the_data_are_those_by_hand(configure: Configure, shoot: Shoot, feed: Feed) -> None:
    """Binary weights by frequency are the same loss as the same numbers in `loss.class_weights`."""
    data = feed(configure())
    counts = np.bincount(data.labels[data.split.train])
    by_hand = [float(32 / (3 * count)) for count in counts]
    one = snapshot(shoot(configure(data__balance="class_weights"))[0])
    two = snapshot(shoot(configure(loss__class_weights=by_hand))[0])
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=0, atol=1e-6)
    assert not same(one, snapshot(shoot(configure())[0]))


def test_a_balanced_order_trains(configure: Configure, shoot: Shoot) -> None:
    plain, balanced = (shoot(configure(data__balance=balance))[0] for balance in ("none", "sampler"))
    assert not same(snapshot(plain), snapshot(balanced))


# Mixing

LOSSES = [
    ("cross_entropy", {"loss__label_smoothing": 0.1}),
    ("mean_squared_error", {}),
    ("focal", {}),
    ("cross_entropy", {"loss__class_weights": [0.5, 1.0, 2.0]}),
]


def soft_loss(name: str, outputs: torch.Tensor, target: torch.Tensor, config: Config) -> torch.Tensor:
    """The loss of soft targets ``(N, classes)``, written out."""
    log_p = outputs.log_softmax(1)
    if name == "mean_squared_error":
        return (outputs - target).square().mean(1)
    if name == "focal":
        return -(target * (1 - log_p.exp()) ** config.loss.focal_gamma * log_p).sum(1)
    weights = torch.tensor(config.loss.class_weights or [1.0] * 3)
    smooth = config.loss.label_smoothing
    return -(target * weights * ((1 - smooth) * log_p + smooth * log_p.mean(1, keepdim=True))).sum(1)


@pytest.mark.parametrize(("name", "knobs"), LOSSES)
@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_mixed_image_has_the_gradient_of_its_soft_target(
    configure: Configure, feed: Feed, classify: Callable[..., Classifier], kind: str, name: str, knobs: Any
) -> None:
    config = configure(loss__name=name, **{f"augment__{kind}": 0.8}, **knobs)
    data = feed(config)
    data.trainer = SimpleNamespace(global_step=0, global_rank=0, world_size=1, training=True)  # type: ignore[assignment]
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    task = TransferTask(classify(config), config.optim, build_loss(config.loss), 8)
    share, classes = batch["share"][:, None], torch.eye(3)
    target = share * classes[batch["label"]] + (1 - share) * classes[batch["other_label"]]
    outputs = task(batch["image"])
    expected = (soft_loss(name, outputs, target, config) * batch["weight"]).sum()
    found = task.training_step(batch, 0)
    parameters = [parameter for parameter in task.parameters() if parameter.requires_grad]
    for one, other in zip(
        torch.autograd.grad(found, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_mixing_is_the_same_to_the_bit_and_trains_in_any_precision(
    configure: Configure, shoot: Shoot, precision: str
) -> None:
    config = configure(
        augment__name="trivial", augment__mixup=0.3, augment__cutmix=1.0, trainer__precision=precision
    )
    one, two = (shoot(config)[0] for _ in range(2))
    assert same(snapshot(one), snapshot(two))


# Optimization


def test_accumulation_is_one_step_of_the_same_size(configure: Configure, shoot: Shoot) -> None:
    states, seen = [], []
    for accumulate in (1, 2, 3):
        classifier, fitted = shoot(
            configure(
                trainer__accumulate=accumulate,
                optim__l2=0.01,
                optim__schedule="cosine",
                optim__gradient_clip=0.5,
            )
        )
        states.append(snapshot(classifier))
        seen.append((fitted.steps, fitted.images_seen, fitted.best_step))
    assert seen[0] == seen[1] == seen[2] == (8, 64, seen[0][2])
    for other in states[1:]:
        for name, value in states[0].items():
            torch.testing.assert_close(other[name], value, rtol=0, atol=1e-6)


def test_the_gradient_is_clipped(configure: Configure, shoot: Shoot) -> None:
    from graft.train.fit import seed_everything

    clip, lr = 1e-3, 0.1
    config = configure(trainer__limit_batches=1, optim__gradient_clip=clip, optim__lr=lr, optim__momentum=0.0,
                       optim__weight_decay=0.0)  # fmt: skip
    seed_everything(0)
    before = snapshot(shoot(configure(trainer__limit_batches=1, optim__lr=0.0, optim__weight_decay=0.0))[0])
    after = snapshot(shoot(config)[0])
    moved = torch.cat([(after[name] - before[name]).flatten() for name in before])
    assert float(moved.norm()) == pytest.approx(lr * clip, rel=1e-2)


def test_the_schedule_is_stepped_at_every_step(configure: Configure, shoot: Shoot, notebook: Any) -> None:
    config = configure(optim__schedule="cosine", optim__lr=0.1, trainer__epochs=2)
    shoot(config, recorder=notebook)
    found = [numbers["lr/head/decay"] for _, numbers in notebook.rounds]
    assert found == pytest.approx([0.1 * (1 + math.cos(math.pi * step / 8)) / 2 for step in (4, 8)], abs=1e-9)


def test_a_plateau_lowers_the_rate(configure: Configure, shoot: Shoot, notebook: Any) -> None:
    """At such a rate nothing ever improves."""
    config = configure(
        optim__schedule="plateau", optim__lr=1e-30, optim__plateau_checks=2, optim__decay_factor=0.5,
        optim__weight_decay=0.0, trainer__epochs=7,
    )  # fmt: skip
    shoot(config, recorder=notebook)
    rates = [numbers["lr/head/decay"] / 1e-30 for _, numbers in notebook.rounds]
    # The first check is the best; every second one after it that is no better lowers the rate.
    assert rates == pytest.approx([1, 1, 0.5, 0.5, 0.25, 0.25, 0.125])


def test_a_run_without_progress_stops_early(configure: Configure, shoot: Shoot) -> None:
    _, fitted = shoot(
        configure(optim__lr=0.0, trainer__epochs=50, trainer__max_validations=50, trainer__patience=3)
    )
    assert (fitted.best_step, fitted.steps) == (4, 16)


# Repetition


@pytest.mark.parametrize("backbone", ["cnn2", "small_cnn"])
def test_a_seed_gives_the_same_to_the_bit(configure: Configure, shoot: Shoot, backbone: str) -> None:
    def run(seed: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        torch.rand(torch.randint(1, 9, ()))  # what was drawn before does not matter
        config = configure(
            seed=seed, backbone__name=backbone, augment__name="flip_crop", head__name="mlp", head__dropout=0.5
        )
        classifier, fitted = shoot(config)
        return snapshot(classifier), fitted.test.outputs

    (first, outputs), (second, outputs_again), (other, _) = run(0), run(0), run(1)
    assert same(first, second)
    assert torch.equal(outputs, outputs_again)
    assert not any(
        torch.equal(first[name], other[name])
        for name in first
        if name.startswith("head") and "weight" in name
    )


# Freezing, through all of Lightning


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("depth", range(6))
@pytest.mark.parametrize(("backbone", "side"), [("small_cnn", 16), ("resnet18", 32)])
def test_frozen_stages_do_not_change_by_a_bit(
    configure: Configure, shoot: Shoot, classify: Callable[..., Classifier], backbone: str, side: int,
    depth: int, optimizer: str, precision: str,
) -> None:  # fmt: skip
    config = configure(
        backbone__name=backbone, transfer__freeze_depth=depth, trainer__limit_batches=3,
        trainer__precision=precision, optim__name=optimizer, optim__lr=0.01, optim__momentum=0.9,
        optim__weight_decay=0.1, optim__decay_norms_and_biases=True, optim__gradient_clip=1.0,
        trainer__accumulate=2,
    )  # fmt: skip
    classifier = classify(config, side, 3)
    before = snapshot(classifier)
    shoot(config, side=side, channels=3, classifier=classifier)
    frozen = tuple(f"backbone.stages.{stage}." for stage in range(depth))
    moved = {name for name, value in classifier.state_dict().items() if not torch.equal(value, before[name])}
    assert not {name for name in moved if name.startswith(frozen)}
    assert moved == {name for name in before if not name.startswith(frozen)}


# When it goes wrong


def test_a_diverged_run_says_what_to_try(configure: Configure, shoot: Shoot, notebook: Any) -> None:
    config = configure(optim__lr=100.0, loss__name="mean_squared_error", trainer__epochs=50)
    with pytest.raises(
        DivergedError, match=r"The loss became (nan|inf) by step \d+\. Try a lower `optim.lr`"
    ):
        shoot(config, recorder=notebook)
    assert notebook.rounds, "what led there is recorded"
    assert issubclass(DivergedError, RunFailedError)


def test_ctrl_c_comes_out_as_it_went_in(configure: Configure, shoot: Shoot) -> None:
    """Lightning would exit the process, and switch Ctrl-C off for good."""
    answer = signal.getsignal(signal.SIGINT)

    def interrupt(step: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shoot(configure(), progress=interrupt)
    assert signal.getsignal(signal.SIGINT) is answer


def test_an_exit_stays_an_exit(configure: Configure, shoot: Shoot) -> None:
    def leave(step: int) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit) as exit_:
        shoot(configure(), progress=leave)
    assert exit_.value.code == 3


def test_threads_are_as_many_as_asked_for(configure: Configure, shoot: Shoot) -> None:
    shoot(configure(trainer__threads=2))
    assert torch.get_num_threads() == 2


def test_progress_is_told_and_ends_complete(configure: Configure, shoot: Shoot) -> None:
    told: list[int] = []
    _, fitted = shoot(configure(), progress=told.append)
    assert told[-1] == fitted.steps == 8
    assert told == sorted(told)
