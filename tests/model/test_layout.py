"""Channels last in memory: the same numbers but for their last digits, the same names and shapes."""

from __future__ import annotations

import pytest
import torch

from graft.model.classifier import build_classifier


def build(build_config, backbone, size, channels, channels_last):
    torch.manual_seed(0)
    config = build_config({"backbone.name": backbone, "trainer.channels_last": channels_last})
    return build_classifier(config, num_classes=3, channels=channels, image_size=size, weights=None)[0]


@pytest.mark.parametrize(("backbone", "size", "channels"), [("small_cnn", 16, 1), ("resnet18", 32, 3)])
def test_the_same_numbers_in_another_order(backbone, size, channels, build_config):
    plain, laid_out = (build(build_config, backbone, size, channels, last).eval() for last in (False, True))
    states = plain.state_dict(), laid_out.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    images = torch.randn(2, channels, size, size)
    with torch.no_grad():
        torch.testing.assert_close(plain(images), laid_out(images), rtol=1e-4, atol=1e-5)
    weights = [value for value in laid_out.parameters() if value.dim() == 4]
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in weights)


def test_a_network_without_convolutions_stays_as_it_is(build_config):
    plain, laid_out = (build(build_config, "row_gru", 16, 1, last).eval() for last in (False, True))
    with torch.no_grad():
        images = torch.randn(2, 1, 16, 16)
        assert torch.equal(plain(images), laid_out(images))
