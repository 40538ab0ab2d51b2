"""Backbone and head together: what one run trains."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from graft.config.schema import Config
from graft.errors import GraftError, expected_one_of
from graft.model.backbone import Backbone, build_backbone, build_network
from graft.model.boundaries import place_node
from graft.model.fit_weights import apply_weights
from graft.model.freeze import freeze
from graft.model.head import Head, build_head
from graft.model.layout import put_channels_last
from graft.model.weights import LoadedWeights


class Classifier(nn.Module):
    """Images to scores.

    Attributes:
        backbone: The network up to its features, in five stages.
        head: Features to scores.
    """

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def features(self, x: Tensor) -> Tensor:
        """Map images ``(N, C, H, W)`` to features ``(N, D)``."""
        features: Tensor = self.backbone(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(N, C, H, W)`` to scores ``(N, num_outputs)``."""
        scores: Tensor = self.head(self.backbone(x))
        return scores

    @property
    def frozen_depth(self) -> int:
        """Leading stages that are frozen."""
        return self.backbone.frozen_depth

    @property
    def trained_parameters(self) -> int:
        """How many numbers training moves."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    def trainable_state(self) -> dict[str, Tensor]:
        """Return what training can change, parameters and buffers, by name in `state_dict`; not copied."""
        frozen = tuple(f"backbone.stages.{index}." for index in range(self.frozen_depth))
        kept = {f"head.{name}" for name in self.head.frozen_names}
        return {
            name: value
            for name, value in self.state_dict().items()
            if not name.startswith(frozen) and name not in kept
        }


def describe_model(classifier: Classifier) -> dict[str, str]:
    """Return what is frozen and what trains, for the record and for people."""
    depth, plan = classifier.frozen_depth, classifier.backbone.plan
    total = sum(parameter.numel() for parameter in classifier.parameters())
    frozen = ", ".join(f"stage{number}" for number in range(1, depth + 1))
    return {
        "frozen_stages": (frozen or "none") + (f", up to {plan.moved_to}" if plan.moved_to else ""),
        "trained_parameters": str(classifier.trained_parameters),
        "parameters": str(total),
    }


def count_outputs(config: Config, num_classes: int) -> int:
    """Return how many scores the head gives: one logit for binary cross-entropy, else one per class.

    Raises:
        GraftError: One logit is asked for with more than two classes.
    """
    if config.loss.name != "binary_cross_entropy":
        return num_classes
    if num_classes != 2:
        raise GraftError(
            "Expected 2 classes with `loss.name=binary_cross_entropy`, which has one logit, but got "
            f"{num_classes} classes. Use `loss.name=cross_entropy`."
        )
    return 1


def check_class_weights(config: Config, num_classes: int) -> None:
    """Refuse weights of classes that do not fit the data.

    Raises:
        GraftError: There are fewer or more than classes, or none is above 0.
    """
    weights = config.loss.class_weights
    if weights is None:
        return
    if len(weights) != num_classes:
        raise GraftError(
            f"Expected `loss.class_weights` to have {num_classes} values, one per class in the order of the "
            f"class names, but got {len(weights)}: {weights}."
        )
    if not any(weights):
        raise GraftError("Expected `loss.class_weights` to have a value above 0, but all are 0.")


def check_fit(config: Config, *, num_classes: int, channels: int, image_size: int) -> None:
    """Refuse, before anything is trained, sizes, outputs and class weights that do not go together.

    Raises:
        GraftError: Backbone, loss and data do not go together.
    """
    count_outputs(config, num_classes)
    check_class_weights(config, num_classes)
    chosen = config.backbone
    _build_once(chosen.name, channels, image_size, chosen.hidden_size, chosen.layers)


def find_cut(config: Config, *, channels: int, image_size: int) -> tuple[int | None, bool]:
    """Say which stage ``transfer.freeze_until`` ends, and whether that stage ends there anyway.

    Args:
        config: A configuration that goes together, see `check_fit`.
        channels: Channels of the preprocessed images.
        image_size: Side of the preprocessed images, in px.

    Returns:
        None for the stage where no node is named.

    Raises:
        GraftError: The backbone cannot be cut there, or ``transfer.freeze_depth`` says another stage.
    """
    chosen, until = config.backbone, config.transfer.freeze_until
    if until is None:
        return None, False
    boundaries, cuts = _plan_once(chosen.name, channels, image_size, chosen.hidden_size, chosen.layers)
    if until not in cuts:
        wrong = expected_one_of("transfer.freeze_until", until, cuts)
        raise GraftError(f"{wrong} All {len(cuts)}: `python -m graft.model.table --cuts {chosen.name}`.")
    depth, is_natural = place_node(boundaries, cuts, until)
    if config.transfer.freeze_depth not in (0, depth):
        raise GraftError(
            f"Expected `transfer.freeze_depth={depth}`, or none, beside `transfer.freeze_until={until}`, "
            f"where stage {depth} of {chosen.name} then ends, but got {config.transfer.freeze_depth}."
        )
    return depth, is_natural


@functools.lru_cache(maxsize=64)
def _plan_once(
    name: str, channels: int, image_size: int, hidden_size: int, layers: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the last nodes of the five stages, and all nodes at which the network can be cut."""
    with torch.random.fork_rng():
        network = build_network(
            name,
            num_classes=2,
            image_size=image_size,
            channels=channels,
            hidden_size=hidden_size,
            layers=layers,
        )
        plan = build_backbone(network, name, image_size, channels).plan
    return plan.boundaries, plan.cuts


@functools.lru_cache(maxsize=64)
def _build_once(name: str, channels: int, image_size: int, hidden_size: int, layers: int) -> None:
    """Build a network only to see whether it can be built."""
    with torch.random.fork_rng():
        build_network(
            name,
            num_classes=2,
            image_size=image_size,
            channels=channels,
            hidden_size=hidden_size,
            layers=layers,
        )


def build_classifier(
    config: Config, *, num_classes: int, channels: int, image_size: int, weights: LoadedWeights | None
) -> tuple[Classifier, list[str]]:
    """Build the network of a run, load its weights and freeze it.

    Random weights come from torch's global generator.

    Args:
        config: Names the backbone, the head, the loss and the freeze depth.
        num_classes: Classes of the target data.
        channels: Channels of the preprocessed images.
        image_size: Side of the preprocessed images, in px.
        weights: What to load; ``None`` leaves the network as it was drawn.

    Returns:
        The classifier in train mode, and lines that the user should read.

    Raises:
        GraftError: The backbone, the weights, the head, the loss, the classes or the image size do not go
            together.
    """
    chosen = config.backbone
    check_class_weights(config, num_classes)
    num_outputs = count_outputs(config, num_classes)
    network = build_network(
        chosen.name,
        num_classes=num_outputs,
        image_size=image_size,
        channels=channels,
        hidden_size=chosen.hidden_size,
        layers=chosen.layers,
    )
    backbone = build_backbone(network, chosen.name, image_size, channels, config.transfer.freeze_until)
    notes: list[str] = []
    weights_head: dict[str, Tensor] | None = None
    if weights is not None:
        weights_head, notes = apply_weights(
            backbone, weights, config.head, allow_partial=chosen.allow_partial
        )
    head = build_head(config.head, backbone, num_outputs, weights_head, config.transfer.method)
    backbone.release_tail()
    classifier = Classifier(backbone, head)
    freeze(classifier, config.transfer.freeze_depth)
    if config.trainer.channels_last:
        put_channels_last(classifier)
    return classifier, notes
