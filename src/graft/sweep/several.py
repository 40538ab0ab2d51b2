"""One run in several processes of this machine, one per device."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graft.errors import RunInterrupted
from graft.plan.spec import RunSpec
from graft.sweep.devices import share_of_threads
from graft.sweep.outcome import Outcome, describe_death, describe_interruption
from graft.sweep.tail import read_tail
from graft.train.stop import StopRequest

#: How often a run on several devices is looked at, and how long its processes may take to end.
_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_TO_LEAVE = 15.0

#: Where Slurm put a process; those that graft starts have places of their own, but Lightning would ask Slurm.
SLURM_PLACE = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")

Progress = Callable[[int, int], None]
Started = Callable[[str], None]


def execute_on_several(
    job: Mapping[str, Any], spec: RunSpec, progress: Progress | None, on_start: Started | None
) -> Outcome:
    """Start one process per device; Lightning finds its place in each from the environment."""
    logs = Path(spec.config.paths.root).resolve() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    job_file = logs / f"{spec.key}.job.json"
    job_file.write_text(json.dumps(job))
    processes: list[subprocess.Popen[bytes]] = []
    try:
        with StopRequest():
            processes = _start(spec, job_file)
            return _join(processes, job_file, spec.key, progress, on_start)
    except RunInterrupted as error:
        _end(processes)
        outcome = _read_outcome(job_file)
        if outcome is not None and outcome.status != "killed":
            return outcome
        return describe_interruption(spec.key, error.signum)  # what came here, not what was passed on
    finally:
        _end(processes)
        _say_what_others_printed(logs, spec.key, processes)
        for leftover in logs.glob(f"{spec.key}.*"):
            leftover.unlink(missing_ok=True)


def _start(spec: RunSpec, job_file: Path) -> list[subprocess.Popen[bytes]]:
    """Start the processes, each in a group of its own: Ctrl-C reaches them through this process, once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "graft.sweep.rank", str(job_file)]
    devices = spec.config.trainer.devices
    threads = spec.config.trainer.threads or share_of_threads(devices)
    usual = {"OMP_NUM_THREADS": str(threads)} | os.environ
    usual = {name: value for name, value in usual.items() if name not in SLURM_PLACE}
    processes = []
    for rank in range(devices):
        place = {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(_rank_log(job_file.parent, spec.key, rank).open("w")) if rank else None
            processes.append(
                subprocess.Popen(
                    command,
                    env=usual | place,
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    process_group=0,
                )
            )
    return processes


def _rank_log(logs: Path, key: str, rank: int) -> Path:
    return logs / f"{key}.rank{rank}.log"


def _say_what_others_printed(logs: Path, key: str, processes: list[subprocess.Popen[bytes]]) -> None:
    """Print the last lines of processes that failed, where the log of the run will have them."""
    for rank, process in enumerate(processes):
        if rank and process.returncode:
            print(f"process {rank} of the run:\n{read_tail(_rank_log(logs, key, rank))}", file=sys.stderr)


def _join(
    processes: list[subprocess.Popen[bytes]],
    job_file: Path,
    key: str,
    progress: Progress | None,
    on_start: Started | None,
) -> Outcome:
    """Wait for all processes; when one of them fails, the others wait for it in vain and are ended."""
    told, first_code = "", 0
    while any(process.poll() is None for process in processes):
        if not first_code:
            first_code = next((each.returncode for each in processes if each.returncode), 0)
        if first_code:
            _end(processes)
        with contextlib.suppress(subprocess.TimeoutExpired):
            processes[0].wait(timeout=_SECONDS_BETWEEN_LOOKS)
        run_id = _read(job_file.with_suffix(".run"))
        if run_id and on_start is not None:
            on_start(run_id)
            on_start = None
        news = _read(job_file.with_suffix(".progress"))
        if progress is not None and news != told:
            told = news
            done, total = news.split()
            progress(int(done), int(total))
    outcome = _read_outcome(job_file)
    if first_code < 0 and (outcome is None or outcome.status != "finished"):
        return describe_death(key, first_code)  # what the others said of it is only what followed
    if outcome is not None:
        return outcome
    codes = [process.returncode for process in processes]
    return Outcome(key, "failed", f"a process of the run ended without a result (exit codes {codes})")


def _read_outcome(job_file: Path) -> Outcome | None:
    said = _read(job_file.with_suffix(".outcome"))
    return Outcome(**json.loads(said)) if said else None


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """End processes: they have time to write down where they are."""
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
