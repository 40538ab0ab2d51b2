"""What runs can share: the activations of equal frozen stages, and one pass over them for several heads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graft.config.names import PRETRAINED, STAGES
from graft.config.schema import Config
from graft.plan.arms import effective_augment, effective_backbone
from graft.plan.obstacles import effective_rounding
from graft.plan.obstacles import find_obstacle as find_obstacle
from graft.plan.spec import RunSpec

#: Heads that train alone: the kept layers of a classifier draw, and ridge is solved at once.
_ALONE = ("pretrained_classifier", "ridge")

#: Heads that train together at most, and steps of a head times heads: what a kill in the middle may cost.
LARGEST_GROUP = 64
_MOST_HEAD_STEPS = 400_000


@dataclass(frozen=True)
class SharedPrefix:
    """What the activations of frozen stages depend on; runs that are equal in it compute the same ones.

    Attributes:
        data: Digest of the images.
        preprocessing: How images become inputs, as canonical JSON.
        backbone: Architecture with its options.
        weights: What fills the frozen stages.
        precision: Arithmetic.
        views: Which deterministic versions of the training images are seen, empty for the images themselves.
        moved_to: The node to which the end of stage ``moved`` was moved, empty where all ends are natural.
        moved: That stage.
        rounded_to: Numbers that what leaves the frozen stages is rounded to, empty for exact ones.
    """

    data: str
    preprocessing: str
    backbone: str
    weights: str
    precision: str
    views: str = ""
    moved_to: str = ""
    moved: int = 0
    rounded_to: str = ""


@dataclass(frozen=True)
class Sharing:
    """What a sweep decided for one of its runs.

    Attributes:
        boundary: The stage after which stored activations are read, 0 for the images themselves.
        seconds: The run's share of the time that was spent on computing them.
        reason: Why it reads the images, where it could share and does not.
        faults: Damaged activations that the sweep computed again.
    """

    boundary: int
    seconds: float = 0.0
    reason: str = ""
    faults: tuple[str, ...] = ()


def find_prefix(spec: RunSpec) -> SharedPrefix | None:
    """Return the prefix of a run, None where it shares no activations."""
    config, facts = spec.config, spec.facts
    if find_obstacle(config):
        return None
    options = effective_backbone(config)
    drawn = config.transfer.method not in PRETRAINED or config.backbone.allow_partial
    weights = (facts.weights_sha256 or "random") + (_describe_draw(config) if drawn else "")
    augment, until = effective_augment(config.augment), config.transfer.freeze_until
    return SharedPrefix(
        data=facts.data_digest,
        preprocessing=_canonical(dict(facts.preprocessing)),
        backbone=f"{config.backbone.name}{_canonical(options) if options else ''}",
        weights=weights,
        precision=facts.precision + ("+channels_last" if config.trainer.channels_last else ""),
        views=f"{_canonical(augment)}+seed={config.seed}" if augment["name"] != "none" else "",
        moved_to=until or "",
        moved=config.transfer.freeze_depth if until else 0,
        rounded_to=effective_rounding(config) or "",
    )


def _describe_draw(config: Config) -> str:
    """Name what random stages are drawn from: some networks draw their own classifier before them."""
    one = config.loss.name == "binary_cross_entropy"
    return f"+seed={config.seed}" + ("+one_output" if one else "")


def group_runs(
    specs: Sequence[RunSpec],
    budgets: Mapping[str, tuple[int, int]],
    heads: Mapping[str, int],
    workers: int = 1,
) -> list[list[RunSpec]]:
    """Put runs together whose heads can train in one pass, each group where its first run stands.

    Such runs freeze the whole backbone and share its features; their heads are of one size, draw nothing
    while they train, and take as many steps with as many validations. Rates, decays, seeds, losses, label
    budgets and folds may differ.

    Args:
        specs: Runs, in the order in which they are to run.
        budgets: Optimizer steps of each run, and those between two validations, by run key.
        heads: How many heads like its own fit into memory, by run key.
        workers: How many groups can train side by side; there are groups for all of them.
    """
    together: dict[str, list[RunSpec]] = {}
    for spec in specs:
        together.setdefault(_name_of_group(spec, budgets[spec.key]) or spec.key, []).append(spec)
    groups = []
    for members in together.values():
        key = members[0].key
        fitting = min(heads[spec.key] for spec in members)  # the more images a run scores, the fewer
        most = max(1, min(LARGEST_GROUP, fitting, _MOST_HEAD_STEPS // max(1, budgets[key][0])))
        parts = max(-(-len(members) // most), min(workers, len(members)))
        size = -(-len(members) // parts)
        groups += [members[start : start + size] for start in range(0, len(members), size)]
    place = {spec.key: number for number, spec in enumerate(specs)}
    return sorted(groups, key=lambda group: place[group[0].key])


def _name_of_group(spec: RunSpec, budget: tuple[int, int]) -> str:
    """Return what the runs of a group share, empty for a run that trains alone."""
    config, facts, prefix = spec.config, spec.facts, find_prefix(spec)
    alone = config.head.name in _ALONE or (config.head.name == "mlp" and config.head.dropout > 0)
    alone = alone or facts.precision == "16-mixed" or config.trainer.accumulate > 1
    if prefix is None or not config.reuse.enabled or prefix.views or alone:
        return ""
    if config.transfer.freeze_depth != STAGES:
        return ""
    shared: list[Any] = [vars(prefix), spec.condition, spec.folds, config.data.batch_size]
    shared += [budget, config.tracking.experiment, config.head.name]
    shared += config.head.hidden if config.head.name == "mlp" else []  # heads of one size cost the same
    return hashlib.sha256(_canonical(shared).encode()).hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
