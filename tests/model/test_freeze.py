"""Frozen means frozen, as a property over backbones, depths and modes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graft.errors import GraftError
from graft.model.backbone import torchvision_names
from graft.model.classifier import Classifier
from graft.model.freeze import freeze, parameter_groups

MAIN = ("small_cnn", "resnet18")
#: The smallest member of every torchvision family; the full suite takes all.
FAMILIES = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "mnasnet0_5",
    "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_32",
)  # fmt: skip
OWN = ("cnn2", "row_rnn", "row_lstm", "row_gru")
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "sgd_momentum_decay": lambda parameters: torch.optim.SGD(
        parameters, lr=0.1, momentum=0.9, weight_decay=0.1
    ),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.1),
}


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def train_a_step(classifier: Classifier, optimizer: str, side: int, steps: int = 1) -> None:
    torch.manual_seed(1)
    trained = [p for members in parameter_groups(classifier).values() for _, p in members]
    stepper = OPTIMIZERS[optimizer](trained)
    for _ in range(steps):
        loss = F.cross_entropy(classifier(torch.randn(4, 3, side, side)), torch.tensor([0, 1, 2, 3]))
        stepper.zero_grad()
        loss.backward()
        stepper.step()


def assert_frozen_exactly(classifier: Classifier, depth: int, before: dict[str, Tensor]) -> None:
    """Frozen parts did not move by a bit, every trainable part did, gradients are where they belong."""
    moved = changed(classifier, before)
    for number, stage in enumerate(classifier.backbone.stages, start=1):
        prefix = f"backbone.stages.{number - 1}."
        moved_here = {name for name in moved if name.startswith(prefix)}
        if number <= depth:
            assert not moved_here
            assert not any(module.training for module in stage.modules())
            assert all(p.grad is None and not p.requires_grad for p in stage.parameters())
        else:
            names = {name for name, _ in stage.named_parameters(prefix.rstrip("."))}
            assert names <= {name for name, p in classifier.named_parameters() if p.grad is not None}
            assert bool(moved_here) == bool(names)
            running = {name for name in before if name.startswith(prefix) and name.endswith("running_mean")}
            assert running <= moved
    assert any(name.startswith("head.") for name in moved)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", MAIN)
@pytest.mark.parametrize("depth", range(6))
def test_exactly_the_unfrozen_parts_move(built, name: str, depth: int, optimizer: str) -> None:
    classifier = built(name)
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))  # so that decay moves every one
            parameter.grad = None
    freeze(classifier, depth)
    classifier.eval().train()
    before = snapshot(classifier)
    train_a_step(classifier, optimizer, 16, steps=2)
    assert_frozen_exactly(classifier, depth, before)
    trained = {name for name, p in classifier.named_parameters() if p.requires_grad}
    assert trained <= changed(classifier, before)


def check_family(
    classifier: Classifier, side: int, depths: tuple[int, ...], optimizer: str = "sgd_momentum_decay"
) -> None:
    for depth in depths:
        for parameter in classifier.parameters():
            parameter.grad = None
        freeze(classifier, depth)
        classifier.train()
        before = snapshot(classifier)
        train_a_step(classifier, optimizer, side)
        assert_frozen_exactly(classifier, depth, before)
        classifier.load_state_dict(before)  # steps this long, one after another, would saturate the loss


@pytest.mark.parametrize("name", OWN)
def test_own_networks_freeze_at_every_depth(built, name: str) -> None:
    check_family(built(name), 32, (5, 4, 3, 2, 1, 0))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_freezes(built, side_of, name: str) -> None:
    check_family(built(name), side_of(name), (5, 4, 3, 2, 1, 0))


def test_a_family_of_one_size_freezes(make, side_of) -> None:
    """MaxViT takes 224 px or nothing, which is dear: two depths here, all of them in the full suite."""
    check_family(make("maxvit_t"), side_of("maxvit_t"), (5, 2))


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", torchvision_names())
def test_every_network_freezes_at_every_depth(make, side_of, name: str) -> None:
    check_family(make(name), side_of(name), (5, 4, 3, 2, 1, 0), "sgd")


@pytest.mark.parametrize("name", [*MAIN, "efficientnet_b0", "convnext_tiny", "swin_t"])
def test_frozen_features_do_not_depend_on_batch_mates_or_chance(built, name: str) -> None:
    classifier = built(name)
    freeze(classifier, 3)
    classifier.train()
    image, mates = torch.randn(1, 3, 32, 32), torch.randn(2, 3, 3, 32, 32)
    prefix = classifier.backbone.stages[:3]
    outputs = []
    for others in mates:
        x = torch.cat([image, others])
        for stage in prefix:
            x = stage(x)
        outputs.append(x[0])
    assert torch.equal(outputs[0], outputs[1])


@pytest.mark.parametrize("name", ["efficientnet_b0", "convnext_tiny", "swin_t"])
def test_stochastic_depth_is_inert_when_frozen_and_live_when_trained(built, name: str) -> None:
    classifier = built(name)
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0  # statistics of a batch would make outputs differ for another reason
    x = torch.randn(8, 3, 32, 32)
    freeze(classifier, 5)
    classifier.train()
    with torch.no_grad():
        assert torch.equal(classifier(x), classifier(x))
        freeze(classifier, 0)
        classifier.train()
        assert not torch.equal(classifier(x), classifier(x))
        classifier.eval()
        assert torch.equal(classifier(x), classifier(x))


@pytest.mark.parametrize("name", [*MAIN, "vit_b_32", "swin_t", "densenet121"])
@pytest.mark.parametrize("depth", [0, 2, 5])
def test_every_parameter_is_in_one_group_or_frozen(built, name: str, depth: int) -> None:
    classifier = built(name)
    freeze(classifier, depth)
    groups = parameter_groups(classifier)
    assert list(groups) == [f"{p}/{k}" for p in ("stage1", "stage2", "stage3", "stage4", "stage5", "head")
                            for k in ("decay", "no_decay")]  # fmt: skip
    claimed = [name for members in groups.values() for name, _ in members]
    assert len(claimed) == len(set(claimed))
    trained = {name for name, p in classifier.named_parameters() if p.requires_grad}
    assert set(claimed) == trained
    assert all(
        not groups[f"stage{number}/{kind}"]
        for number in range(1, depth + 1)
        for kind in ("decay", "no_decay")
    )
    names = {name for name, _ in classifier.named_parameters()}
    one_dimensional = {name for name in names if name.endswith("bias") or ".norm" in name or ".bn" in name}
    spared = {name for key, members in groups.items() if key.endswith("no_decay") for name, _ in members}
    assert one_dimensional & trained <= spared
    assert all("conv" not in name or name.endswith("bias") for name in spared)


def test_norms_traced_into_functions_are_still_spared(built) -> None:
    """ConvNeXt's LayerNorm2d is no leaf of the graph: its part holds a bare parameter."""
    classifier = built("convnext_tiny")
    freeze(classifier, 0)
    groups = parameter_groups(classifier)
    spared = {name for key, members in groups.items() if key.endswith("no_decay") for name, _ in members}
    assert "backbone.stages.4.classifier.0.weight" in spared


def test_freezing_is_a_pure_function_of_depth(built) -> None:
    classifier = built("small_cnn")
    for depth in (5, 1, 3, 0, 4):
        freeze(classifier, depth)
        assert [stage.training for stage in classifier.backbone.stages] == [n > depth for n in range(1, 6)]
        assert classifier.frozen_depth == depth


def test_trainable_state_is_what_moves(built) -> None:
    classifier = built("resnet18")
    freeze(classifier, 3)
    classifier.train()
    before = snapshot(classifier)
    train_a_step(classifier, "adamw", 32)
    assert changed(classifier, before) <= set(classifier.trainable_state())
    assert not any(name.startswith("backbone.stages.2.") for name in classifier.trainable_state())


def test_an_impossible_depth_is_refused(built) -> None:
    with pytest.raises(GraftError, match=r"between 0 and 5, but got 6"):
        freeze(built("small_cnn"), 6)


def test_a_parameter_that_nobody_declared_is_our_mistake(built) -> None:
    classifier = built("small_cnn")
    freeze(classifier, 2)
    weight = classifier.backbone.stage(1).get_parameter("features.0.conv.weight")
    weight.requires_grad_(True)
    with pytest.raises(RuntimeError, match="declared frozen"):
        parameter_groups(classifier)
    freeze(classifier, 0)
