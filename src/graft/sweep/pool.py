"""Worker processes that stay alive between runs: a fresh process costs 7 seconds, a further run in it 0.2."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from graft.errors import RunFailedError
from graft.plan.spec import RunSpec
from graft.sweep.worker import Outcome, describe_job, serve

#: What a worker gets to close its run before it is killed.
_SECONDS_TO_END = 10.0


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    ready: bool = False
    spec: RunSpec | None = None
    fraction: float = 0.0


@dataclass
class Pool:
    """Executes runs side by side, each worker one at a time.

    Attributes:
        size: How many workers.
        threads: CPU threads of each.
        logs: Folder for what runs print.
        on_progress: Told the sum of the fractions done of all runs under way.
        on_outcome: Told of each run that ended.
    """

    size: int
    threads: int
    logs: Path
    on_progress: Callable[[float], None]
    on_outcome: Callable[[RunSpec, Outcome], None]
    _workers: list[_Worker] = field(default_factory=list)

    def execute(self, specs: Sequence[RunSpec], parent_id: str | None) -> list[Outcome]:
        """Execute all runs and return how each ended, in the order in which they did."""
        waiting = list(reversed(specs))
        outcomes: list[Outcome] = []
        try:
            self._workers = [self._start() for _ in range(min(self.size, len(specs)))]
            while self._workers:
                for ready in wait([worker.pipe for worker in self._workers]):
                    worker = next(worker for worker in self._workers if worker.pipe is ready)
                    ended = self._listen(worker)
                    if ended is not None:
                        outcomes.append(ended)
                    if worker.spec is None:
                        self._next(worker, waiting, parent_id)
        finally:
            self._end_all()
        return outcomes

    def _end_all(self) -> None:
        """End what still works: first politely, so that runs are closed as killed."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(timeout=_SECONDS_TO_END)
            worker.process.kill()

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=serve, args=(there, self.threads, self.logs), daemon=False)
        process.start()
        there.close()
        return _Worker(process, here)

    def _next(self, worker: _Worker, waiting: list[RunSpec], parent_id: str | None) -> None:
        """Give a free worker its next run, or let it go."""
        if not waiting:
            worker.pipe.close()
            self._workers.remove(worker)
            worker.process.join(timeout=30)
            return
        if not worker.process.is_alive():
            self._workers[self._workers.index(worker)] = self._start()
            return
        worker.spec, worker.fraction = waiting.pop(), 0.0
        worker.pipe.send(describe_job(worker.spec, parent_id))

    def _listen(self, worker: _Worker) -> Outcome | None:
        """Take one message; a worker that died is the outcome of its run."""
        message: tuple[Any, ...]
        try:
            message = worker.pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            worker.process.join()
            code = worker.process.exitcode or 0
            reason = (
                f"its process was ended by signal {-code}"
                if code < 0
                else f"its process exited with code {code}"
            )
            message = ("outcome", Outcome(worker.spec.key if worker.spec else "", "killed", reason))
            if not worker.ready:
                raise RunFailedError(
                    f"A worker process could not start: {reason}. Try `graft train` without -m."
                ) from error
        worker.ready = True
        if message[0] == "progress":
            worker.fraction = message[1] / message[2]
            self.on_progress(sum(each.fraction for each in self._workers if each.spec is not None))
        if message[0] != "outcome" or worker.spec is None:
            return None
        outcome: Outcome = message[1]
        spec, worker.spec = worker.spec, None
        self.on_outcome(spec, outcome)
        return outcome
