"""How many runs go side by side on this machine, and what each of their workers gets of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from graft.config.schema import Config
from graft.errors import GraftError


@dataclass(frozen=True)
class Place:
    """What a worker may use.

    Attributes:
        threads: CPU threads of torch.
        gpus: Value of CUDA_VISIBLE_DEVICES, None to leave it as it is.
    """

    threads: int
    gpus: str | None = None


def share_of_threads(workers: int) -> int:
    """Return how many CPU threads each of ``workers`` may use."""
    return max(1, count_cores() // workers)


def count_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def assign_places(configs: Sequence[Config], gpus: Sequence[str]) -> tuple[list[Place], str]:
    """Return the place of each worker, and what the user should know of it, empty for nothing.

    Args:
        configs: The runs; they agree on `sweep`.
        gpus: What CUDA_VISIBLE_DEVICES calls the GPUs that the runs may use; empty for runs on the CPU.

    Raises:
        GraftError: When more workers are asked for than there is room for.
    """
    sweep, per_run = configs[0].sweep, max(config.trainer.devices for config in configs)
    if gpus:
        room, what = max(1, len(gpus) // per_run), f"{len(gpus)} GPUs, {per_run} for each run"
        workers = sweep.workers or room
    else:
        room, what = count_cores(), f"{count_cores()} CPU cores"
        workers = sweep.workers or 1
    if workers > room and not sweep.oversubscribe:
        raise GraftError(
            f"Expected `sweep.workers` of at most {room} on this machine ({what}), but got {workers}. "
            "To let runs share what there is: `sweep.oversubscribe=true`."
        )
    threads = max((config.trainer.threads or 0 for config in configs), default=0) or share_of_threads(workers)
    places = [Place(threads, _share_of_gpus(gpus, per_run, index % room)) for index in range(workers)]
    return places, f"{workers} workers share {what}." if workers > room else ""


def _share_of_gpus(gpus: Sequence[str], per_run: int, slot: int) -> str | None:
    """Return the GPUs of a slot; a machine with fewer than a run wants is left to refuse the run itself."""
    if not gpus or len(gpus) < per_run:
        return None
    return ",".join(gpus[slot * per_run : (slot + 1) * per_run])


def list_gpus(configs: Sequence[Config]) -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES calls the GPUs here; none where all runs stay on the CPU."""
    if all(config.trainer.accelerator == "cpu" for config in configs):
        return []
    import torch

    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return [name.strip() for name in named][:count] if named else [str(index) for index in range(count)]
