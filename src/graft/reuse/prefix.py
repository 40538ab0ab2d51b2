"""The frozen prefix of a network, computed once per image and read by every run that shares it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from graft.data.image_set import Int64Array, UInt8Array
from graft.data.preprocessing import Preprocessing
from graft.data.transforms import normalise
from graft.errors import RunFailedError
from graft.model.backbone import Backbone
from graft.reuse.entries import EntryName
from graft.reuse.store import ActivationStore, Entry

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
        dtype: What activations are rounded to, None for nothing: they are stored as they are.
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
        with self.arithmetic():
            for number in range(start + 1, self.depth + 1):
                x = self.backbone.stage(number)(x)
        return x[:count]

    @torch.no_grad()
    def compute_one(self, rows: Int64Array) -> Tensor:
        """Return activations of the first image ``(1, ...)``, for their shape and type: quick, not exact.

        Args:
            rows: Images, at least one.
        """
        return replace(self, batch_size=1).compute(rows[:1])

    def name_end(self, stage: int) -> str:
        """Return the number of a stage for people, with the node where ``transfer.freeze_until`` ends it."""
        plan = self.backbone.plan
        moved = plan.moved_to is not None and plan.boundaries[stage - 1] == plan.moved_to
        return f"{stage} (until {plan.moved_to})" if moved else str(stage)

    def arithmetic(self) -> contextlib.AbstractContextManager[object]:
        """Return what makes torch compute in the precision of the run."""
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
        progress: Told how many of the missing ones are done, and again and again that none is while another
            process computes them; what it raises ends the work.

    Returns:
        The entry, or None where they do not fit into the budget or onto the disk, or cannot be written: the
        plain path then serves.
    """
    if prefix.backbone.frozen_depth < prefix.depth:
        raise ValueError(
            f"expected {prefix.depth} frozen stages to share, but only {prefix.backbone.frozen_depth} are"
        )
    prefix.backbone.eval().to(prefix.device)
    example = prefix.compute_one(rows)
    name, dtype = _name_kept(prefix), prefix.dtype or example.dtype

    def look() -> None:
        if progress is not None:
            progress(0, len(rows))

    try:
        with store.locked(name, look):
            entry = store.open(name, len(prefix.pixels), tuple(example.shape[1:]), dtype)
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


def _name_kept(prefix: Prefix) -> EntryName:
    """Return the name of what is stored: rounded activations are others than exact ones."""
    name = prefix.name(prefix.depth)
    return replace(name, dtype=str(prefix.dtype).removeprefix("torch.")) if prefix.dtype else name


def round_after(backbone: Backbone, depth: int, dtype: torch.dtype) -> None:
    """Make a backbone round what leaves a stage, as the store does, whoever computes it.

    So a run that finds no room in the store gets the numbers of one that does.
    """

    def round_(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return round_to(output, dtype).to(output.dtype)

    backbone.stage(depth).register_forward_hook(round_)


def round_to(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``values`` in another type of numbers.

    Raises:
        RunFailedError: They are too large for it.
    """
    rounded = values.to(dtype)
    if dtype == torch.float16 and bool((rounded.isinf() & values.isfinite()).any()):
        raise RunFailedError(
            f"Expected activations of at most 65,504 with `reuse.dtype=float16`, but got "
            f"{float(values.abs().max()):,.0f}. Use `reuse.dtype=bfloat16` or float32."
        )
    return rounded


def _find_source(store: ActivationStore, prefix: Prefix, rows: Int64Array) -> tuple[Entry | None, int]:
    """Return the deepest exact activations, up to the boundary, that have all ``rows``, and their stage."""
    deepest = prefix.depth if prefix.dtype else prefix.depth - 1
    for depth in range(deepest, 0, -1):
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
        parts.append(round_to(prefix.compute(batch, source, start), entry.dtype).cpu())
        held += len(batch)
        done = begin + len(batch)
        if held * entry.row_bytes >= _COMMIT_BYTES or done == len(missing):
            entry.write(missing[first:done], torch.cat(parts))
            parts, first, held = [], done, 0
        if progress is not None:
            progress(done, len(missing))
