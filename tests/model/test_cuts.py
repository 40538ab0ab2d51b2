"""Freezing up to any node: the network stays the same, and frozen means frozen there, too."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from graft.config.names import STAGES
from graft.config.schema import Config
from graft.errors import GraftError
from graft.model.backbone import Backbone, build_backbone, build_network
from graft.model.boundaries import place_node
from graft.model.classifier import Classifier, build_classifier, describe_model, find_cut
from graft.model.freeze import parameter_groups
from graft.model.table import main

FAMILIES = ("small_cnn", "cnn2", "row_gru", "resnet18", "mobilenet_v3_small", "vit_b_32")
MORE = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "shufflenet_v2_x0_5",
    "squeezenet1_1", "swin_t",
)  # fmt: skip
NODES = [chr(97 + number) for number in range(12)]


def build(name: str, side: int, until: str | None = None) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(
        build_network(name, num_classes=4, image_size=side, channels=3), name, side, 3, until
    )


def choose(name: str, until: str) -> Config:
    config = Config()
    config.backbone.name = name
    config.transfer.method, config.transfer.freeze_until = "fine_tune", until
    return config


def classify(name: str, side: int, until: str) -> Classifier:
    config = choose(name, until)
    depth, _ = find_cut(config, channels=3, image_size=side)
    assert depth is not None
    config.transfer.freeze_depth = depth
    torch.manual_seed(0)
    return build_classifier(config, num_classes=4, channels=3, image_size=side, weights=None)[0]


def pick(cuts: tuple[str, ...], count: int) -> list[str]:
    """Some nodes, evenly spread, the first and the one before the last among them."""
    return [cuts[round(part * (len(cuts) - 2) / (count - 1))] for part in range(count)]


@given(st.sets(st.integers(0, 10), max_size=4), st.sampled_from(NODES))
def test_exactly_one_boundary_moves_and_the_others_keep_their_order(ends, node):
    natural = [NODES[end] for end in sorted(ends)] + [NODES[-1]]
    five = natural + natural[-1:] * (STAGES - len(natural))
    depth, is_natural = place_node(five, NODES, node)
    moved = [*five[: depth - 1], node, *five[depth:]]
    assert is_natural == (node in five)
    assert moved == sorted(moved), "the stages are in the order of the network"
    assert moved[-1] == NODES[-1], "and hold all of it"
    assert moved == five if is_natural else len(set(moved) - set(five)) == 1
    assert depth == STAGES if node == NODES[-1] else depth < STAGES


def check_cuts(name: str, side: int, count: int) -> None:
    natural = build(name, side).eval()
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected = natural(x)
    for node in pick(natural.plan.cuts, count):
        moved = build(name, side, node).eval()
        depth, _ = place_node(natural.plan.boundaries, natural.plan.cuts, node)
        assert moved.plan.boundaries[depth - 1] == node
        differing = [
            one != other for one, other in zip(moved.plan.boundaries, natural.plan.boundaries, strict=True)
        ]
        assert sum(differing) <= 1
        with torch.no_grad():
            activation = x
            for number in range(1, STAGES + 1):
                activation = moved.stage(number)(activation)
                assert activation.dim() - 1 == len(moved.plan.shapes[number - 1])
            assert torch.equal(activation, expected), node
            assert torch.equal(moved(x), expected), node
        state = moved.network_state_dict()
        assert list(state) == list(natural.network_state_dict())
        assert all(torch.equal(value, natural.network_state_dict()[key]) for key, value in state.items())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_cut_elsewhere_computes_the_same_to_the_bit(name, side_of):
    check_cuts(name, side_of(name), 3 if name in FAMILIES[:4] else 2)


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [*FAMILIES, *MORE])
def test_a_network_cut_at_many_nodes_computes_the_same_to_the_bit(name, side_of):
    check_cuts(name, side_of(name), 12)


def check_frozen(name: str, side: int, node: str) -> None:
    classifier = classify(name, side, node)
    classifier.eval().train()
    depth, names = classifier.frozen_depth, [member for member, _ in classifier.named_parameters()]
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    with torch.no_grad():
        activation = torch.randn(4, 3, side, side)
        for number in range(1, depth + 1):
            activation = classifier.backbone.stage(number)(activation)
    trained = [value for members in parameter_groups(classifier).values() for _, value in members]
    stepper = torch.optim.SGD(trained, lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        loss = F.cross_entropy(classifier(torch.randn(4, 3, side, side)), torch.tensor([0, 1, 2, 3]))
        stepper.zero_grad()
        loss.backward()
        stepper.step()
    frozen = tuple(f"backbone.stages.{index}." for index in range(depth))
    for key, value in classifier.state_dict().items():
        if key.startswith(frozen):
            assert torch.equal(value, before[key]), f"{key} moved"
    moved = {key for key, value in classifier.state_dict().items() if not torch.equal(value, before[key])}
    assert {key for key in names if not key.startswith(frozen) and "bias" not in key} <= moved


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("small_cnn", ("features.0.conv", "features.3.norm")),
        ("resnet18", ("conv1", "bn1", "layer2.0.add", "layer4.0.relu_1", "layer4.1.add")),
        ("mobilenet_v3_small", ("features.4.block.1.0", "features.12.0")),
        pytest.param("swin_t", ("features.5.3.add", "norm"), marks=pytest.mark.full),
        ("row_gru", ("getitem",)),
    ],
)
def test_frozen_means_frozen_up_to_the_node(name, nodes, side_of):
    """A cut may part a convolution from its norm, whose statistics then train."""
    cuts = build(name, side_of(name)).plan.cuts
    for node in nodes:
        check_frozen(name, side_of(name), node if node in cuts else pick(cuts, 5)[2])


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [*FAMILIES, *MORE])
def test_frozen_means_frozen_up_to_any_node(name, side_of):
    for node in pick(build(name, side_of(name)).plan.cuts, 8):
        check_frozen(name, side_of(name), node)


def test_what_is_frozen_is_told():
    classifier = classify("resnet18", 32, "layer4.0.relu_1")
    told = describe_model(classifier)["frozen_stages"]
    assert told == "stage1, stage2, stage3, stage4, up to layer4.0.relu_1"


@pytest.mark.parametrize(
    ("node", "placed"),
    [
        ("conv1", (1, False)),
        ("maxpool", (1, True)),
        ("layer3.1.relu_1", (4, True)),
        ("layer4.0.relu_1", (4, False)),
        ("flatten", (5, True)),
    ],
)
def test_a_node_has_a_depth(node, placed):
    assert find_cut(choose("resnet18", node), channels=3, image_size=32) == placed


def test_without_a_node_there_is_no_cut():
    config = choose("resnet18", "")
    config.transfer.freeze_until = None
    assert find_cut(config, channels=3, image_size=32) == (None, False)


def test_a_node_that_is_none_is_named_with_its_nearest():
    with pytest.raises(GraftError) as error:
        find_cut(choose("resnet18", "layer4.0.relu1"), channels=3, image_size=32)
    assert "Expected `transfer.freeze_until` to be one of: layer4.0.relu_1," in str(error.value)
    assert "All 22: `python -m graft.model.table --cuts resnet18`" in str(error.value)


def test_a_depth_that_says_something_else_is_refused():
    config = choose("resnet18", "layer3.0.relu_1")
    config.transfer.freeze_depth = 2
    with pytest.raises(GraftError, match=r"Expected `transfer.freeze_depth=4`, or none, .* but got 2"):
        find_cut(config, channels=3, image_size=32)
    config.transfer.freeze_depth = 4
    assert find_cut(config, channels=3, image_size=32) == (4, False)


def test_the_nodes_of_a_backbone_can_be_listed(capsys):
    main(["--cuts", "resnet18"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 22
    assert lines[3] == "maxpool  (freeze_depth=1)"
    assert "layer4.0.relu_1" in lines
