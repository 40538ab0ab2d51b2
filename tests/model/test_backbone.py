"""The registry of networks: names, sizes, channels, and networks of other packages."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from graft.config.names import TORCHVISION_BACKBONES
from graft.errors import GraftError
from graft.model import backbone as backbone_module
from graft.model.backbone import build_backbone, build_network, list_backbones, torchvision_names


def build(name: str, image_size: int = 32, channels: int = 3) -> nn.Module:
    return build_network(name, num_classes=4, image_size=image_size, channels=channels)


def test_the_configuration_names_all_of_torchvision() -> None:
    assert tuple(torchvision_names()) == TORCHVISION_BACKBONES


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(GraftError, match=r"one of: resnet18, .*Did you mean 'resnet18'\?"):
        build("resnet_18")


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("vit_b_16", 30, "multiple of 16 px .* but got 30 px. .* 16 or 32"),
        ("vit_b_32", 30, "`data.image_size` 32"),
        ("maxvit_t", 300, "224 or 448"),
        ("inception_v3", 64, "at least 75 px .* but got 64 px"),
        ("alexnet", 32, "at least 63 px"),
        ("cnn2", 3, "at least 4 px"),
        ("small_cnn", 3, "at least 4 px"),
    ],
)
def test_a_size_that_a_network_cannot_take_names_one_that_works(name: str, size: int, message: str) -> None:
    with pytest.raises(GraftError, match=message):
        build(name, size)


def test_torchvision_networks_take_three_channels() -> None:
    with pytest.raises(GraftError, match="Expected 3 channels"):
        build("resnet18", channels=1)


@pytest.mark.parametrize("size", [8, 16, 28, 64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["small_cnn", "cnn2", "row_gru"])
def test_own_networks_take_small_images(name: str, size: int, channels: int) -> None:
    network = build(name, size, channels)
    assert build_backbone(network, name, size, channels)(torch.randn(2, channels, size, size)).dim() == 2


def test_small_cnn_is_small() -> None:
    assert 60_000 < sum(parameter.numel() for parameter in build("small_cnn").parameters()) < 100_000


def test_recurrent_layers_and_width_are_configurable() -> None:
    network = build_network("row_lstm", num_classes=4, image_size=8, channels=1, hidden_size=16, layers=7)
    backbone = build_backbone(network, "row_lstm", 8, 1)
    assert backbone.feature_dim == 16
    assert all(any(True for _ in stage.parameters()) for stage in backbone.stages)


class Tiny(nn.Module):
    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(x))


@pytest.fixture
def installed(monkeypatch) -> Callable[[Callable[..., object]], None]:
    def install(builder: Callable[..., object]) -> None:
        point = SimpleNamespace(name="tiny", load=lambda: builder)
        monkeypatch.setattr(backbone_module, "entry_points", lambda group: [point])

    return install


def test_another_packages_network_is_like_any_other(installed) -> None:
    installed(lambda num_classes, image_size, channels: Tiny(num_classes, channels))
    assert "tiny" in list_backbones()
    backbone = build_backbone(build("tiny", 16), "tiny", 16, 3)
    assert backbone.feature_dim == 4
    assert len(backbone.stages) == 5


def test_another_packages_builder_must_build_a_network(installed) -> None:
    installed(lambda num_classes, image_size, channels: "network")
    with pytest.raises(GraftError, match=r"torch.nn.Module, but got str"):
        build("tiny", 16)


def test_another_packages_network_names_the_sizes_that_it_takes(installed) -> None:
    installed(lambda num_classes, image_size, channels: Tiny(num_classes, channels))
    with pytest.raises(GraftError, match="at least 3 px"):
        build("tiny", 2)
