"""A process that executes the runs of a sweep, one after the other."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn

from graft.config.load import to_config, to_plain
from graft.errors import GraftError, RunInterrupted
from graft.plan.spec import Facts, RunSpec, specify
from graft.sweep.claim import claiming
from graft.sweep.devices import Place
from graft.sweep.outcome import Outcome, describe_error
from graft.sweep.several import SLURM_PLACE, execute_on_several

#: What a worker whose driver is gone gives its run to write down where it is.
_SECONDS_TO_LEAVE = 20.0

Progress = Callable[[int, int], None]
Started = Callable[[str], None]


def describe_job(spec: RunSpec, parent_id: str | None) -> dict[str, Any]:
    """Return a run as plain values that travel between processes."""
    facts = asdict(spec.facts) | {"preprocessing": dict(spec.facts.preprocessing)}
    return {"config": to_plain(spec.config), "facts": facts, "parent_id": parent_id}


def read_job(job: Mapping[str, Any]) -> tuple[RunSpec, str | None]:
    """Read what `describe_job` gave."""
    facts = Facts(**(dict(job["facts"]) | {"official_splits": tuple(job["facts"]["official_splits"])}))
    return specify(to_config(job["config"]), facts), job["parent_id"]


def execute_job(
    job: Mapping[str, Any],
    progress: Progress | None = None,
    on_start: Started | None = None,
    on_wait: Callable[[], None] | None = None,
) -> Outcome:
    """Execute one run here, or in as many processes as it wants devices. A failure is an outcome.

    Args:
        job: What `describe_job` gave.
        progress: Told how far the training is, in optimizer steps.
        on_start: Told the id under which the run is recorded.
        on_wait: Called when another process executes the same run, and this one waits for it.
    """
    spec, parent_id = read_job(job)
    try:
        with claiming(spec, on_wait) as known:
            if known is not None:
                return Outcome(spec.key, "finished", val=known)
            if _wants_processes(spec):
                return execute_on_several(job, spec, progress, on_start)
            from graft.run import execute

            val = execute(spec, parent_id=parent_id, progress=progress, on_start=on_start)
    except BaseException as error:
        if not isinstance(error, GraftError | RunInterrupted | KeyboardInterrupt | SystemExit):
            traceback.print_exc()
        return describe_error(spec.key, error)
    return Outcome(spec.key, "finished", val=val)


def _wants_processes(spec: RunSpec) -> bool:
    """Whether the run has processes of its own on this machine, and this is not one of them."""
    started = "LOCAL_RANK" in os.environ or os.environ.get("SLURM_NTASKS", "1") != "1"
    return spec.config.trainer.devices > 1 and not started


def serve(pipe: Connection, place: Place, log: Path) -> None:
    """Execute the runs that come through ``pipe`` until it closes or the driver is gone.

    Args:
        pipe: Jobs come in; news and outcomes go out.
        place: What of the machine the runs may use.
        log: Where to write what a run prints; the file holds the latest run only.
    """
    os.setsid()  # Ctrl-C in the terminal is the driver's to answer; what a run starts can be ended with it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, leave)
    threading.Thread(target=_leave_with_driver, daemon=True).start()
    for name in SLURM_PLACE:
        os.environ.pop(name, None)
    os.environ.setdefault("OMP_NUM_THREADS", str(place.threads))
    if place.gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = place.gpus
    import torch

    torch.set_num_threads(place.threads)

    def tell(*news: object) -> None:
        with contextlib.suppress(OSError):  # a driver that is gone is noticed elsewhere
            pipe.send(news)

    tell("ready")
    with contextlib.suppress(EOFError, ConnectionResetError):
        executed = 0
        while True:
            job = pipe.recv()
            with _printing_to(log):
                outcome = execute_job(
                    job,
                    progress=lambda step, total: tell("progress", step, total),
                    on_start=lambda run_id: tell("started", run_id),
                    on_wait=lambda: tell("waiting"),
                )
            _forget(first=not executed)
            executed += 1
            tell("outcome", outcome)
            if outcome.status == "killed":
                return


def leave(*_: object) -> NoReturn:
    """End the process so that what it was doing is closed as killed."""
    sys.exit(128 + signal.SIGTERM)


def _leave_with_driver() -> None:
    """Wait until the driver is gone; then let the run write down where it is, and end."""
    driver = multiprocessing.parent_process()
    assert driver is not None
    wait([driver.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_SECONDS_TO_LEAVE)
    os.killpg(os.getpid(), signal.SIGKILL)


def _forget(*, first: bool) -> None:
    """Free what a run left in reference cycles: networks, which Python would keep for dozens of runs.

    What libraries made while loading is set aside once: looking through it took half a second each time.
    """
    gc.collect()
    if first:
        gc.freeze()


@contextlib.contextmanager
def _printing_to(log: Path) -> Iterator[None]:
    """Send what the process prints, native libraries included, to a file that holds the current run only."""
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        yield
        sys.stdout.flush()
        sys.stderr.flush()
