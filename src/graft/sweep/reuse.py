"""What the runs of a sweep share: decided, and computed, before the first of them starts."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from graft.config.names import STAGES
from graft.data.findings import say_count
from graft.errors import RunFailedError
from graft.plan.groups import SharedPrefix, Sharing, find_prefix, group_runs
from graft.plan.spec import RunSpec

if TYPE_CHECKING:
    from graft.data.image_set import Int64Array
    from graft.data.splits import Split
    from graft.inputs import Progress, View
    from graft.reuse.cost import StoragePlan
    from graft.reuse.prefix import Prefix

#: Weights of a head are there as such, as gradient, as two moments, as the best ones and as drawn ones.
_COPIES = 6

_NOT_WORTH = "keeping its activations would save no time, or they exceed `reuse.disk_gb`"


@dataclass(frozen=True)
class Network:
    """One frozen network of a sweep: what is kept of it, for whom, and what that saves.

    Attributes:
        name: For people.
        specs: The runs that have it.
        images: Images that are asked for up to each kept boundary, by boundary.
        storage: What is kept.
        prefix: What computes it, to its deepest boundary.
    """

    name: str
    specs: tuple[RunSpec, ...]
    images: Mapping[int, Int64Array]
    storage: StoragePlan
    prefix: Prefix


@dataclass(frozen=True)
class ReusePlan:
    """What is shared in a sweep.

    Attributes:
        networks: Frozen networks whose activations are shared.
        sharing: What was decided for each run, by its key.
        group_of: Number of the group whose heads train in one pass, by run key; none for a run alone.
        news: What came otherwise than it was planned, in sentences.
    """

    networks: tuple[Network, ...] = ()
    sharing: Mapping[str, Sharing] = field(default_factory=dict)
    group_of: Mapping[str, int] = field(default_factory=dict)
    news: tuple[str, ...] = ()

    def describe(self) -> list[str]:
        """Say what was decided and what is expected of it."""
        lines = []
        for network in self.networks:
            kept, plan = network.storage.kept, network.storage
            if not kept:
                lines.append(f"Reuse: nothing of {network.name} is kept: {_NOT_WORTH}.")
                continue
            stages = ", ".join(network.prefix.name_end(boundary) for boundary in kept)
            readers = sum(self.sharing[spec.key].boundary > 0 for spec in network.specs)
            lines.append(
                f"Reuse: {network.name}, after stage {stages}: computed once for {say_count(readers, 'run')} "
                f"({plan.disk_bytes / 1e9:.2g} GB); its frozen stages take about {plan.seconds:.0f} s "
                f"instead of {plan.plain_seconds:.0f} s."
            )
        if self.group_of:
            groups = len(set(self.group_of.values()))
            lines.append(f"Reuse: {len(self.group_of)} heads train in {groups} passes.")
        return lines


def plan_reuse(specs: Sequence[RunSpec], workers: int, *, fuse: bool = True) -> ReusePlan:
    """Decide what the runs of a sweep share.

    Args:
        specs: The runs that are still to do.
        workers: How many go side by side.
        fuse: Whether heads may train together.

    Raises:
        GraftError: When images or weights are not there.
    """
    views = _Views()
    together: dict[SharedPrefix, list[RunSpec]] = {}
    for spec in specs:
        prefix = find_prefix(spec)
        if prefix is not None and spec.config.reuse.enabled and not prefix.views:
            together.setdefault(prefix, []).append(spec)
    left = specs[0].config.reuse.disk_gb * 1e9 if specs else 0.0
    networks, sharing = [], dict[str, Sharing]()
    for prefix, members in together.items():
        network = _plan_network(prefix, members, views, int(left))
        networks.append(network)
        left -= network.storage.disk_bytes
        sharing |= {spec.key: _decide(spec, network.storage.kept) for spec in members}
    widths = {spec.key: network.prefix.backbone.feature_dim for network in networks for spec in network.specs}
    shared = [spec for spec in specs if fuse and spec.key in sharing and sharing[spec.key].boundary == STAGES]
    budgets = {spec.key: views.count_steps(spec) for spec in shared}
    heads = {spec.key: _count_heads(spec, views.open(spec), widths[spec.key]) for spec in shared}
    groups = group_runs(shared, budgets, heads, workers)
    numbered = {spec.key: number for number, group in enumerate(groups) if len(group) > 1 for spec in group}
    return ReusePlan(tuple(networks), sharing, numbered)


def plan_alone(spec: RunSpec) -> Sharing | None:
    """Decide what a run shares that no sweep has planned; None: nobody has to decide.

    Raises:
        GraftError: When images or weights are not there.
    """
    return plan_reuse([spec], 1, fuse=False).sharing.get(spec.key)


def compute_shared(plan: ReusePlan, progress: Progress | None = None) -> ReusePlan:
    """Compute and store what the runs share, with all that this machine has.

    Where the store has no room for some of it, or cannot be written, the runs read what is kept after an
    earlier stage, or the images.

    Args:
        plan: What was decided.
        progress: Told how many of the missing activations of a network are done.

    Returns:
        The plan as it came, with the time that this took shared among the runs.
    """
    from graft.sharing import NO_ROOM

    keep = [
        _prefix_at(network, one).kept_name.digest for network in plan.networks for one in network.storage.kept
    ]
    sharing, news = dict(plan.sharing), list[str]()
    for network in plan.networks:
        started = time.perf_counter()
        refused, faults = _compute_network(network, keep, progress)
        seconds = time.perf_counter() - started
        if refused:
            stages = ", ".join(network.prefix.name_end(boundary) for boundary in refused)
            news.append(f"Reuse: {network.name}, after stage {stages}: nothing is kept after all: {NO_ROOM}.")
        news += [f"Reuse: damaged, and computed again: {fault}." for fault in faults]
        kept = [boundary for boundary in network.storage.kept if boundary not in refused]
        before = {member.key: sharing[member.key] for member in network.specs}
        after = before | {
            member.key: _decide(member, kept, NO_ROOM)
            for member in network.specs
            if before[member.key].boundary in refused
        }
        sharing |= _charge(before, after, seconds, faults)
    group_of = {key: number for key, number in plan.group_of.items() if sharing[key].boundary == STAGES}
    return ReusePlan(plan.networks, sharing, group_of, tuple(news))


def _charge(
    before: Mapping[str, Sharing], after: Mapping[str, Sharing], seconds: float, faults: tuple[str, ...]
) -> dict[str, Sharing]:
    """Divide the time that a network took among the runs that read what is kept of it.

    Where none does after all, those that were to read it pay: the time was spent for them.

    Args:
        before: What was decided for the runs of the network, by key.
        after: What has become of it.
        seconds: What computing took.
        faults: What was found damaged.
    """
    readers = [key for key, decided in after.items() if decided.boundary > 0]
    readers = readers or [key for key, decided in before.items() if decided.boundary > 0]
    share = seconds / max(1, len(readers))
    return {
        key: replace(decided, seconds=share if key in readers else 0.0, faults=faults)
        for key, decided in after.items()
    }


def _prefix_at(network: Network, boundary: int) -> Prefix:
    """Return what computes the activations of a network that are kept after a boundary."""
    from graft.sharing import find_rounding

    return replace(network.prefix, depth=boundary, dtype=find_rounding(network.specs, boundary))


def _compute_network(
    network: Network, keep: Sequence[str], progress: Progress | None
) -> tuple[list[int], tuple[str, ...]]:
    """Compute what is kept of a network; return the boundaries without room, and what was found damaged."""
    import torch

    from graft.reuse.prefix import prepare_activations
    from graft.sharing import open_activations

    store = open_activations(network.specs[0].config)
    refused, faults = list[int](), list[str]()
    for boundary in network.storage.kept:
        # Too large to be rounded, or for the memory: every run finds out, and says so, by itself.
        with contextlib.suppress(RunFailedError, torch.OutOfMemoryError):
            rows = network.images[boundary]
            entry = prepare_activations(store, _prefix_at(network, boundary), rows, progress, keep)
            refused += [boundary] if entry is None else []
            faults += entry.faults if entry is not None else []
    network.prefix.backbone.cpu()  # what follows happens in other processes
    if network.prefix.device.type == "cuda":
        torch.cuda.empty_cache()
    return refused, tuple(faults)


class _Views:
    """The images of runs; those that differ in what divides them are divided once."""

    def __init__(self) -> None:
        self._kept: dict[str, View] = {}

    def open(self, spec: RunSpec) -> View:
        """Return the images of a run."""
        from graft.inputs import open_view

        same = repr((spec.config.data, dict(spec.facts.preprocessing), spec.config.seed))
        if same not in self._kept:
            self._kept[same] = open_view(spec)
        return self._kept[same]

    def count_steps(self, spec: RunSpec) -> tuple[int, int]:
        """Return the optimizer steps of a run, and those between two validations."""
        from graft.inputs import count_budget

        budget = count_budget(spec.config, self.open(spec).split)
        return budget.total_steps, budget.steps_per_round


def _count_heads(spec: RunSpec, view: View, features: int) -> int:
    """Return how many heads like that of a run fit into `reuse.memory_gb`, with the scores they give."""
    outputs = len(view.images.class_names)
    hidden = list(spec.config.head.hidden) if spec.config.head.name == "mlp" else []
    weights = sum(wide * narrow for wide, narrow in itertools.pairwise([features, *hidden, outputs]))
    scores = 2 * outputs * (len(view.split.val) + len(view.split.test))
    return int(spec.config.reuse.memory_gb * 1e9 / (4 * (scores + _COPIES * weights)))


def _decide(spec: RunSpec, kept: Sequence[int], otherwise: str = _NOT_WORTH) -> Sharing:
    """Return the deepest kept boundary inside the frozen stages of a run; a rounded one is at their end."""
    depth, exact = spec.config.transfer.freeze_depth, spec.config.reuse.dtype == "float32"
    boundary = max((one for one in kept if one == depth or (one < depth and exact)), default=0)
    return Sharing(boundary, reason="" if boundary else otherwise)


def _plan_network(prefix: SharedPrefix, specs: Sequence[RunSpec], views: _Views, disk_bytes: int) -> Network:
    """Decide which activations of one network are kept."""
    from graft.inputs import build_model
    from graft.reuse.cost import Demand, plan_storage
    from graft.reuse.speeds import measure_chain
    from graft.sharing import find_rounding, make_prefix, open_activations

    images: dict[int, list[Int64Array]] = {}
    passes: dict[int, int] = {}
    measured: set[str] = set()
    for spec in specs:
        split, depth = views.open(spec).split, spec.config.transfer.freeze_depth
        passes[depth] = passes.get(depth, 0) + _count_passes(spec, split)
        if depth == STAGES and spec.facts.weights_sha256 and split.digest not in measured:
            measured.add(split.digest)  # the baseline of nearest neighbours reads features, too
            passes[depth] += len(split.train) + len(split.test)
        images.setdefault(depth, []).extend((split.train, split.val, split.test))
    wanted = {
        depth: np.unique(
            np.concatenate([part for other, parts in images.items() if other >= depth for part in parts])
        )
        for depth in images
    }
    first = max(specs, key=lambda spec: spec.config.transfer.freeze_depth)  # it freezes all that is shared
    view = views.open(first)
    folder = Path(first.config.paths.root).resolve() / "cache" / "measured"
    backbone = build_model(first, view.images)[0].backbone
    computes = make_prefix(first, prefix, backbone, view.pixels, max(wanted))
    cut = f"{prefix.backbone} {prefix.moved}:{prefix.moved_to} {first.config.trainer.channels_last}"
    chain = measure_chain(folder, cut, computes)
    store = open_activations(first.config)
    stored = {
        depth: store.count_stored(
            replace(computes, depth=depth, dtype=find_rounding(specs, depth)).kept_name, rows
        )
        for depth, rows in wanted.items()
    }
    demands = {depth: Demand(passes[depth], len(rows), stored[depth]) for depth, rows in wanted.items()}
    storage = plan_storage(chain, demands, disk_bytes)
    name = f"{first.config.backbone.name} with {first.facts.weights_name}"
    asked = {boundary: wanted[boundary] for boundary in storage.kept}
    return Network(name, tuple(specs), asked, storage, computes)


def _count_passes(spec: RunSpec, split: Split) -> int:
    """Return the images that a run sees, repeats counted."""
    from graft.data.schedule import count_steps_per_pass
    from graft.inputs import count_budget

    if spec.config.head.name == "ridge":  # solved, not trained: it reads each image once
        return len(split.train) + len(split.val) + len(split.test)
    budget = count_budget(spec.config, split)
    validations = -(-budget.total_steps // budget.steps_per_round)
    steps_per_pass = count_steps_per_pass(len(split.train), spec.config.data.batch_size)
    trained = budget.total_steps * len(split.train) // steps_per_pass
    return trained + validations * len(split.val) + len(split.test)
