"""What a run takes from the store instead of computing it: the activations of its frozen stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from graft.config.schema import Config
from graft.plan.groups import SharedPrefix, Sharing, find_prefix
from graft.plan.obstacles import effective_rounding, find_obstacle
from graft.plan.spec import RunSpec

if TYPE_CHECKING:
    import torch

    from graft.data.image_set import Int64Array, UInt8Array
    from graft.data.splits import Split
    from graft.model.backbone import Backbone
    from graft.model.classifier import Classifier
    from graft.reuse.prefix import Prefix
    from graft.reuse.share import Shared
    from graft.reuse.store import ActivationStore

#: Why activations are not kept that were to be.
NO_ROOM = "the activations do not fit under `reuse.disk_gb`, or cannot be written"


def open_activations(config: Config) -> ActivationStore:
    """Open the store of activations that a configuration names."""
    from graft.reuse.store import ActivationStore

    root = Path(config.paths.root).resolve()
    return ActivationStore(root / "cache" / "activations", int(config.reuse.disk_gb * 1e9))


def make_prefix(
    spec: RunSpec, found: SharedPrefix, backbone: Backbone, pixels: UInt8Array, depth: int
) -> Prefix:
    """Return what computes the activations after stage ``depth``."""
    from graft.data.preprocessing import Preprocessing
    from graft.model.features import EXTRACTION_BATCH, choose_device
    from graft.reuse.prefix import Prefix
    from graft.reuse.share import name_entries

    device = choose_device(spec.config.trainer)
    return Prefix(
        backbone=backbone,
        depth=depth,
        name=name_entries(found, device),
        pixels=pixels,
        preprocessing=Preprocessing.from_dict(spec.facts.preprocessing),
        precision=spec.facts.precision,
        batch_size=EXTRACTION_BATCH,
        device=device,
        dtype=find_rounding([spec], depth),
    )


def find_rounding(specs: Sequence[RunSpec], depth: int) -> torch.dtype | None:
    """Return what the activations after stage ``depth`` are rounded to by runs that share them.

    Only what leaves the frozen stages of a run is; None: the activations are exact.
    """
    from graft.reuse.store import DTYPES

    ending = [spec.config for spec in specs if spec.config.transfer.freeze_depth == depth]
    rounding = effective_rounding(ending[0]) if ending else None
    return DTYPES[rounding] if rounding else None


def share_frozen(
    spec: RunSpec, classifier: Classifier, pixels: UInt8Array, split: Split, sharing: Sharing | None = None
) -> tuple[Shared | None, str]:
    """Return the activations of the frozen stages of a run, and in words which path it takes.

    The classifier then begins behind them.

    Args:
        spec: The run.
        classifier: Its network.
        pixels: The network's inputs, uint8 ``(N, C, H, W)``.
        split: Which of them train, choose and test.
        sharing: What the sweep decided; None: all frozen stages are shared.
    """
    return share_rows(spec, classifier, pixels, split.train, np.concatenate([split.val, split.test]), sharing)


def share_rows(
    spec: RunSpec,
    classifier: Classifier,
    pixels: UInt8Array,
    train: Int64Array,
    evaluated: Int64Array,
    sharing: Sharing | None,
) -> tuple[Shared | None, str]:
    """Do what `share_frozen` does for images ``train`` ``(n,)`` and ``evaluated`` ``(m,)``."""
    from graft.reuse.prefix import round_after
    from graft.reuse.share import share_activations
    from graft.reuse.store import DTYPES

    config, found = spec.config, find_prefix(spec)
    if found is None or not config.reuse.enabled:
        return None, f"plain: {find_obstacle(config) or 'reuse=off'}"
    if found.rounded_to:
        round_after(classifier.backbone, config.transfer.freeze_depth, DTYPES[found.rounded_to])
    if config.reuse.disk_gb == 0:
        return None, "plain: `reuse.disk_gb=0` keeps no activations"
    depth = sharing.boundary if sharing else config.transfer.freeze_depth
    if sharing is not None and depth == 0:
        return None, f"plain: {sharing.reason}"
    shared = share_activations(
        open_activations(config),
        make_prefix(spec, found, classifier.backbone, pixels, depth),
        found,
        train,
        evaluated,
        augmentation=config.augment.name,
        views=config.augment.views or 0,
        seed=config.seed,
    )
    classifier.train()
    if shared is None:
        return None, f"plain: {NO_ROOM}"
    classifier.backbone.entry = depth
    if sharing is not None:
        shared = replace(shared, faults=(*sharing.faults, *shared.faults))
    return shared, f"shared: stages 1 to {depth} were computed once"
