"""Where a network is cut into five: natural boundaries among the nodes at which it can be cut.

The rule, for every network alike:

1. A *unit* is a repeated block of the architecture (a class of its own that occurs at least twice), or else
   a layer, together with the normalisation and the parameter-free nodes that follow it. A cut never falls
   inside a block.
2. Consecutive units of one resolution are a *level*; a change of side by a factor of 1.5 begins the next.
3. More than five levels are merged, evenly by units. With fewer than five, the stem before the first block
   becomes a part of its own; then the level with the most blocks per part is split into equal groups, until
   there are five.
4. A network with fewer than five units has empty stages at its end.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import fx, nn

from graft.config.names import STAGES
from graft.model.graph import NORM_TYPES, NamedGraph, module_stack

_LEVEL_FACTOR = 1.5
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class _Cut(NamedTuple):
    name: str
    depth: int
    ends_block: bool
    side: float | None
    numbers: int
    kind: str


@dataclass
class _Unit:
    cuts: list[_Cut]

    @property
    def is_block(self) -> bool:
        return any(cut.ends_block for cut in self.cuts)

    @property
    def side(self) -> float | None:
        """Side of the layer's map, read after it was reordered (patch embedding), before it is pooled."""
        numbers = next((cut.numbers for cut in self.cuts if cut.kind == "layer"), self.cuts[0].numbers)
        return [cut.side for cut in self.cuts if cut.numbers == numbers][-1]

    def boundary(self) -> str:
        """Name the cut that closes the outermost module, the last of equals."""
        shallowest = min(cut.depth for cut in self.cuts)
        return [cut.name for cut in self.cuts if cut.depth == shallowest][-1]


def choose_boundaries(
    network: nn.Module, named: NamedGraph, shapes: dict[fx.Node, torch.Size], cuts: list[str]
) -> list[str]:
    """Choose the last nodes of the stages, at most five, ending in the last of ``cuts``.

    Args:
        network: The network that was traced.
        named: Its graph in eval mode.
        shapes: Shape of every tensor of the graph.
        cuts: The nodes at which the network can be cut, in order, up to its features.
    """
    classes = _repeated_classes(network, named)
    units = _list_units(network, named, shapes, cuts, classes)
    while len(units) < STAGES and classes:
        classes = _without_outermost(network, classes)
        units = _list_units(network, named, shapes, cuts, classes)
    if len(units) <= STAGES:
        groups = [[unit] for unit in units]
    else:
        levels = _split_into_levels(units)
        groups = _merge(levels) if len(levels) > STAGES else _split(levels)
    return [group[-1].boundary() for group in groups[:-1]] + [cuts[-1]]


def place_node(boundaries: Sequence[str], cuts: Sequence[str], node: str) -> tuple[int, bool]:
    """Say which stage a node ends, and whether that stage ends there anyway.

    The boundary of the stage in which the node lies moves to it; there is one before the last stage only, so
    for a node inside that one it is the fourth.

    Args:
        boundaries: Last node of each of the five stages.
        cuts: The nodes at which the network can be cut, in order.
        node: One of them.
    """
    if node == cuts[-1]:
        return STAGES, True
    ends = [cuts.index(boundary) for boundary in boundaries]
    position = cuts.index(node)
    stage = next(number for number, end in enumerate(ends, start=1) if position <= end)
    return min(stage, STAGES - 1), ends[stage - 1] == position


def _repeated_classes(network: nn.Module, named: NamedGraph) -> set[type[nn.Module]]:
    """Find the classes of blocks: of the architecture's own, with parameters, occurring at least twice."""
    paths: dict[type[nn.Module], set[str]] = defaultdict(set)
    modules = dict(network.named_modules())
    for node in named.nodes:
        for path, kind in module_stack(node):
            is_leaf = node.op == "call_module" and path == node.target
            if is_leaf or kind in _CONTAINERS or issubclass(kind, NORM_TYPES):
                continue
            if any(True for _ in modules[path].parameters()):
                paths[kind].add(path)
    return {kind for kind, places in paths.items() if len(places) > 1}


def _without_outermost(network: nn.Module, classes: set[type[nn.Module]]) -> set[type[nn.Module]]:
    """Drop the classes whose modules hold others of ``classes``; drop all where none does."""
    outermost = {
        type(module)
        for module in network.modules()
        if type(module) in classes
        and any(type(inner) in classes for inner in module.modules() if inner is not module)
    }
    return classes - outermost if outermost else set()


def _list_units(
    network: nn.Module,
    named: NamedGraph,
    shapes: dict[fx.Node, torch.Size],
    cuts: list[str],
    classes: set[type[nn.Module]],
) -> list[_Unit]:
    units: list[_Unit] = []
    for cut in _describe_cuts(network, named, shapes, cuts, classes):
        if cut.kind == "layer" and units and any(held.kind == "layer" for held in units[-1].cuts):
            units.append(_Unit([cut]))
        elif units:
            units[-1].cuts.append(cut)
        else:
            units.append(_Unit([cut]))
    return units


def _describe_cuts(
    network: nn.Module,
    named: NamedGraph,
    shapes: dict[fx.Node, torch.Size],
    cuts: list[str],
    classes: set[type[nn.Module]],
) -> list[_Cut]:
    """Describe the cuts that fall inside no block; each speaks for the nodes since the one before it."""
    last_of = {path: node for node in named.nodes for path, _ in module_stack(node)}
    wanted, described = set(cuts), list[_Cut]()
    kinds: set[str] = set()
    height_first = True
    for node in named.nodes:
        kinds.add(_parameters_of(network, node))
        if named.names[node] not in wanted:
            continue
        stack = module_stack(node)
        side, height_first = _side_of(shapes[node], height_first)
        blocks = [path for path, kind in stack if kind in classes]
        if any(last_of[path] is not node for path in blocks):
            continue
        closed = [
            path
            for path, _ in stack
            if last_of[path] is node or (node.op == "call_module" and path == node.target)
        ]
        depth = closed[0].count(".") + 1 if closed else (stack[-1][0].count(".") + 2 if stack else 1)
        kind = "layer" if "layer" in kinds else "norm" if "norm" in kinds else "free"
        described.append(_Cut(named.names[node], depth, bool(blocks), side, shapes[node].numel(), kind))
        kinds = set()
    return described


def _parameters_of(network: nn.Module, node: fx.Node) -> str:
    """Say what a node and the parameters that it reads are: a layer, a norm, or free of parameters."""
    if node.op == "call_module":
        has_parameters = any(True for _ in network.get_submodule(str(node.target)).parameters())
    elif node.op == "get_attr":
        holder, _, leaf = str(node.target).rpartition(".")
        has_parameters = isinstance(getattr(network.get_submodule(holder), leaf), nn.Parameter)
    else:
        has_parameters = False
    if not has_parameters:
        return "free"
    return "norm" if any(issubclass(kind, NORM_TYPES) for _, kind in module_stack(node)) else "layer"


def _side_of(shape: torch.Size, was_channels_first: bool) -> tuple[float | None, bool]:
    """Measure the side of a map in px, ``None`` where there is none; maps are square, which tells the layout.

    Returns:
        The side, and whether the layout is ``(N, C, H, W)`` rather than ``(N, H, W, C)``.
    """
    if len(shape) == 3:
        return math.sqrt(shape[1]), was_channels_first
    if len(shape) != 4:
        return None, was_channels_first
    _, first, middle, last = shape
    channels_first = was_channels_first if first == middle == last else middle == last
    return float(middle), channels_first


def _split_into_levels(units: list[_Unit]) -> list[list[_Unit]]:
    levels: list[list[_Unit]] = []
    current: float | None = None
    for unit in units:
        side = unit.side or current
        changed = (
            current is not None
            and side is not None
            and max(side, current) >= _LEVEL_FACTOR * min(side, current)
        )
        if changed or not levels:
            levels.append([])
        levels[-1].append(unit)
        current = side
    return levels


def _merge(levels: list[list[_Unit]]) -> list[list[_Unit]]:
    """Join neighbouring levels into five parts of as equal numbers of units as can be."""
    sizes = [len(level) for level in levels]

    def unevenness(borders: tuple[int, ...]) -> int:
        edges = (0, *borders, len(levels))
        return sum(sum(sizes[start:end]) ** 2 for start, end in itertools.pairwise(edges))

    borders = min(itertools.combinations(range(1, len(levels)), STAGES - 1), key=unevenness)
    edges = (0, *borders, len(levels))
    return [list(itertools.chain(*levels[start:end])) for start, end in itertools.pairwise(edges)]


def _split(levels: list[list[_Unit]]) -> list[list[_Unit]]:
    """Split levels until there are five parts."""
    first = levels[0]
    stem = list(itertools.takewhile(lambda unit: not unit.is_block, first))
    if len(levels) < STAGES and stem and len(stem) < len(first):
        levels = [stem, first[len(stem) :], *levels[1:]]
    parts = [1] * len(levels)
    while sum(parts) < STAGES:
        by_blocks = [sum(unit.is_block for unit in level) or len(level) for level in levels]
        by_units = [len(level) for level in levels]
        counts = next(
            counts
            for counts in (by_blocks, by_units)
            if any(n > p for n, p in zip(counts, parts, strict=True))
        )
        densest = max(
            (index for index in range(len(levels)) if counts[index] > parts[index]),
            key=lambda index: (counts[index] / parts[index], index),
        )
        parts[densest] += 1
    return [
        group for level, count in zip(levels, parts, strict=True) for group in _split_evenly(level, count)
    ]


def _split_evenly(level: list[_Unit], count: int) -> list[list[_Unit]]:
    """Split a level into groups of equally many blocks; what is no block stays with the block before it."""
    starts = [index for index, unit in enumerate(level) if unit.is_block]
    if len(starts) < count:
        starts = list(range(len(level)))
    edges = [0] + [starts[round(len(starts) * part / count)] for part in range(1, count)] + [len(level)]
    return [level[start:end] for start, end in itertools.pairwise(edges)]
