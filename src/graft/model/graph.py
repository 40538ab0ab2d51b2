"""A network as a graph: its nodes by name, where it can be cut in two, and where its features end."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from graft.errors import GraftError

NORM_TYPES: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
    torchvision.ops.FrozenBatchNorm2d,
)
_DROPOUTS: tuple[type[nn.Module], ...] = (nn.modules.dropout._DropoutNd, torchvision.ops.StochasticDepth)
# What may stand between the last linear layers of a classifier.
_CLASSIFIER_TYPES: tuple[type[nn.Module], ...] = (
    nn.Linear, nn.modules.dropout._DropoutNd, nn.Flatten, nn.Identity,
    nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Tanh, nn.Hardswish, nn.LeakyReLU, nn.ELU, nn.Sigmoid,
)  # fmt: skip
_CLASSIFIER_FUNCTIONS = {
    "flatten",
    "relu",
    "relu_",
    "gelu",
    "silu",
    "tanh",
    "hardswish",
    "dropout",
    "log_softmax",
    "softmax",
}
_OPS_MODULES = tuple(
    member
    for _, member in inspect.getmembers(torchvision.ops, inspect.isclass)
    if issubclass(member, nn.Module)
)


class _Tracer(fx.Tracer):
    """Trace down to the layers of torch and the modules of ``torchvision.ops``.

    The latter are kept whole because some (stochastic depth) read ``self.training``, which a graph would
    freeze.
    """

    def __init__(self) -> None:
        super().__init__(autowrap_modules=(math, torchvision.ops))

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Say whether ``m`` stays one node."""
        return isinstance(m, _OPS_MODULES) or super().is_leaf_module(m, module_qualified_name)


@dataclass(frozen=True)
class NamedGraph:
    """One mode's graph of a network."""

    graph: fx.Graph
    nodes: tuple[fx.Node, ...]
    names: dict[fx.Node, str]

    def named(self, name: str) -> fx.Node:
        """Find a node by its name."""
        return next(node for node, known in self.names.items() if known == name)


def trace(network: nn.Module, training: bool) -> NamedGraph:
    """Trace ``network`` in one mode; the mode of each of its modules is left as it was.

    Raises:
        GraftError: If the network's control flow depends on the values of tensors.
    """
    modes = {module: module.training for module in network.modules()}
    try:
        graph = _Tracer().trace(network.train(training))
    except (fx.proxy.TraceError, TypeError) as error:
        raise GraftError(
            f"Expected a backbone that torch.fx can trace, but {type(network).__name__} cannot be: {error}"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    nodes = tuple(graph.nodes)
    seen: Counter[str] = Counter()
    names: dict[fx.Node, str] = {}
    for node in nodes:
        name = _path_of(node)
        names[node] = f"{name}_{seen[name]}" if seen[name] else name
        seen[name] += 1
    return NamedGraph(graph, nodes, names)


def module_stack(node: fx.Node) -> list[tuple[str, type[nn.Module]]]:
    """List the modules a node lies in, the outermost first, as (path, class)."""
    return list(node.meta.get("nn_module_stack", {}).values())


def norm_parameters(network: nn.Module) -> frozenset[str]:
    """Name the parameters of normalisation layers; a whole network knows, its parts have lost the types."""
    return frozenset(
        f"{path}.{name}" if path else name
        for path, module in network.named_modules()
        if isinstance(module, NORM_TYPES)
        for name, _ in module.named_parameters(recurse=False)
    )


def _path_of(node: fx.Node) -> str:
    if node.op in {"call_module", "get_attr", "placeholder", "output"}:
        return str(node.target)
    stack = module_stack(node)
    operation = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "operation")
    return f"{stack[-1][0]}.{operation}" if stack else operation


def propagate_shapes(
    network: nn.Module, named: NamedGraph, example_shape: tuple[int, ...]
) -> dict[fx.Node, torch.Size]:
    """Find the shape of every tensor of the graph without computing anything.

    Args:
        network: The network that was traced.
        named: Its graph in eval mode.
        example_shape: Shape of an input, ``(N, C, H, W)``.
    """
    shapes: dict[fx.Node, torch.Size] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, Tensor):
                shapes[n] = value.shape
            return value

    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            Recorder(network, graph=named.graph).run(torch.empty(example_shape))
    finally:
        for module, mode in modes.items():
            module.training = mode
    return shapes


def cut_names(named: NamedGraph) -> list[str]:
    """List the nodes, in order, after which nothing but their own output is alive.

    Parameters read by ``get_attr`` do not count: a stage reads its own. Sizes do: they would have to be
    carried over.
    """
    last_use = {}
    for position, node in enumerate(named.nodes):
        for source in node.all_input_nodes:
            last_use[source] = position
    cuts, alive = [], set[fx.Node]()
    for position, node in enumerate(named.nodes):
        if node.op not in {"get_attr", "output"}:
            alive.add(node)
        alive = {held for held in alive if last_use.get(held, -1) > position}
        if alive == {node} and node.op != "placeholder":
            cuts.append(named.names[node])
    return cuts


def find_features(network: nn.Module, named: NamedGraph) -> tuple[fx.Node, bool]:
    """Find the node that holds the features: the input of the network's final classifier part.

    That part begins at the first linear layer of the network's last child (with the dropout directly before
    it),
    following the chain back from the output as long as it is made of linear layers and activations.

    Returns:
        The node, and whether a linear classifier begins there. Where the classifier is a convolution, the
        node is
        the input of the last child and its features are still to be pooled.
    """
    modules = dict(network.named_modules())
    output = next(node for node in reversed(named.nodes) if node.op == "output")
    node = _only_input(output)
    last_child: str | None = None
    first_linear: fx.Node | None = None
    while node is not None and _is_classifier_like(node, modules):
        if node.op == "call_module" and isinstance(modules[str(node.target)], nn.Linear):
            child = str(node.target).split(".")[0]
            last_child = last_child or child
            if child != last_child:
                break
            first_linear = node
        node = _only_input(node)
    if first_linear is None:
        return _input_of_last_child(named, modules), False
    features = _only_input(first_linear)
    behind: fx.Node | None = features
    while behind is not None and _is_flatten_or_dropout(behind, modules):
        if _is_dropout(behind, modules):
            features = _only_input(behind)
        behind = _only_input(behind)
    if features is None or features.op == "placeholder":
        raise GraftError(
            f"Expected a backbone with layers before its classifier, but {type(network).__name__} has none."
        )
    return features, True


def _only_input(node: fx.Node) -> fx.Node | None:
    return node.all_input_nodes[0] if len(node.all_input_nodes) == 1 else None


def _function_name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_method" else str(getattr(node.target, "__name__", ""))


def _is_classifier_like(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], _CLASSIFIER_TYPES)
    return node.op in {"call_function", "call_method"} and _function_name(node) in _CLASSIFIER_FUNCTIONS


def _is_dropout(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], _DROPOUTS)
    return _function_name(node) == "dropout"


def _is_flatten_or_dropout(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], (*_DROPOUTS, nn.Flatten, nn.Identity))
    return _function_name(node) in {"flatten", "dropout"}


def _input_of_last_child(named: NamedGraph, modules: dict[str, nn.Module]) -> fx.Node:
    layers = [node for node in named.nodes if node.op == "call_module"]
    with_parameters = [node for node in layers if any(True for _ in modules[str(node.target)].parameters())]
    if with_parameters:
        child = str(with_parameters[-1].target).split(".")[0]
        first = next(node for node in layers if str(node.target).split(".")[0] == child)
        features = _only_input(first)
        if features is not None and features.op != "placeholder":
            return features
    raise GraftError(
        "Expected a backbone whose last child is its classifier (a linear layer, or a "
        "convolution that is pooled), but found none."
    )
