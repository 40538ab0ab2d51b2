"""The frozen prefix of a network, computed once per image and read by every run that shares it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
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

#: Bytes of activations that are committed together, and seconds that a killed process may lose.
_COMMIT_BYTES = 64 << 20
_COMMIT_SECONDS = 20.0


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

    @property
    def kept_name(self) -> EntryName:
        """The name of what is stored: rounded activations are others than exact ones."""
        name = self.name(self.depth)
        return replace(name, dtype=str(self.dtype).removeprefix("torch.")) if self.dtype else name

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
    store: ActivationStore,
    prefix: Prefix,
    rows: Int64Array,
    progress: Progress | None = None,
    keep: Sequence[str] = (),
) -> Entry | None:
    """Return an entry that holds the activations of ``rows``, computing those that are missing.

    Whoever else asks for the same ones at this moment waits and finds them there. The computation starts from
    the deepest shallower activations that are stored.

    Args:
        store: Where activations are kept.
        prefix: What computes them.
        rows: Images, ``(n,)``.
        progress: Told how many of the missing ones are done, and again and again that none is while another
            process computes them; what it raises ends the work, and what is computed by then is kept.
        keep: Digests of entries that make no room for this one.

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
    name = prefix.kept_name
    same = (len(prefix.pixels), tuple(example.shape[1:]), prefix.dtype or example.dtype)

    def look() -> None:
        if progress is not None:
            progress(0, len(rows))

    try:
        # Looked at, and hashed, before it is held: processes that start together do so side by side.
        whole = store.find(name)
        if whole is not None and (whole.count, whole.shape, whole.dtype) == same and whole.is_whole(rows):
            with contextlib.suppress(OSError):  # thrown away by another process: what is mapped lives on
                os.utime(whole.folder)
            return whole
        with store.locked(name, look):
            entry = store.open(name, *same)
            if len(entry.missing(rows)) == 0:
                return entry
            work = _plan_work(store, prefix, entry, rows, keep)
            if work is None:  # what it holds for other runs may be all that stands in the way
                anew = store.start_anew(name, entry, len(np.unique(rows)) * entry.row_bytes)
                if anew is not None:
                    entry, work = anew, _plan_work(store, prefix, anew, rows, keep)
            if work is None:
                return None
            _fill(entry, prefix, work, progress)
    except OSError:
        return None
    return entry


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


@dataclass(frozen=True)
class _Work:
    """The missing rows ``(n,)``, and from what they are computed: after stage ``start``, or the images."""

    missing: Int64Array
    source: Entry | None
    start: int


def _plan_work(
    store: ActivationStore, prefix: Prefix, entry: Entry, rows: Int64Array, keep: Sequence[str]
) -> _Work | None:
    """Make room for the missing rows and return what is to be computed, None where there is no room."""
    missing = entry.missing(rows)
    source, start = _find_source(store, prefix, missing)
    keep = [*keep, prefix.kept_name.digest] + ([prefix.name(start).digest] if source else [])
    has_room = store.make_room(len(missing) * entry.row_bytes, keep)
    return _Work(missing, source, start) if has_room else None


def _fill(entry: Entry, prefix: Prefix, work: _Work, progress: Progress | None) -> None:
    """Compute and commit the missing rows, a stretch at a time; what is computed outlives an interruption."""
    total, first, last_commit = len(work.missing), 0, time.monotonic()
    waiting: list[Tensor] = []

    def commit() -> None:
        nonlocal first, last_commit, waiting
        ready, waiting = waiting, []  # what cannot be written is not tried again
        if ready:
            values = torch.cat(ready)
            entry.write(work.missing[first : first + len(values)], values)
            first, last_commit = first + len(values), time.monotonic()

    try:
        for begin in range(0, total, prefix.batch_size):
            batch = work.missing[begin : begin + prefix.batch_size]
            waiting.append(round_to(prefix.compute(batch, work.source, work.start), entry.dtype).cpu())
            done = begin + len(batch)
            is_much = (done - first) * entry.row_bytes >= _COMMIT_BYTES
            if is_much or time.monotonic() - last_commit >= _COMMIT_SECONDS or done == total:
                commit()
            if progress is not None:
                progress(done, total)
    except BaseException:
        with contextlib.suppress(OSError):
            commit()
        raise
