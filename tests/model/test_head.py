"""Heads, and the classifier they make with a backbone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graft.config.names import HEADS, OWN_BACKBONES
from graft.config.schema import Config, HeadConfig
from graft.errors import GraftError
from graft.model.backbone import build_backbone, build_network
from graft.model.classifier import build_classifier, count_outputs
from graft.model.freeze import parameter_groups
from graft.model.head import HEAD_BUILDERS, build_head
from graft.model.networks import OWN_BUILDERS


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    network = build_network("small_cnn", num_classes=4, image_size=16, channels=1)
    return build_backbone(network, "small_cnn", 16, 1)


def test_registries_have_exactly_the_names_of_the_configuration() -> None:
    assert set(HEAD_BUILDERS) == set(HEADS)
    assert set(OWN_BUILDERS) == set(OWN_BACKBONES)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("outputs", [1, 3, 10])
def test_every_head_really_has_its_outputs(backbone, name: str, outputs: int) -> None:
    head = build_head(HeadConfig(name=name, hidden=[8, 5], dropout=0.5), backbone, outputs, None, "fine_tune")
    assert head(torch.randn(2, backbone.feature_dim)).shape == (2, outputs)
    assert head.last.weight.shape[0] == outputs


def test_the_recipe_that_only_renames_the_outputs_would_not_work() -> None:
    """Assigning ``fc.out_features`` changes no weight; graft builds a new layer."""
    layer = nn.Linear(8, 1000)
    layer.out_features = 10
    assert layer(torch.randn(2, 8)).shape == (2, 1000)
    config = make_config("resnet18")
    classifier, _ = build_classifier(config, num_classes=10, channels=3, image_size=32, weights=None)
    assert classifier.head.last.weight.shape == (10, 512)
    assert classifier(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def make_config(name: str, head: str = "linear", method: str = "fine_tune", depth: int = 0) -> Config:
    config = Config()
    config.backbone.name, config.head.name = name, head
    config.transfer.method, config.transfer.freeze_depth = method, depth
    return config


def test_new_layers_are_drawn_from_the_global_generator(backbone) -> None:
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        heads.append(build_head(HeadConfig(), backbone, 3, None, "fine_tune").last.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_zero_gives_equal_scores(backbone) -> None:
    for name in ("linear", "mlp"):
        head = build_head(HeadConfig(name=name, init="zero"), backbone, 3, None, "fine_tune")
        assert torch.equal(head(torch.randn(2, 64)), torch.zeros(2, 3))
    with pytest.raises(GraftError, match="it has no direction"):
        build_head(HeadConfig(name="cosine", init="zero"), backbone, 3, None, "fine_tune")


def test_cosine_ignores_the_length_of_features(backbone) -> None:
    head = build_head(HeadConfig(name="cosine"), backbone, 3, None, "fine_tune")
    features = torch.randn(2, 64)
    torch.testing.assert_close(head(features), head(7 * features))
    assert head(features).abs().max() <= 10


@pytest.mark.parametrize(("method", "depth"), [("fine_tune", 0), ("fine_tune", 5), ("linear_probe", 5)])
def test_a_kept_classifier_trains_as_head_but_under_a_probe(method: str, depth: int) -> None:
    config = make_config("alexnet", "pretrained_classifier", method, depth)
    classifier, _ = build_classifier(config, num_classes=3, channels=3, image_size=64, weights=None)
    groups = parameter_groups(classifier)
    trained = {name for key in ("head/decay", "head/no_decay") for name, _ in groups[key]}
    last = {"head.layers.classifier.6.weight", "head.layers.classifier.6.bias"}
    kept = {f"head.layers.classifier.{n}.{kind}" for n in (1, 4) for kind in ("weight", "bias")}
    assert trained == (last if method == "linear_probe" else last | kept)
    classifier.train()
    features = torch.randn(4, classifier.backbone.feature_dim)
    assert torch.equal(classifier.head(features), classifier.head(features)) == (method == "linear_probe")
    assert kept.isdisjoint(classifier.trainable_state()) == (method == "linear_probe")


def test_a_convolutional_classifier_cannot_be_kept() -> None:
    config = make_config("squeezenet1_1", "pretrained_classifier")
    with pytest.raises(GraftError, match="is a convolution"):
        build_classifier(config, num_classes=3, channels=3, image_size=64, weights=None)


def test_from_weights_needs_a_head(backbone) -> None:
    with pytest.raises(GraftError, match="weights without one"):
        build_head(HeadConfig(init="from_weights"), backbone, 3, None, "fine_tune")


def test_an_unknown_head_is_refused(backbone) -> None:
    with pytest.raises(GraftError, match=r"Did you mean 'linear'\?"):
        build_head(HeadConfig(name="linaer"), backbone, 3, None, "fine_tune")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, 2.0], r"to have 3 values, one per class .* but got 2: \[1.0, 2.0\]"),
        ([1.0] * 4, "but got 4"),
        ([0.0] * 3, "value above 0"),
    ],
)
def test_class_weights_are_one_per_class(build_config, weights: list[float], message: str) -> None:
    config = build_config({"loss.class_weights": weights})
    with pytest.raises(GraftError, match=message):
        build_classifier(config, num_classes=3, channels=1, image_size=16, weights=None)


def test_one_logit_is_for_two_classes() -> None:
    config = Config()
    config.loss.name = "binary_cross_entropy"
    assert count_outputs(config, 2) == 1
    with pytest.raises(GraftError, match="but got 3 classes"):
        count_outputs(config, 3)
