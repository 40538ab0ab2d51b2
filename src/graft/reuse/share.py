"""Give a run the activations of its frozen stages in the place of images."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from graft.data.batches import Activations, Rows
from graft.data.image_set import Int64Array
from graft.data.transforms import augment_views, build_augmentation
from graft.plan.groups import SharedPrefix
from graft.reuse.entries import EntryName
from graft.reuse.prefix import Prefix, Progress, prepare_activations
from graft.reuse.store import ActivationStore, Entry

#: How often the frozen stages are timed at most, and after how many seconds no further time.
_TIMED = 4
_SECONDS_TO_MEASURE = 2.0

#: Seconds per image of the frozen stages that this process has measured.
_speeds: dict[str, float] = {}


@dataclass(frozen=True)
class StoredRows:
    """Stored activations, in the numbers that the next stage expects.

    Attributes:
        entry: Where they are.
        dtype: What the network itself would hand on.
    """

    entry: Entry
    dtype: torch.dtype

    def read(self, rows: Int64Array) -> Tensor:
        """Return the activations of ``rows`` ``(n,)``, ``(n, ...)``."""
        return self.entry.read(rows).to(self.dtype)


@dataclass(frozen=True)
class Shared:
    """What a run got.

    Attributes:
        boundary: The stage after which they stand.
        activations: In the place of images.
        seconds: Spent on computing what was missing.
        seconds_per_image: What the frozen stages cost this machine, for one image.
        faults: Damaged activations that were computed again.
    """

    boundary: int
    activations: Activations
    seconds: float
    seconds_per_image: float
    faults: tuple[str, ...]


def name_entries(
    shared: SharedPrefix, device: torch.device, view: int | None = None
) -> Callable[[int], EntryName]:
    """Return what names the activations after a stage.

    Args:
        shared: What they depend on.
        device: What computes them.
        view: Which version of the training images, None for the images as they are.
    """

    def name(depth: int) -> EntryName:
        return EntryName(
            data=shared.data,
            preprocessing=json.loads(shared.preprocessing),
            backbone=shared.backbone,
            weights=shared.weights,
            boundary=f"until {shared.moved_to}" if depth == shared.moved else str(depth),
            precision=shared.precision,
            view=None if view is None else f"{shared.views}:{view}",
            computed_by=f"{device.type}, torch {torch.__version__}",
        )

    return name


def share_activations(
    store: ActivationStore,
    prefix: Prefix,
    shared: SharedPrefix,
    train: Int64Array,
    evaluated: Int64Array,
    *,
    augmentation: str = "none",
    views: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Shared | None:
    """Return the activations that a run reads, computing what is missing.

    Args:
        store: Where they are kept.
        prefix: What computes them; its name and its augmentation are set here.
        shared: What they depend on.
        train: Training images, ``(n,)``.
        evaluated: Validation and test images, ``(m,)``.
        augmentation: Name of the augmentation that makes the views.
        views: Deterministic versions of the training images; 0: they are seen as they are.
        seed: Of the views.
        progress: Told how many of the missing ones are done.

    Returns:
        None where they cannot be kept; the plain path then serves.
    """
    started = time.perf_counter()
    seconds_per_image = _measure(prefix, name_entries(shared, prefix.device)(prefix.depth).digest, evaluated)
    augment = build_augmentation(augmentation)
    plain = replace(prefix, name=name_entries(shared, prefix.device))
    wanted = [(plain, evaluated if views else np.concatenate([train, evaluated]))]
    for view in range(views):

        def see(images: Tensor, rows: Int64Array, view: int = view) -> Tensor:
            return augment_views(augment, images, rows.tolist(), view, seed)

        seen = replace(prefix, name=name_entries(shared, prefix.device, view), augment=see)
        wanted.append((seen, train))
    prefix.backbone.eval().to(prefix.device)
    example = prefix.compute_one(evaluated)
    row_bytes = example.numel() * (prefix.dtype or example.dtype).itemsize
    if sum(len(np.unique(rows)) for _, rows in wanted) * row_bytes > store.disk_bytes:
        return None  # before anything is computed
    keep = [part.kept_name.digest for part, _ in wanted]
    found = []
    for part, rows in wanted:
        entry = prepare_activations(store, part, rows, progress, keep)
        if entry is None:
            return None
        found.append(entry)
    stored: list[Rows] = [StoredRows(entry, example.dtype) for entry in found]
    faults = tuple(fault for entry in found for fault in entry.faults)
    seconds = time.perf_counter() - started
    activations = Activations(stored[0], stored[1:])
    return Shared(prefix.depth, activations, seconds, seconds_per_image, faults)


def _measure(prefix: Prefix, name: str, rows: Int64Array) -> float:
    """Return the seconds that the frozen stages take for one image; measured once in a process.

    The quickest of several passes counts: the first costs more than those that follow, and whatever else the
    machine does only makes a pass slower.
    """
    if name in _speeds:
        return _speeds[name]
    batch = rows[: prefix.batch_size]
    prefix.backbone.eval().to(prefix.device)
    took: list[float] = []
    # A slow network is timed twice at least: once would be the first pass alone.
    while len(took) < 2 or (len(took) < _TIMED and sum(took) < _SECONDS_TO_MEASURE):
        started = time.perf_counter()
        prefix.compute(batch)
        if prefix.device.type == "cuda":
            torch.cuda.synchronize(prefix.device)
        took.append(time.perf_counter() - started)
    _speeds[name] = min(took) / prefix.batch_size
    return _speeds[name]
