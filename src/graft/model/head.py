"""The registry of heads: what maps features to class scores."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graft.config.names import HEADS
from graft.config.schema import HeadConfig
from graft.errors import GraftError, expected_one_of
from graft.model.backbone import Backbone

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


class Head(nn.Module):
    """Features ``(N, D)`` to scores ``(N, num_outputs)``.

    Attributes:
        layers: What computes.
        frozen_names: Parameters that do not train, by name; the modules that hold them stay in eval mode.
    """

    def __init__(self, layers: nn.Module, last: nn.Module, kept_is_frozen: bool = False) -> None:
        super().__init__()
        self.layers = layers
        self._last = (last,)
        self.frozen_names: frozenset[str] = frozenset()
        if kept_is_frozen:
            trained = {id(parameter) for parameter in last.parameters()}
            kept = {name: p for name, p in self.named_parameters() if id(p) not in trained}
            self.frozen_names = frozenset(kept)
            for parameter in kept.values():
                parameter.requires_grad_(False)
        self._kept_is_frozen = kept_is_frozen

    @property
    def last(self) -> nn.Module:
        """The last layer, which returns the scores."""
        return self._last[0]

    def forward(self, features: Tensor) -> Tensor:
        """Map features ``(N, D)`` to scores ``(N, num_outputs)``."""
        scores: Tensor = self.layers(features)
        return scores

    def layers_state_dict(self) -> dict[str, Tensor]:
        """Return the state by the names of the layers, which a weights bundle carries."""
        return {name: value.detach() for name, value in self.layers.state_dict().items()}

    def train(self, mode: bool = True) -> Head:
        """Set the mode; kept layers that are frozen stay in eval mode, so that their dropout is inert."""
        super().train(mode and not self._kept_is_frozen)
        self.training = mode
        self.last.train(mode)
        return self


class Cosine(nn.Module):
    """Scaled cosine similarity of the features to one learned direction per class.

    Source: Gidaris & Komodakis 2018, Dynamic Few-Shot Visual Learning without Forgetting, equation 3.
    """

    def __init__(self, feature_dim: int, num_outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_outputs, feature_dim))
        self.scale = nn.Parameter(torch.tensor(10.0))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, features: Tensor) -> Tensor:
        """Map features ``(N, D)`` to scores ``(N, num_outputs)``."""
        return self.scale * F.linear(F.normalize(features, dim=1), F.normalize(self.weight, dim=1))


class _Order(NamedTuple):
    config: HeadConfig
    backbone: Backbone
    num_outputs: int
    method: str


def build_head(
    config: HeadConfig,
    backbone: Backbone,
    num_outputs: int,
    weights_head: dict[str, Tensor] | None,
    method: str,
) -> Head:
    """Build a head with ``num_outputs`` outputs; new layers draw from torch's global generator.

    Args:
        config: Which head, and how it starts.
        backbone: Gives the length of the features, and its own classifier for ``pretrained_classifier``.
        num_outputs: Scores per image.
        weights_head: The head that came with the weights, by the names of this head or of the network's
            classifier.
        method: ``transfer.method``; under ``linear_probe`` only the last layer trains.

    Raises:
        GraftError: The name is unknown, or the head that came with the weights does not fit.
    """
    if config.name not in HEAD_BUILDERS:
        raise GraftError(expected_one_of("head.name", config.name, HEADS))
    head = HEAD_BUILDERS[config.name](_Order(config, backbone, num_outputs, method))
    _INITIALISERS[config.init](head, config, weights_head)
    return head


def _build_linear(order: _Order) -> Head:
    layer = nn.Linear(order.backbone.feature_dim, order.num_outputs)
    return Head(layer, layer)


def _build_mlp(order: _Order) -> Head:
    config = order.config
    widths = [order.backbone.feature_dim, *config.hidden]
    layers: list[nn.Module] = []
    for width_in, width_out in itertools.pairwise(widths):
        layers += [nn.Linear(width_in, width_out), _ACTIVATIONS[config.activation]()]
        if config.dropout:
            layers.append(nn.Dropout(config.dropout))
    layers.append(nn.Linear(widths[-1], order.num_outputs))
    return Head(nn.Sequential(*layers), layers[-1])


def _build_cosine(order: _Order) -> Head:
    layer = Cosine(order.backbone.feature_dim, order.num_outputs)
    return Head(layer, layer)


def _build_pretrained_classifier(order: _Order) -> Head:
    """Keep the network's own classifier up to its last layer, and put a new one in that place."""
    tail, last_layer = order.backbone.tail, order.backbone.plan.last_layer
    if tail is None or last_layer is None:
        raise GraftError(
            "Expected a backbone whose classifier ends in a linear layer with "
            "`head=pretrained_classifier`, but this one's is a convolution. "
            "`head=linear` takes its pooled features."
        )
    kept_is_frozen = order.method == "linear_probe"
    old = tail.get_submodule(last_layer)
    assert isinstance(old, nn.Linear)
    last = nn.Linear(old.in_features, order.num_outputs, bias=old.bias is not None)
    replaced = tail.with_module(last_layer, last)
    for module in replaced.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]  # features may be read again from a cache
    return Head(replaced, last, kept_is_frozen)


def _initialise_new(head: Head, config: HeadConfig, weights_head: dict[str, Tensor] | None) -> None:
    """Leave the layers as they were drawn."""


def _initialise_zero(head: Head, config: HeadConfig, weights_head: dict[str, Tensor] | None) -> None:
    """Set the last layer to zero, so that all classes start equal.

    Raises:
        GraftError: The head is ``cosine``.
    """
    if isinstance(head.last, Cosine):
        raise GraftError(
            "Expected `head.init=new` or `from_weights` with "
            "`head=cosine`, but got zero: it has no direction."
        )
    for parameter in head.last.parameters():
        nn.init.zeros_(parameter)


def _initialise_from_weights(head: Head, config: HeadConfig, weights_head: dict[str, Tensor] | None) -> None:
    """Take over the head that came with the weights, whole.

    Raises:
        GraftError: There is none, or its names or shapes differ.
    """
    if not weights_head:
        raise GraftError(
            "Expected weights with a head for `head.init=from_weights`, but got weights without one."
        )
    own = head.layers_state_dict()
    given = weights_head
    if isinstance(head.layers, nn.Linear) and set(given) != set(own):
        given = {name.rpartition(".")[2]: value for name, value in given.items()}
    wrong = [
        f"{name}: {tuple(given[name].shape) if name in given else 'missing'} != {tuple(value.shape)}"
        for name, value in own.items()
        if name not in given or given[name].shape != value.shape
    ]
    if wrong or len(weights_head) != len(own):
        listed = "; ".join(wrong) or f"{', '.join(weights_head)} are given, {', '.join(own)} are expected"
        raise GraftError(
            f"Expected the head that came with the weights to fit `head.name={config.name}`, but: {listed}. "
            "`head.init=new` draws a new one."
        )
    head.layers.load_state_dict({name: given[name] for name in own})


HEAD_BUILDERS: dict[str, Callable[[_Order], Head]] = {
    "linear": _build_linear,
    "mlp": _build_mlp,
    "cosine": _build_cosine,
    "pretrained_classifier": _build_pretrained_classifier,
    "ridge": _build_linear,  # solved instead of trained, see `graft.train.ridge_fit`
}
_INITIALISERS: dict[str, Callable[[Head, HeadConfig, dict[str, Tensor] | None], None]] = {
    "new": _initialise_new,
    "zero": _initialise_zero,
    "from_weights": _initialise_from_weights,
}
