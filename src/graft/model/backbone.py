"""The registry of networks, and the backbone: a network up to its pooled features, in five stages."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from importlib.metadata import entry_points

import torch
import torchvision
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from graft.config.names import OWN_BACKBONES, STAGES
from graft.errors import GraftError, expected_one_of
from graft.model.networks import OWN_BUILDERS
from graft.model.stages import Part, StagePlan, cut, plan_stages

ENTRY_POINT_GROUP = "graft.backbones"
# Networks whose graph depends on the side of the image, with what the side must be a multiple of.
_MULTIPLES = {"vit_b_16": 16, "vit_b_32": 32, "vit_l_16": 16, "vit_l_32": 32, "vit_h_14": 14, "maxvit_t": 224}
_LARGEST_SIDE_TRIED = 512
_sizes_that_work: set[Hashable] = set()


def torchvision_names() -> list[str]:
    """List torchvision's classification networks."""
    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def native_size(name: str) -> int | None:
    """Return the side in px of the images that default weights expect, ``None`` where there are none."""
    if name not in torchvision_names():
        return None
    side: int = torchvision.models.get_model_weights(name).DEFAULT.transforms().crop_size[0]
    return side


def list_backbones() -> list[str]:
    """List all that `build_network` takes: graft's own, torchvision's, and those of other packages."""
    return [
        *OWN_BACKBONES,
        *torchvision_names(),
        *(point.name for point in entry_points(group=ENTRY_POINT_GROUP)),
    ]


def build_network(
    name: str, *, num_classes: int, image_size: int, channels: int, hidden_size: int = 128, layers: int = 2
) -> nn.Module:
    """Build a whole network with random weights, drawn from torch's global generator.

    Args:
        name: A name of the registry.
        num_classes: Outputs of its classifier.
        image_size: Side of the square images, in px.
        channels: Channels of its input; torchvision's networks take 3 only.
        hidden_size: Recurrent networks only: width of the hidden state.
        layers: Recurrent networks only: stacked recurrences.

    Raises:
        GraftError: The name is unknown, or the network takes no such images.
    """
    if name in OWN_BUILDERS:
        return OWN_BUILDERS[name](num_classes, image_size, channels, hidden_size, layers)
    if name in torchvision_names():
        if channels != 3:
            raise GraftError(f"Expected 3 channels for `backbone.name={name}`, but got {channels}.")
        network = _build_from_torchvision(name, num_classes, image_size)
    else:
        built = _find_builder(name)(num_classes=num_classes, image_size=image_size, channels=channels)
        if not isinstance(built, nn.Module):
            raise GraftError(
                f"Expected the builder of {name!r} to return a "
                f"torch.nn.Module, but got {type(built).__name__}."
            )
        network = built
    _check_image_size(network, name, image_size, channels)
    return network


def _find_builder(name: str) -> Callable[..., object]:
    points = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in points:
        raise GraftError(expected_one_of("backbone.name", name, list_backbones()))
    builder: Callable[..., object] = points[name].load()
    return builder


def _build_from_torchvision(name: str, num_classes: int, image_size: int) -> nn.Module:
    options: dict[str, object] = {}
    if name in {"googlenet", "inception_v3"}:
        # The published weights renormalise their input; so does every network compared with them.
        options = {"aux_logits": False, "init_weights": True, "transform_input": True}
    if name in _MULTIPLES:
        multiple = _MULTIPLES[name]
        if image_size % multiple:
            below, above = image_size // multiple * multiple, (image_size // multiple + 1) * multiple
            choices = f"{below} or {above}" if below else f"{above}"
            raise GraftError(
                f"Expected images with a side that is a multiple of {multiple} px for "
                f"`backbone.name={name}`, but got {image_size} px. The "
                f"nearest that work: `data.image_size` {choices}."
            )
        options["input_size" if name.startswith("maxvit") else "image_size"] = (
            (image_size, image_size) if name.startswith("maxvit") else image_size
        )
    network: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
    return network


def _check_image_size(network: nn.Module, name: str, image_size: int, channels: int) -> None:
    """Try whether ``network`` takes such images, without computing; if not, name the smallest that work."""
    if (name, image_size, channels) in _sizes_that_work:
        return
    native = native_size(name)
    if (native is None or image_size < native) and not _takes(network, image_size, channels):
        low, high = image_size, _LARGEST_SIDE_TRIED
        if not _takes(network, high, channels):
            raise GraftError(
                f"Expected a network that takes images of {image_size} "
                f"px, but `backbone.name={name}` does not."
            )
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if _takes(network, middle, channels) else (middle, high)
        raise GraftError(
            f"Expected images of at least {high} px for `backbone.name={name}`, but got {image_size} px. "
            f"Give `data.image_size={high}` or more."
        )
    _sizes_that_work.add((name, image_size, channels))


def _takes(network: nn.Module, image_size: int, channels: int) -> bool:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            network(torch.empty(2, channels, image_size, image_size))
    except (RuntimeError, ValueError, AssertionError):
        return False
    finally:
        for module, mode in modes.items():
            module.training = mode
    return True


class Backbone(nn.Module):
    """A network up to its flattened, pooled features, in five stages, the first of which may be frozen.

    Attributes:
        stages: The five stages.
        plan: Where the network was cut.
        feature_dim: Length of the features.
        frozen_depth: Leading stages that are frozen; set by `graft.model.freeze.freeze`.
        entry: Leading stages that are left out, because what comes in is their activation already; at most
            ``frozen_depth``.
        tail: The network's own classifier, kept out of this module's parameters; ``None`` once it is
            released.
    """

    def __init__(self, network: nn.Module, plan: StagePlan) -> None:
        super().__init__()
        stages, tail = cut(network, plan)
        self.stages = nn.ModuleList(stages)
        self.plan = plan
        self.feature_dim = plan.feature_dim
        self.frozen_depth = 0
        self.entry = 0
        self._tail: tuple[Part, ...] = (tail,)
        held = set().union(*(part.state_dict() for part in (*stages, tail)))
        # Index tables that tracing turned into constants; kept so that the state has all of the network's
        # names.
        self._tables = {key: value for key, value in network.state_dict().items() if key not in held}
        self._order = {key: position for position, key in enumerate(network.state_dict())}

    @property
    def tail(self) -> Part | None:
        """The network's own classifier, from features to scores."""
        return self._tail[0] if self._tail else None

    @property
    def table_names(self) -> frozenset[str]:
        """Names of tensors that the architecture fixes, which weights need not bring."""
        return frozenset(self._tables)

    def release_tail(self) -> None:
        """Let go of the network's own classifier, which for some networks is most of their memory."""
        self._tail = ()

    def stage(self, number: int) -> Part:
        """Return one stage, counted from 1."""
        part = self.stages[number - 1]
        assert isinstance(part, Part)
        return part

    def from_stage(self, depth: int) -> nn.Sequential:
        """Return the stages after ``depth``: all for 0, an empty sequence for 5."""
        return nn.Sequential(*list(self.stages)[depth:])

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(N, C, H, W)``, or activations after ``entry``, to features ``(N, feature_dim)``."""
        if self.frozen_depth > self.entry:
            with torch.no_grad():
                for stage in self.stages[self.entry : self.frozen_depth]:
                    x = stage(x)
        for stage in self.stages[self.frozen_depth :]:
            x = stage(x)
        return x

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode of the stages that train; frozen ones stay in eval mode."""
        super().train(mode)
        for stage in self.stages[: self.frozen_depth]:
            stage.eval()
        return self

    def network_state_dict(self) -> dict[str, Tensor]:
        """Return parameters and buffers without the classifier's, by the names of the network."""
        state = {
            key: value for stage in self.stages for key, value in stage.state_dict().items()
        } | self._tables
        return {key: state[key].detach() for key in sorted(state, key=lambda key: self._order.get(key, -1))}

    def load_network_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what ``state`` has under the names of the network; other names are left alone."""
        for part in (*self.stages, *self._tail):
            own = part.state_dict()
            part.load_state_dict({key: value for key, value in state.items() if key in own}, strict=False)


def build_backbone(
    network: nn.Module, name: str, image_size: int, channels: int, freeze_until: str | None = None
) -> Backbone:
    """Cut a network into a backbone of five stages and its tail.

    Torchvision's networks are planned at the size of their weights, so that a stage means the same at every
    size.

    Args:
        network: What `build_network` built; the backbone takes over its modules.
        name: Its name in the registry.
        image_size: Side of the images, in px.
        channels: Channels of the images.
        freeze_until: The node at which a stage ends, None for the natural five.
    """
    native = None if name in _MULTIPLES else native_size(name)
    shape = (2, channels, native or image_size, native or image_size)
    signature = tuple((key, tuple(value.shape)) for key, value in network.state_dict().items())
    backbone = Backbone(network, plan_stages(network, shape, (name, shape, signature), freeze_until))
    if len(backbone.stages) != STAGES:
        raise RuntimeError(f"{name} was cut into {len(backbone.stages)} stages.")
    return backbone
