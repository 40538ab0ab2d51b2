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
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn

from graft.config.load import to_config, to_plain
from graft.errors import GraftError, RunInterrupted
from graft.plan.groups import Sharing
from graft.plan.halving import Halving
from graft.plan.spec import Facts, RunSpec, specify
from graft.sweep.claim import claiming
from graft.sweep.devices import Place
from graft.sweep.outcome import Outcome, describe_error
from graft.sweep.reuse import plan_alone
from graft.sweep.several import SLURM_PLACE, execute_on_several
from graft.track.reader import find_finished
from graft.track.store import open_store

#: What a worker whose driver is gone gives its run to write down where it is.
_SECONDS_TO_LEAVE = 20.0

Progress = Callable[[int, int], None]
Started = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A run on its way to the process that executes it.

    Attributes:
        spec: The run.
        parent_id: MLflow id of the sweep it belongs to.
        sharing: What the sweep decided for it, None where nobody did: the process that executes it does.
        siblings: Runs that come next and whose heads train with this one's.
        halving: Decides whether the run goes on, None: it does.
    """

    spec: RunSpec
    parent_id: str | None = None
    sharing: Sharing | None = None
    siblings: tuple[RunSpec, ...] = ()
    halving: Halving | None = None


def describe_job(job: Job) -> dict[str, Any]:
    """Return a run as values that JSON takes."""
    facts = asdict(job.spec.facts) | {"preprocessing": dict(job.spec.facts.preprocessing)}
    return {"config": to_plain(job.spec.config), "facts": facts, "parent_id": job.parent_id}


def read_job(values: Mapping[str, Any]) -> Job:
    """Read what `describe_job` gave."""
    facts = Facts(**(dict(values["facts"]) | {"official_splits": tuple(values["facts"]["official_splits"])}))
    return Job(specify(to_config(values["config"]), facts), values["parent_id"])


def execute_job(
    job: Job,
    progress: Progress | None = None,
    on_start: Started | None = None,
    on_wait: Callable[[], None] | None = None,
    on_trained: Callable[[list[str]], None] | None = None,
) -> Outcome:
    """Execute one run here, or in as many processes as it wants devices. A failure is an outcome.

    Args:
        job: The run.
        progress: Told how far the training is, in optimizer steps.
        on_start: Told the id under which the run is recorded.
        on_wait: Called when another process executes the same run, and this one waits for it.
        on_trained: Told the keys of the runs that have trained here and are still to be recorded.
    """
    spec = job.spec
    try:
        cut = job.halving.find_cut(lambda run: _is_finished(run, spec)) if job.halving else ""
        if cut:
            return Outcome(spec.key, "pruned", cut)
        with claiming(spec, on_wait) as known:
            if known is not None:
                return Outcome(spec.key, "finished", val=known)
            if _wants_processes(spec):
                return execute_on_several(describe_job(job), spec, progress, on_start)
            from graft.run import execute
            from graft.together import take_trained, train_siblings

            if job.siblings:
                trained = train_siblings([spec, *job.siblings], job.sharing, progress)
                if on_trained is not None:
                    on_trained(trained)
            mine, sharing = take_trained(spec.key), job.sharing
            if sharing is None and mine is None and not job.siblings:
                sharing = plan_alone(spec)
            val = execute(
                spec,
                parent_id=job.parent_id,
                sharing=sharing,
                trained=mine,
                halving=job.halving,
                progress=progress,
                on_start=on_start,
            )
    except BaseException as error:
        if not isinstance(error, GraftError | RunInterrupted | KeyboardInterrupt | SystemExit):
            traceback.print_exc()
        return describe_error(spec.key, error)
    return Outcome(spec.key, "finished", val=val)


def _is_finished(key: str, like: RunSpec) -> bool:
    """Whether another run of the experiment and metric of ``like`` is finished."""
    store = open_store(like.config.tracking.uri, Path(like.config.paths.root).resolve())
    return find_finished(store, key, like.config.metric) is not None


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
            job: Job = pipe.recv()
            with _printing_to(log):
                outcome = execute_job(
                    job,
                    progress=lambda step, total: tell("progress", step, total),
                    on_start=lambda run_id: tell("started", run_id),
                    on_wait=lambda: tell("waiting"),
                    on_trained=lambda keys: tell("trained", keys),
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
