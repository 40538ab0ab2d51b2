"""What runs can share: the activations of equal frozen stages, and one pass over them for several heads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graft.config.names import PRETRAINED, STAGES
from graft.config.schema import Config
from graft.plan.arms import effective_augment, effective_backbone
from graft.plan.spec import RunSpec

#: Heads that train together at most: what a kill in the middle may cost.
LARGEST_GROUP = 64


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
    """

    data: str
    preprocessing: str
    backbone: str
    weights: str
    precision: str
    views: str = ""


def find_obstacle(config: Config) -> str:
    """Say why a run shares no activations, in words for the plan and the report; empty where it does."""
    augment = config.augment
    if config.transfer.freeze_depth == 0:
        return "all stages train"
    if augment.mixup or augment.cutmix:
        return "mixup and cutmix make new images at every step"
    if augment.name != "none" and augment.views is None:
        return "augmentation makes new images at every step; `augment.views=4` makes four of each"
    if config.trainer.limit_batches is not None:
        return "`trainer.limit_batches` looks at a part of the images only"
    if config.trainer.devices * config.trainer.num_nodes > 1:
        return "several devices"
    return ""


def find_prefix(spec: RunSpec) -> SharedPrefix | None:
    """Return the prefix of a run, None where it shares no activations."""
    config, facts = spec.config, spec.facts
    if find_obstacle(config):
        return None
    options = effective_backbone(config)
    drawn = config.transfer.method not in PRETRAINED or config.backbone.allow_partial
    weights = (facts.weights_sha256 or "random") + (f"+seed={config.seed}" if drawn else "")
    augment = effective_augment(config.augment)
    return SharedPrefix(
        data=facts.data_digest,
        preprocessing=_canonical(dict(facts.preprocessing)),
        backbone=f"{config.backbone.name}{_canonical(options) if options else ''}",
        weights=weights,
        precision=facts.precision,
        views=f"{_canonical(augment)}+seed={config.seed}" if augment["name"] != "none" else "",
    )


def group_runs(specs: Sequence[RunSpec]) -> list[list[RunSpec]]:
    """Put runs together whose heads can train in one pass, each group where its first run stands.

    Such runs freeze the whole backbone and share its features; their heads draw nothing while they train, and
    take as many steps with as many validations. Rates, decays, seeds, losses and labelled images may differ.
    """
    groups: list[list[RunSpec]] = []
    latest: dict[str, list[RunSpec]] = {}
    for spec in specs:
        name = _name_of_group(spec)
        group = latest.get(name) if name else None
        if group is None or len(group) >= LARGEST_GROUP:
            group = []
            groups.append(group)
            latest[name] = group
        group.append(spec)
    return groups


def _name_of_group(spec: RunSpec) -> str:
    """Return what the runs of a group share, empty for a run that trains alone."""
    config, prefix = spec.config, find_prefix(spec)
    draws = config.head.name == "mlp" and config.head.dropout > 0
    if prefix is None or config.transfer.freeze_depth != STAGES or draws or prefix.views:
        return ""
    if config.head.name == "pretrained_classifier":  # its kept layers draw, too
        return ""
    shared = [vars(prefix), spec.condition, spec.labels, spec.folds, config.data.batch_size]
    shared += [config.trainer.accumulate, config.tracking.experiment, config.head.name]
    return hashlib.sha256(_canonical(shared).encode()).hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
