from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, ReduceLROnPlateau, StepLR

from graft.config.schema import Config, OptimConfig
from graft.model.classifier import Classifier
from graft.model.freeze import parameter_groups
from graft.train.losses import build_loss
from graft.train.optim import OPTIMIZERS, Plateau, build_optimizer, schedule_factor
from graft.train.task import TransferTask

Configure = Callable[..., Config]
Classify = Callable[..., Classifier]


def follow(scheduler: Callable[[SGD], LRScheduler], steps: int) -> list[float]:
    """Return the rates of one of torch's schedules."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = scheduler(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        schedule.step()
    return rates


def factors(steps: int, **knobs: Any) -> list[float]:
    factor = schedule_factor(OptimConfig(**knobs), steps)
    return [factor(step) for step in range(steps)]


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_cosine_is_that_of_torch(steps: int) -> None:
    expected = follow(lambda optimizer: CosineAnnealingLR(optimizer, T_max=steps), steps)
    assert factors(steps, schedule="cosine") == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("every", [0.1, 0.25, 0.33, 0.5, 1.0])
@pytest.mark.parametrize("decay", [0.1, 0.5])
def test_step_is_that_of_torch(every: float, decay: float) -> None:
    steps = 300
    expected = follow(lambda optimizer: StepLR(optimizer, round(every * steps), gamma=decay), steps)
    assert factors(steps, schedule="step", step_every=every, decay_factor=decay) == pytest.approx(expected)


@pytest.mark.parametrize("climb", [0.1, 0.3, 0.5])
def test_one_cycle_has_the_shape_of_torch(climb: float) -> None:
    """Torch takes its first step at the lowest rate; graft climbs from its first step."""
    steps = 100
    up = round(climb * steps)
    torch_up = follow(lambda o: OneCycleLR(o, 1.0, total_steps=steps + 1, pct_start=(up + 1) / (steps + 1),
                                           div_factor=25, final_div_factor=400), steps + 1)  # fmt: skip
    found = factors(steps, schedule="one_cycle", warmup=climb)
    assert found[:up] == pytest.approx(torch_up[1 : up + 1])
    assert found[up:] == pytest.approx(torch_up[up:steps])
    assert max(found) == 1


def test_one_cycle_without_a_warm_up_climbs_for_three_tenths() -> None:
    assert factors(50, schedule="one_cycle") == factors(50, schedule="one_cycle", warmup=0.3)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step", "plateau"])
def test_a_warm_up_climbs_in_a_line_and_then_the_shape_begins(schedule: str) -> None:
    found = factors(40, schedule=schedule, warmup=0.25)
    assert found[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert found[10:] == pytest.approx(factors(30, schedule=schedule))


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle", "step", "plateau"])
@pytest.mark.parametrize("steps", [1, 2, 3, 50])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.9])
def test_every_rate_is_positive_and_at_most_the_peak(schedule: str, steps: int, warmup: float) -> None:
    found = factors(steps, schedule=schedule, warmup=warmup)
    assert all(0 < factor <= 1 for factor in found)


@given(st.lists(st.floats(0.1, 1.0), max_size=60), st.integers(1, 4), st.floats(0.1, 0.9))
@settings(max_examples=50, deadline=None)
def test_a_plateau_drops_when_torch_would(losses: list[float], checks: int, factor: float) -> None:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = ReduceLROnPlateau(optimizer, factor=factor, patience=checks - 1, eps=0)
    plateau = Plateau(factor, checks)
    for loss in losses:
        schedule.step(loss)
        plateau.observe(loss)
        assert plateau.multiple == pytest.approx(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("depth", range(6))
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_group_has_its_rate_and_its_decay(
    configure: Configure, classify: Classify, name: str, depth: int
) -> None:
    config = configure(
        backbone__name="small_cnn", transfer__freeze_depth=depth, optim__name=name, optim__lr=0.1,
        optim__backbone_lr_multiplier=0.2, optim__weight_decay=0.03,
    )  # fmt: skip
    classifier = classify(config)
    groups = parameter_groups(classifier)
    optimizer = build_optimizer(config.optim, groups)
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(0.1 if group["name"].startswith("head") else 0.02)
        assert group["weight_decay"] == (0.03 if group["name"].endswith("/decay") else 0.0)
        assert [id(p) for p in group["params"]] == [id(p) for _, p in groups[group["name"]]]
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in classifier.parameters() if p.requires_grad}
    assert not any(
        group["name"] in [f"stage{n}/decay" for n in range(1, depth + 1)] for group in optimizer.param_groups
    )


def test_norms_and_biases_decay_when_asked(configure: Configure, classify: Classify) -> None:
    config = configure(optim__weight_decay=0.03, optim__decay_norms_and_biases=True)
    optimizer = build_optimizer(config.optim, parameter_groups(classify(config)))
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.03}


def test_momentum_and_nesterov_reach_sgd(configure: Configure, classify: Classify) -> None:
    config = configure(optim__momentum=0.7, optim__nesterov=True)
    optimizer = build_optimizer(config.optim, parameter_groups(classify(config)))
    assert all(group["momentum"] == 0.7 and group["nesterov"] for group in optimizer.param_groups)


def test_penalties_have_the_gradient_of_their_formula(configure: Configure, classify: Classify) -> None:
    """The L1 penalty pulls with the sign, the L2 penalty with the parameter; frozen parts feel neither."""
    batch = {
        "image": torch.rand(4, 1, 16, 16),
        "label": torch.arange(4) % 3,
        "weight": torch.full((4,), 0.25),
    }
    gradients = []
    for l1, l2 in ((0.0, 0.0), (0.01, 0.0), (0.0, 0.02), (0.01, 0.02)):
        config = configure(optim__l1=l1, optim__l2=l2, transfer__freeze_depth=2)
        classifier = classify(config)
        task = TransferTask(classifier, config.optim, build_loss(config.loss), 10)
        task.training_step(batch, 0).backward()
        gradients.append({name: p.grad for name, p in classifier.named_parameters()})
        plain = gradients[0]
        for name, parameter in classifier.named_parameters():
            if not parameter.requires_grad:
                assert parameter.grad is None
                continue
            expected = plain[name] + l1 * parameter.detach().sign() + l2 * parameter.detach()
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-6)


def test_a_penalty_is_no_part_of_the_loss_that_is_shown(configure: Configure, classify: Classify) -> None:
    batch = {
        "image": torch.rand(4, 1, 16, 16),
        "label": torch.arange(4) % 3,
        "weight": torch.full((4,), 0.25),
    }
    shown = []
    for l2 in (0.0, 5.0):
        config = configure(optim__l2=l2)
        task = TransferTask(classify(config), config.optim, build_loss(config.loss), 10)
        task.training_step(batch, 0)
        shown.append(task.partial_loss()[0])
    assert shown[0] == shown[1]
