"""One process at a time executes a run, however many sweeps ask for it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from graft.errors import StoreAwayError
from graft.plan.spec import RunSpec
from graft.track.reader import find_finished
from graft.track.store import open_store


@contextlib.contextmanager
def claiming(spec: RunSpec, on_wait: Callable[[], None] | None = None) -> Iterator[float | None]:
    """Hold the lock of a run; the lock of a process that dies is free at once.

    The lock's file goes with the run's end. Whoever waited for a file that is gone asks the store as well,
    and finds the run finished there, so two holders of one key do no harm.

    Args:
        spec: The run.
        on_wait: Called when another process holds it.

    Yields:
        The run's validation metric when it is finished already, else None.
    """
    if not _is_one_process():
        yield None
        return
    config = spec.config
    root = Path(config.paths.root).resolve()
    file = root / "locks" / f"{spec.key}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if on_wait is not None:
            on_wait()
        lock.acquire()
    try:
        store = open_store(config.tracking.uri, root)
        yield find_finished(store, spec.key, config.metric)
        with contextlib.suppress(StoreAwayError):
            if find_finished(store, spec.key, config.metric) is not None:
                file.unlink(missing_ok=True)
    finally:
        lock.release()


def _is_one_process() -> bool:
    """Whether the run has no other process that would wait for the same lock."""
    return "LOCAL_RANK" not in os.environ and os.environ.get("SLURM_NTASKS", "1") == "1"
