"""The frozen prefix of a network, computed once per image and read by every run that shares it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graft.data.image_set import Int64Array, UInt8Array
from graft.data.preprocessing import Preprocessing
from graft.data.transforms import normalise
from graft.model.backbone import Backbone
from graft.reuse.store import ActivationStore, Entry, EntryName

#: Told (done, total).
Progress = Callable[[int, int], None]

#: Bytes of activations that are committed together.
_COMMIT_BYTES = 64 << 20


@dataclass(frozen=True)
class Prefix:
    """The frozen stages that runs share, and how their activations are named.

    Attributes:
        backbone: Frozen at least to ``depth``; in eval mode, on ``device``.
        depth: The last shared stage, 1 to 5.
        name: Returns the name of the activations after a stage.
        pixels: The network's inputs, uint8 ``(N, C, H, W)``.
        preprocessing: For mean and std.
        precision: ``32``, ``bf16-mixed`` or ``16-mixed``.
        batch_size: Images at once; another number moves activations in their last digits.
        device: Where to compute.
        dtype: What activations are stored as, None for the type they have.
        augment: Makes the version of the images that is seen, given uint8 images and their positions; None
            for the images as they are.
    """

    backbone: Backbone
    depth: int
    name: Callable[[int], EntryName]
    pixels: UInt8Array
    preprocessing: Preprocessing
    precision: str
    batch_size: int
    device: torch.device
    dtype: torch.dtype | None = None
    augment: Callable[[Tensor, Int64Array], Tensor] | None = None

    @torch.no_grad()
    def compute(self, rows: Int64Array, source: Entry | None = None, start: int = 0) -> Tensor:
        """Return the activations of ``rows`` ``(n,)`` as ``(n, ...)``, as an evaluation would have them.

        Batches are always full, so that an activation does not depend on which others were missing.

        Args:
            rows: Images, at most ``batch_size``.
            source: Activations after stage ``start``, None for the images themselves.
            start: The last stage that is computed already.
        """
        count = len(rows)
        rows = np.concatenate([rows, np.full(self.batch_size - count, rows[0])])
        if source is not None:
            x = source.read(rows).to(self.device)
        else:
            images = torch.from_numpy(np.array(self.pixels[rows])).to(self.device)
            seen = self.augment(images, rows) if self.augment else images
            x = normalise(seen, self.preprocessing)
        with self._arithmetic():
            for number in range(start + 1, self.depth + 1):
                x = self.backbone.stage(number)(x)
        return x[:count]

    def _arithmetic(self) -> contextlib.AbstractContextManager[object]:
        if self.precision == "32":
            return contextlib.nullcontext()
        kind = torch.bfloat16 if self.precision == "bf16-mixed" else torch.float16
        return torch.autocast(self.device.type, dtype=kind)


def prepare_activations(
    store: ActivationStore, prefix: Prefix, rows: Int64Array, progress: Progress | None = None
) -> Entry | None:
    """Return an entry that holds the activations of ``rows``, computing those that are missing.

    Whoever else asks for the same ones at this moment waits and finds them there. The computation starts from
    the deepest shallower activations that are stored.

    Args:
        store: Where activations are kept.
        prefix: What computes them.
        rows: Images, ``(n,)``.
        progress: Told how many of the missing ones are done.

    Returns:
        The entry, or None where they do not fit into the budget or onto the disk, or cannot be written: the
        plain path then serves.
    """
    prefix.backbone.eval().to(prefix.device)
    example = prefix.compute(rows[:1])
    name, dtype = prefix.name(prefix.depth), prefix.dtype or example.dtype
    try:
        entry = store.open(name, len(prefix.pixels), tuple(example.shape[1:]), dtype)
        with store.locked(name):
            entry.refresh()
            missing = entry.missing(rows)
            if len(missing) == 0:
                return entry
            source, start = _find_source(store, prefix, missing)
            keep = [name.digest] + ([prefix.name(start).digest] if source else [])
            if not store.make_room(len(missing) * entry.row_bytes, keep):
                return None
            _fill(entry, prefix, missing, source, start, progress)
    except OSError:
        return None
    return entry


def _find_source(store: ActivationStore, prefix: Prefix, rows: Int64Array) -> tuple[Entry | None, int]:
    """Return the deepest stored activations before the boundary that have all ``rows``, and their stage."""
    for depth in range(prefix.depth - 1, 0, -1):
        entry = store.find(prefix.name(depth))
        if entry is not None and entry.count == len(prefix.pixels) and len(entry.missing(rows)) == 0:
            return entry, depth
    return None, 0


def _fill(
    entry: Entry,
    prefix: Prefix,
    missing: Int64Array,
    source: Entry | None,
    start: int,
    progress: Progress | None,
) -> None:
    """Compute and commit the missing rows, a stretch at a time."""
    parts: list[Tensor] = []
    first = held = 0
    for begin in range(0, len(missing), prefix.batch_size):
        batch = missing[begin : begin + prefix.batch_size]
        parts.append(prefix.compute(batch, source, start).to(entry.dtype).cpu())
        held += len(batch)
        done = begin + len(batch)
        if held * entry.row_bytes >= _COMMIT_BYTES or done == len(missing):
            entry.write(missing[first:done], torch.cat(parts))
            parts, first, held = [], done, 0
        if progress is not None:
            progress(done, len(missing))
