"""A network cut in five computes what it computed whole."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from graft.errors import GraftError
from graft.model.backbone import Backbone, build_backbone, build_network, torchvision_names
from graft.model.stages import cut, plan_stages

SMALLEST = (
    "small_cnn", "cnn2", "row_rnn", "row_lstm", "row_gru", "alexnet", "convnext_tiny", "densenet121",
    "efficientnet_b0", "googlenet", "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_x_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11",
    "vit_b_32",
)  # fmt: skip

#: Pinned where the architecture has natural stages that people know.
BOUNDARIES = {
    "resnet18": ("maxpool", "layer1.1.relu_1", "layer2.1.relu_1", "layer3.1.relu_1", "flatten"),
    "vgg11": ("features.2", "features.5", "features.10", "features.15", "flatten"),
    "alexnet": ("features.2", "features.5", "features.7", "features.9", "flatten"),
    "swin_t": ("features.0.2", "features.1.1.add_1", "features.3.1.add_1", "features.5.5.add_1", "flatten"),
    "convnext_tiny": ("features.0", "features.1.2.add", "features.3.2.add", "features.5.8.add",
                      "classifier.1"),
    "vit_b_32": ("encoder.dropout", *(f"encoder.layers.encoder_layer_{n}.add_1" for n in (2, 5, 8)),
                 "getitem_5"),
    "cnn2": ("pool", "flatten", "relu_2", "relu_2", "relu_2"),
}  # fmt: skip


@pytest.mark.parametrize("name", SMALLEST)
def test_stages_compose_to_the_network_to_the_bit(name: str, side_of) -> None:
    check_composition(name, side_of(name))


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", sorted(set(torchvision_names()) - set(SMALLEST)))
def test_stages_of_every_network_compose_to_the_bit(name: str, side_of) -> None:
    check_composition(name, side_of(name))


def check_composition(name: str, side: int) -> None:
    torch.manual_seed(0)
    network = build_network(name, num_classes=4, image_size=side, channels=3).eval()
    backbone = build_backbone(network, name, side, 3).eval()
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected, features = network(x), backbone(x)
        assert features.shape == (2, backbone.feature_dim)
        assert backbone.tail is not None
        if backbone.plan.last_layer is None:  # squeezenet classifies by convolution
            assert torch.equal(features, F.adaptive_avg_pool2d(network.features(x), 1).flatten(1))
        else:
            assert torch.equal(backbone.tail.eval()(features), expected)
        for depth in range(6):
            activation = x
            for number in range(1, depth + 1):
                activation = backbone.stage(number)(activation)
            assert torch.equal(backbone.from_stage(depth)(activation), features)
    state = backbone.network_state_dict()
    assert set(state) | set(backbone.tail.state_dict()) == set(network.state_dict())
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in state.items())
    if name in BOUNDARIES:
        assert backbone.plan.boundaries == BOUNDARIES[name]
    assert set(backbone.plan.boundaries) <= set(backbone.plan.cuts)


def build(name: str, side: int, channels: int) -> Backbone:
    network = build_network(name, num_classes=4, image_size=side, channels=channels)
    return build_backbone(network, name, side, channels)


def test_a_second_network_of_an_architecture_shares_the_plan_and_no_weights() -> None:
    torch.manual_seed(0)
    first, second = (build("small_cnn", 16, 1) for _ in range(2))
    assert first.plan is second.plan
    assert not {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}
    assert not torch.equal(first.eval()(torch.ones(1, 1, 16, 16)), second.eval()(torch.ones(1, 1, 16, 16)))


def test_a_backbone_can_be_copied() -> None:
    backbone = build("small_cnn", 16, 1)
    twin = copy.deepcopy(backbone).eval()
    assert torch.equal(twin(torch.ones(1, 1, 16, 16)), backbone.eval()(torch.ones(1, 1, 16, 16)))


def test_a_stage_means_the_same_at_every_image_size() -> None:
    plans = [build("resnet18", side, 3).plan for side in (8, 32, 224)]
    assert plans[0] is plans[1] is plans[2]


LAYERS = st.lists(
    st.tuples(st.sampled_from([3, 4, 6]), st.booleans(), st.booleans(), st.booleans()),
    min_size=1,
    max_size=14,
)


@settings(max_examples=40, deadline=None)
@given(layers=LAYERS, hidden=st.booleans())
def test_any_chain_of_layers_is_cut_into_five(
    layers: list[tuple[int, bool, bool, bool]], hidden: bool
) -> None:
    """Five stages, each with a layer where there are enough, nothing lost and nothing computed otherwise."""
    modules: list[nn.Module] = []
    width, side = 3, 64
    for width_out, has_norm, has_activation, has_pool in layers:
        modules.append(nn.Conv2d(width, width_out, 3, padding=1))
        modules += [nn.BatchNorm2d(width_out)] if has_norm else []
        modules += [nn.ReLU()] if has_activation else []
        if has_pool and side > 1:
            modules.append(nn.MaxPool2d(2))
            side //= 2
        width = width_out
    classifier = [nn.Linear(width, 5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 2)]
    if not hidden:
        classifier = [nn.Linear(width, 2)]
    network = nn.Sequential(
        nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Sequential(*classifier)
    ).eval()
    plan = plan_stages(network, (2, 3, 64, 64))
    stages, tail = cut(network, plan)
    assert len(stages) == 5
    held = [sum(1 for _ in stage.parameters()) for stage in stages]
    assert all(held[: min(5, len(layers))])
    assert set().union(*(part.state_dict() for part in (*stages, tail))) == set(network.state_dict())
    x = torch.randn(2, 3, 64, 64)
    activation = x
    for stage, shape in zip(stages, plan.shapes, strict=True):
        activation = stage.eval()(activation)
        assert tuple(activation.shape[1:]) == shape
    assert torch.equal(tail.eval()(activation), network(x))


def test_more_than_five_resolutions_are_merged_evenly() -> None:
    blocks = [nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.MaxPool2d(2)) for _ in range(7)]
    network = nn.Sequential(nn.Sequential(*blocks, nn.Flatten()), nn.Linear(3, 2))
    stages, _ = cut(network, plan_stages(network, (2, 3, 128, 128)))
    assert sorted(sum(1 for _ in stage.parameters()) // 2 for stage in stages) == [1, 1, 1, 2, 2]


class FunctionalDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(6))
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.dropout(layer(x), 0.5, training=self.training)
        return self.fc(x)


def test_functional_dropout_follows_the_mode_of_its_stage() -> None:
    network = FunctionalDropout()
    stages, _ = cut(network, plan_stages(network, (2, 8)))
    x = torch.randn(4, 8)
    for stage in stages[:4]:  # the dropout directly before the classifier belongs to the head
        stage.train()
        assert not torch.equal(stage(x), stage(x))
        stage.eval()
        assert torch.equal(stage(x), stage(x))


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = -x
        return self.fc(self.conv(x).mean((2, 3)))


class SharedWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(6):
            x = torch.relu(self.conv(x))
        return self.fc(x.mean((2, 3)))


class UnusedWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.forgotten = nn.Linear(4, 4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Untraceable(), "torch.fx can trace"),
        (SharedWeights(), "weights shared between stages"),
        (UnusedWeights(), "forgotten.weight, forgotten.bias"),
        (nn.Sequential(nn.Linear(8, 2)), "has none"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), "last child is its classifier"),
    ],
)
def test_a_network_that_cannot_be_cut_is_refused(network: nn.Module, message: str) -> None:
    is_flat = isinstance(next(network.children()), nn.Linear)
    shape = (2, 8) if is_flat else (2, 3, 8, 8)
    with pytest.raises(GraftError, match=message):
        cut(network, plan_stages(network, shape))
