"""A process that executes runs: one worker of a sweep, or one process of a run on several devices."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

from graft.config.load import to_config, to_plain
from graft.errors import DivergedError, GraftError, RunFailedError
from graft.plan.spec import Facts, RunSpec, specify

#: How often a run on several devices is looked at, and how long its processes may take to end.
_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_TO_LEAVE = 15.0


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        key: Its run key.
        status: ``finished``, ``failed``, ``killed`` or ``diverged``.
        reason: Why it did not finish.
        val: Value of the validation metric that chooses, None unless finished.
        mistake: Whether the reason is something that the user asked for.
    """

    key: str
    status: str
    reason: str = ""
    val: float | None = None
    mistake: bool = False

    def require_finished(self) -> None:
        """Raise what a single run owes its user when it did not finish.

        Raises:
            KeyboardInterrupt: When it was interrupted.
            GraftError: When it was asked for what cannot be done.
            RunFailedError: When it failed.
        """
        if self.status == "killed":
            raise KeyboardInterrupt
        if self.mistake:
            raise GraftError(self.reason)
        if self.status != "finished":
            raise RunFailedError(f"The run {self.status}: {self.reason}")


def describe_job(spec: RunSpec, parent_id: str | None) -> dict[str, Any]:
    """Return a run as plain values that travel between processes."""
    facts = asdict(spec.facts) | {"preprocessing": dict(spec.facts.preprocessing)}
    return {"config": to_plain(spec.config), "facts": facts, "parent_id": parent_id}


def read_job(job: Mapping[str, Any]) -> tuple[RunSpec, str | None]:
    """Read what `describe_job` gave."""
    facts = Facts(**(dict(job["facts"]) | {"official_splits": tuple(job["facts"]["official_splits"])}))
    return specify(to_config(job["config"]), facts), job["parent_id"]


def execute_job(job: Mapping[str, Any], progress: Callable[[int, int], None] | None = None) -> Outcome:
    """Execute one run here, or in as many processes as it wants devices. A failure is an outcome."""
    spec, parent_id = read_job(job)
    trainer = spec.config.trainer
    if trainer.devices > 1 and "LOCAL_RANK" not in os.environ and "SLURM_NTASKS" not in os.environ:
        return _execute_on_several(job, spec, progress)
    from graft.run import execute

    try:
        val = execute(spec, parent_id=parent_id, progress=progress)
    except GraftError as error:
        status = "diverged" if isinstance(error, DivergedError) else "failed"
        return Outcome(spec.key, status, str(error), mistake=not isinstance(error, RunFailedError))
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the one into the other
        return Outcome(spec.key, "killed", "interrupted")
    except Exception as error:
        traceback.print_exc()
        return Outcome(spec.key, "failed", f"{type(error).__name__}: {error}")
    return Outcome(spec.key, "finished", val=val)


def serve(pipe: Connection, threads: int, logs: Path) -> None:
    """Execute the runs that come through ``pipe`` until it closes.

    Args:
        pipe: Jobs come in; progress and outcomes go out.
        threads: CPU threads that torch may use.
        logs: Folder for what runs print.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to answer; it then ends its workers
    signal.signal(signal.SIGTERM, leave)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    logs.mkdir(parents=True, exist_ok=True)
    import torch

    torch.set_num_threads(threads)
    pipe.send(("ready",))
    executed = 0
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            job = pipe.recv()
            with _printing_to(logs / f"worker-{os.getpid()}.log"):
                outcome = execute_job(job, lambda step, total: pipe.send(("progress", step, total)))
            _forget(first=not executed)
            executed += 1
            pipe.send(("outcome", outcome))
            if outcome.status == "killed":
                return


def _forget(*, first: bool) -> None:
    """Free what a run left in reference cycles: networks, which Python would keep for dozens of runs.

    What libraries made while loading is set aside once: looking through it took half a second each time.
    """
    gc.collect()
    if first:
        gc.freeze()


def leave(*_: object) -> NoReturn:
    """End the process so that what it was doing is closed as killed."""
    sys.exit(128 + signal.SIGTERM)


@contextlib.contextmanager
def _printing_to(log: Path) -> Iterator[None]:
    """Send what the process prints, native libraries included, to a file that holds the current run only."""
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        yield
        sys.stdout.flush()
        sys.stderr.flush()


def share_of_threads(workers: int) -> int:
    """Return how many CPU threads each of ``workers`` may use."""
    return max(1, len(os.sched_getaffinity(0)) // workers) if hasattr(os, "sched_getaffinity") else 1


def _execute_on_several(
    job: Mapping[str, Any], spec: RunSpec, progress: Callable[[int, int], None] | None
) -> Outcome:
    """Start one process per device; Lightning finds its place in each from the environment."""
    logs = Path(spec.config.paths.root).resolve() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job_file = logs / f"{spec.key}.job.json"
    job_file.write_text(json.dumps(job))
    command = [sys.executable, "-m", "graft.sweep.worker", str(job_file)]
    devices = spec.config.trainer.devices
    threads = spec.config.trainer.threads or share_of_threads(devices)
    usual = {"OMP_NUM_THREADS": str(threads)} | os.environ
    with contextlib.ExitStack() as stack:
        processes = []
        for rank in range(devices):
            place = {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            log = stack.enter_context((logs / f"{spec.key}.rank{rank}.log").open("w")) if rank else None
            processes.append(
                subprocess.Popen(command, env=usual | place, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            )
        try:
            return _join(processes, job_file, spec.key, progress)
        finally:
            _end(processes)
            for leftover in logs.glob(f"{spec.key}.*"):
                leftover.unlink(missing_ok=True)


def _join(
    processes: list[subprocess.Popen[bytes]],
    job_file: Path,
    key: str,
    progress: Callable[[int, int], None] | None,
) -> Outcome:
    """Wait for all processes; when one of them fails, the others wait for it in vain and are ended."""
    told = ""
    while any(process.poll() is None for process in processes):
        if any(process.returncode not in (None, 0) for process in processes):
            _end(processes)
        with contextlib.suppress(subprocess.TimeoutExpired):
            processes[0].wait(timeout=_SECONDS_BETWEEN_LOOKS)
        news = _read(job_file.with_suffix(".progress"))
        if progress is not None and news != told:
            told = news
            done, total = news.split()
            progress(int(done), int(total))
    result = _read(job_file.with_suffix(".outcome"))
    if result:
        return Outcome(**json.loads(result))
    codes = [process.returncode for process in processes]
    return Outcome(key, "failed", f"a process of the run ended without a result (exit codes {codes})")


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """End processes: the first one has time to write down how its run ended."""
    deadline = time.monotonic() + _SECONDS_TO_LEAVE
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _write(path: Path, text: str) -> None:
    """Write so that a reader never sees a part."""
    beside = path.with_suffix(".part")
    beside.write_text(text)
    beside.replace(path)


def _main(job_file: Path) -> int:
    """Be one process of a run on several devices; the first one says how it went."""
    first = int(os.environ["LOCAL_RANK"]) == 0
    signal.signal(signal.SIGTERM, leave)

    def progress(done: int, total: int) -> None:
        _write(job_file.with_suffix(".progress"), f"{done} {total}")

    outcome = execute_job(json.loads(job_file.read_text()), progress if first else None)
    if first:
        _write(job_file.with_suffix(".outcome"), json.dumps(asdict(outcome)))
    return 0 if outcome.status == "finished" else RunFailedError.exit_code


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1])))
