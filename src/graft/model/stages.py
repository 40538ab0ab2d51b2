"""Five stages for every backbone: a network cut in five by its graph, with nothing of it lost.

A `StagePlan` is made once per architecture and process; cutting a further network of it costs milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from graft.config.names import STAGES
from graft.errors import GraftError
from graft.model.boundaries import choose_boundaries, place_node
from graft.model.graph import NamedGraph, cut_names, find_features, norm_parameters, propagate_shapes, trace

Forward = Callable[[nn.Module, Tensor], Tensor]
_plans: dict[Hashable, StagePlan] = {}


@dataclass(frozen=True)
class PartCode:
    """How a part of a network computes, apart from its parameters.

    Attributes:
        train: Forward in train mode. Two graphs, because tracing freezes what depends on ``self.training``.
        evaluate: Forward in eval mode.
        targets: Modules and parameters that the forwards read, by their names in the network.
    """

    train: Forward
    evaluate: Forward
    targets: tuple[str, ...]


@dataclass(frozen=True)
class StagePlan:
    """Where an architecture is cut, and how its parts compute.

    Attributes:
        boundaries: Last node of each stage; an empty stage repeats the one before it.
        shapes: Shape of one image's activation after each stage, without the batch axis.
        cuts: All nodes, in order, at which the network can be cut.
        moved_to: The node to which a boundary was moved; None where all are natural.
        feature_dim: Length of the flattened features.
        tail: The classifier, from the features to scores.
        last_layer: Name of the last layer of the tail; ``None`` where the classifier is a convolution, and
            then the
            tail does not take flattened features.
        constants: Tensors that the network computes once, by the names that the code gives them.
    """

    boundaries: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    cuts: tuple[str, ...]
    feature_dim: int
    stages: tuple[PartCode, ...]
    tail: PartCode
    last_layer: str | None
    constants: dict[str, Tensor] = field(default_factory=dict)
    moved_to: str | None = None


class Part(nn.Module):
    """A part of a network; holds its modules under the names they have in the network."""

    def __init__(self, code: PartCode, norms: frozenset[str]) -> None:
        super().__init__()
        self._code = code
        self._norms = norms

    @property
    def norms(self) -> frozenset[str]:
        """Names of the parameters of this part that belong to normalisation layers."""
        return self._norms

    def forward(self, x: Tensor) -> Tensor:
        """Map the activation before this part to the one after it."""
        code = self._code
        return (code.train if self.training else code.evaluate)(self, x)

    def with_module(self, name: str, replacement: nn.Module) -> Part:
        """Return a copy of this part with another module at ``name``; it shares all others."""
        copy = _gather(self, self._code, self._norms, {})
        holder, _, leaf = name.rpartition(".")
        setattr(copy.get_submodule(holder), leaf, replacement)
        return copy


def plan_stages(
    network: nn.Module,
    example_shape: tuple[int, ...],
    key: Hashable | None = None,
    freeze_until: str | None = None,
) -> StagePlan:
    """Find where to cut ``network``.

    Args:
        network: The whole network, classifier included. It is not changed.
        example_shape: Shape of an input, ``(N, C, H, W)``, large enough that no level of resolution vanishes.
        key: Architecture and options; a second call with the same key returns the first one's plan.
        freeze_until: One of the cuts, to which the boundary of the stage around it moves; None leaves all.

    Raises:
        GraftError: The network cannot be traced, has no classifier at its end, or cannot be cut before it.
    """
    if key is not None and (key, freeze_until) in _plans:
        return _plans[key, freeze_until]
    evaluated, trained = trace(network, training=False), trace(network, training=True)
    shapes = propagate_shapes(network, evaluated, example_shape)
    features, is_linear = find_features(network, evaluated)
    cuts = _cuts_up_to(evaluated, trained, features, shapes)
    boundaries = _move(choose_boundaries(network, evaluated, shapes, cuts), cuts, freeze_until)
    graphs = (trained, evaluated)
    starts = [None, *boundaries[:-1]]
    codes = [
        _compile(
            network, graphs, start, end, _finish(shapes[features], is_linear) if end == boundaries[-1] else ()
        )
        for start, end in zip(starts, boundaries, strict=True)
    ]
    empty = STAGES - len(codes)
    pooled = _pooled_shape(shapes[features], is_linear)
    activations = [tuple(shapes[evaluated.named(name)][1:]) for name in boundaries[:-1]] + [pooled]
    plan = StagePlan(
        boundaries=(*boundaries, *[boundaries[-1]] * empty),
        shapes=(*activations, *[pooled] * empty),
        cuts=tuple(cuts),
        feature_dim=pooled[0],
        stages=(*codes, *[PartCode(_same, _same, ())] * empty),
        tail=_compile(network, graphs, boundaries[-1], None, ()),
        last_layer=_last_linear(network, evaluated) if is_linear else None,
        constants=_take_constants(network),
        moved_to=freeze_until,
    )
    if key is not None:
        _plans[key, freeze_until] = plan
    return plan


def _move(boundaries: list[str], cuts: list[str], freeze_until: str | None) -> list[str]:
    """Return the boundaries, the one of the stage around ``freeze_until`` moved to it."""
    if freeze_until is None:
        return boundaries
    five = boundaries + boundaries[-1:] * (STAGES - len(boundaries))
    depth, _ = place_node(five, cuts, freeze_until)
    five[depth - 1] = freeze_until
    return list(dict.fromkeys(five))


def cut(network: nn.Module, plan: StagePlan) -> tuple[list[Part], Part]:
    """Cut a network as planned into its five stages and its tail. The parts share the network's modules.

    Raises:
        GraftError: A parameter of the network is used by two of the parts, or by none.
    """
    norms = norm_parameters(network)
    stages = [_assemble(network, code, norms, plan.constants) for code in plan.stages]
    tail = _assemble(network, plan.tail, norms, plan.constants)
    owners: dict[int, str] = {}
    for place, part in [
        *((f"stage {number}", stage) for number, stage in enumerate(stages, start=1)),
        ("the head", tail),
    ]:
        for name, parameter in part.named_parameters():
            if id(parameter) in owners:
                raise GraftError(
                    f"Expected every parameter in one stage, but {name!r} is used in "
                    f"{owners[id(parameter)]} and in {place}: a backbone with weights shared between stages "
                    "cannot be frozen to a depth."
                )
            owners[id(parameter)] = place
    unused = [name for name, parameter in network.named_parameters() if id(parameter) not in owners]
    if unused:
        raise GraftError(
            "Expected a backbone that uses all its parameters, but its output "
            f"does not depend on: {', '.join(unused)}."
        )
    return stages, tail


def _take_constants(network: nn.Module) -> dict[str, Tensor]:
    """Take back the tensors that tracing left on ``network``; copies of its plan bring them along."""
    names = [name for name in vars(network) if name.startswith("_tensor_constant")]
    constants = {name: getattr(network, name) for name in names}
    for name in names:
        delattr(network, name)
    return constants


def _same(part: nn.Module, x: Tensor) -> Tensor:
    return x


def _cuts_up_to(
    evaluated: NamedGraph, trained: NamedGraph, features: fx.Node, shapes: dict[fx.Node, torch.Size]
) -> list[str]:
    """List the nodes where the network can be cut in both modes, up to the features."""
    in_training = set(cut_names(trained))
    tensors = {evaluated.names[node] for node in shapes}
    cuts = [name for name in cut_names(evaluated) if name in in_training and name in tensors]
    end = evaluated.names[features]
    if end not in cuts:
        raise GraftError(
            f"Expected a backbone whose features alone feed its classifier, but at {end!r} more is alive."
        )
    return cuts[: cuts.index(end) + 1]


def _pooled_shape(shape: torch.Size, is_linear: bool) -> tuple[int]:
    if not is_linear and len(shape) == 4:
        return (shape[1],)
    return (shape[1:].numel(),)


def _finish(shape: torch.Size, is_linear: bool) -> tuple[tuple[Callable[..., Tensor], tuple[Any, ...]], ...]:
    """Say which operations turn the last activation into flattened features."""
    flatten = (torch.flatten, (1,))
    if not is_linear and len(shape) == 4:
        return (nn.functional.adaptive_avg_pool2d, (1,)), flatten
    return (flatten,) if len(shape) > 2 else ()


def _compile(
    network: nn.Module,
    graphs: tuple[NamedGraph, NamedGraph],
    start: str | None,
    end: str | None,
    finish: Iterable[tuple[Callable[..., Tensor], tuple[Any, ...]]],
) -> PartCode:
    """Turn the nodes after ``start`` up to ``end`` into code, in both modes."""
    finish = tuple(finish)
    segments = [_copy_segment(named, start, end, finish) for named in graphs]
    # A graph module compiles the code; which modules the code runs on is the caller's matter.
    forwards: list[Forward] = [type(fx.GraphModule(network, segment)).forward for segment in segments]
    targets = [
        str(node.target)
        for segment in segments
        for node in segment.nodes
        if node.op in {"call_module", "get_attr"}
    ]
    return PartCode(forwards[0], forwards[1], tuple(dict.fromkeys(targets)))


def _copy_segment(
    named: NamedGraph,
    start: str | None,
    end: str | None,
    finish: tuple[tuple[Callable[..., Tensor], tuple[Any, ...]], ...],
) -> fx.Graph:
    graph = fx.Graph()
    names = [named.names[node] for node in named.nodes]
    first = names.index(start) if start is not None else next(
        index for index, node in enumerate(named.nodes) if node.op == "placeholder"
    )  # fmt: skip
    output = next(node for node in named.nodes if node.op == "output")
    last = names.index(end) if end is not None else named.nodes.index(output) - 1
    held = {named.nodes[first]: graph.placeholder("x")}

    def place(node: fx.Node) -> fx.Node:
        if node not in held and node.op == "get_attr":
            held[node] = graph.node_copy(node)
        return held[node]

    for node in named.nodes[first + 1 : last + 1]:
        # A parameter is read where it is used: reading it where it is named could claim another stage's.
        if node.op not in {"get_attr", "placeholder", "output"}:
            held[node] = graph.node_copy(node, place)
    value: Any = place(named.nodes[last]) if end is not None else fx.map_arg(output.args[0], place)
    for function, arguments in finish:
        value = graph.call_function(function, (value, *arguments))
    graph.output(value)
    return graph


def _last_linear(network: nn.Module, named: NamedGraph) -> str:
    modules = dict(network.named_modules())
    layers = [str(node.target) for node in named.nodes if node.op == "call_module"]
    return next(name for name in reversed(layers) if isinstance(modules[name], nn.Linear))


def _assemble(
    network: nn.Module, code: PartCode, norms: frozenset[str], constants: dict[str, Tensor]
) -> Part:
    """Gather what ``code`` reads under the same names."""
    names = {
        name for target in code.targets for name in norms if name == target or name.startswith(f"{target}.")
    }
    return _gather(network, code, frozenset(names), constants)


def _gather(network: nn.Module, code: PartCode, norms: frozenset[str], constants: dict[str, Tensor]) -> Part:
    part = Part(code, norms)
    for target in code.targets:
        *path, leaf = target.split(".")
        holder: nn.Module = part
        source = network
        for name in path:
            if name not in holder._modules:
                holder.add_module(name, nn.Module())
            holder, source = holder.get_submodule(name), source.get_submodule(name)
        value = getattr(source, leaf) if hasattr(source, leaf) else constants[target]
        if isinstance(value, nn.Module):
            holder.add_module(leaf, value)
        elif isinstance(value, nn.Parameter):
            holder.register_parameter(leaf, value)
        else:
            persistent = leaf in source._buffers and leaf not in source._non_persistent_buffers_set
            holder.register_buffer(leaf, value, persistent=persistent)
    return part
