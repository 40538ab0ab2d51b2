"""Worker processes that stay alive between runs: a fresh process costs 7 seconds, a further run in it 0.2."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Protocol

from graft.errors import RunFailedError
from graft.plan.halving import Halving
from graft.plan.spec import RunSpec
from graft.sweep.devices import Place
from graft.sweep.outcome import AWAY, Outcome, describe_death, describe_interruption
from graft.sweep.retry import Attempt
from graft.sweep.reuse import ReusePlan
from graft.sweep.stopping import Stop
from graft.sweep.tail import read_tail
from graft.sweep.worker import Job, serve

#: How long to wait for news before looking whether processes live, runs hang, or somebody asks to stop.
_SECONDS_BETWEEN_LOOKS = 0.5
#: What runs get to write down where they are when the sweep is asked to stop.
_SECONDS_TO_STOP = 25.0
#: How long a worker may take to end once its run has.
_SECONDS_TO_EXIT = 5.0
#: How long no run is started after the store was away, times the tries so far.
_SECONDS_TO_REST = 30.0
#: Workers that end one after the other before they are ready: something is wrong with all of them.
_MOST_FALSE_STARTS = 3


class Audience(Protocol):
    """Who is told what happens to runs, and decides what is tried again."""

    def advanced(self, under_way: int, fraction: float) -> None:
        """Take how many runs are under way, and the sum of the fractions that they have done."""

    def ended(self, attempt: Attempt, outcome: Outcome, run_id: str | None, log: str) -> Attempt | Outcome:
        """Take the end of a try, and return the next one of the same run, or how the run ended for good."""


@dataclass
class _Worker:
    place: Place
    process: SpawnProcess
    pipe: Connection
    log: Path
    ready: bool = False
    attempt: Attempt | None = None
    members: int = 1
    holds: frozenset[str] = frozenset()
    run_id: str | None = None
    since: float | None = None
    fraction: float = 0.0


@dataclass
class Pool:
    """Executes runs side by side, each worker one at a time.

    Attributes:
        places: What each worker may use; as many workers.
        logs: Folder for what runs print.
        audience: Told of each run, and asked whether it is tried again.
        stop: Looked at for a signal that asks to stop.
        run_timeout: Seconds that a run may take, None for any.
        reuse: What the sweep decided that its runs share.
        races: Who decides for each run whether it goes on, by its key.
    """

    places: Sequence[Place]
    logs: Path
    audience: Audience
    stop: Stop
    run_timeout: float | None = None
    reuse: ReusePlan = field(default_factory=ReusePlan)
    races: Mapping[str, Halving] = field(default_factory=dict)
    _workers: list[_Worker] = field(default_factory=list)
    _waiting: deque[Attempt] = field(default_factory=deque)
    _logs: list[Path] = field(default_factory=list)
    _false_starts: int = 0
    _rests_until: float = 0.0
    _broken: set[int] = field(default_factory=set)

    def execute(self, specs: Sequence[RunSpec], parent_id: str | None) -> list[Outcome]:
        """Execute all runs and return how each ended, in the order in which they did.

        Raises:
            RunFailedError: When workers do not even start.
        """
        self._waiting.extend(Attempt(spec) for spec in specs)
        self.logs.mkdir(parents=True, exist_ok=True)
        outcomes: list[Outcome] = []
        try:
            while (self._waiting or self._busy()) and self.stop.signum is None:
                self._man()
                self._hand_out(parent_id)
                outcomes += self._listen(_SECONDS_BETWEEN_LOOKS)
                busy = self._busy()
                self.audience.advanced(len(busy), sum(worker.fraction for worker in busy))
            if self.stop.signum is not None:
                outcomes += self._stop_all(self.stop.signum)
        finally:
            self._end_all()
        return outcomes

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.attempt is not None]

    def _man(self) -> None:
        """Start a worker in every place that is free and needed."""
        idle = [worker for worker in self._workers if worker.attempt is None]
        taken = [worker.place for worker in self._workers]
        free = list(self.places)
        for place in taken:
            free.remove(place)
        for place in free[: max(0, len(self._waiting) - len(idle))]:
            self._workers.append(self._start(place))

    def _start(self, place: Place) -> _Worker:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        log = self.logs / f"worker-{os.getpid()}-{time.monotonic_ns()}.log"
        self._logs.append(log)
        process = context.Process(target=serve, args=(there, place, log), daemon=False)
        process.start()
        there.close()
        return _Worker(place, process, here, log)

    def _hand_out(self, parent_id: str | None) -> None:
        """Give each free worker its next run."""
        for worker in self._workers:
            if not self._waiting or time.monotonic() < self._rests_until:
                return
            attempt = self._choose(worker) if worker.ready and worker.attempt is None else None
            if attempt is None:
                continue
            siblings = self._find_siblings(worker, attempt)
            key = attempt.spec.key
            job = Job(attempt.spec, parent_id, self.reuse.sharing.get(key), siblings, self.races.get(key))
            with contextlib.suppress(OSError):  # a worker that just died is noticed when listening
                worker.pipe.send(job)
                self._waiting.remove(attempt)
                worker.attempt, worker.run_id = attempt, None
                worker.members = 1 + len(siblings)
                worker.since, worker.fraction = time.monotonic(), 0.0

    def _choose(self, worker: _Worker) -> Attempt | None:
        """Return the next run for a worker: one that it has trained already, else one that nobody trains."""
        others = [other for other in self._workers if other is not worker]
        held = frozenset[str]().union(*(other.holds for other in others))
        busy = {self._find_group(other.attempt) for other in others if other.attempt and other.members > 1}
        free = None
        for attempt in self._waiting:
            if attempt.spec.key in worker.holds:
                return attempt
            group = self._find_group(attempt)
            if free is None and attempt.spec.key not in held and (group is None or group not in busy):
                free = attempt
        return free

    def _find_group(self, attempt: Attempt) -> int | None:
        """Return the number of the group that a run trains in, None for a run alone."""
        group = None if attempt.earlier else self.reuse.group_of.get(attempt.spec.key)
        return None if group is None or group in self._broken else group

    def _find_siblings(self, worker: _Worker, attempt: Attempt) -> tuple[RunSpec, ...]:
        """Return the waiting runs that train with one, none where it has been trained."""
        group = self._find_group(attempt)
        if group is None or attempt.spec.key in worker.holds:
            return ()
        return tuple(
            other.spec for other in self._waiting if other is not attempt and self._find_group(other) == group
        )

    def _listen(self, seconds: float) -> list[Outcome]:
        """Take the news of all workers, and the silence of those that died or hang."""
        said = wait([worker.pipe for worker in self._workers], timeout=seconds)
        outcomes = []
        for worker in list(self._workers):
            ended = self._hear(worker) if worker.pipe in said else None
            if ended is None and worker.process.exitcode is not None:
                ended = self._bury(worker)
            if ended is None and self._is_overdue(worker):
                ended = self._end_overdue(worker)
            if ended is not None:
                outcomes += self._conclude(worker, ended)
        return outcomes

    def _hear(self, worker: _Worker) -> Outcome | None:
        """Take all news of a worker that are there."""
        try:
            while worker.pipe.poll():
                news: tuple[Any, ...] = worker.pipe.recv()
                if news[0] == "outcome":
                    outcome: Outcome = news[1]
                    return outcome
                self._take(worker, news)
        except (EOFError, OSError):
            worker.process.join(timeout=_SECONDS_TO_STOP)
        return None

    def _take(self, worker: _Worker, news: tuple[Any, ...]) -> None:
        if news[0] == "ready":
            worker.ready, self._false_starts = True, 0
        elif news[0] == "started":
            worker.run_id = news[1]
            worker.since = time.monotonic()
        elif news[0] == "trained":
            worker.holds = frozenset(news[1])
            if not worker.holds:
                self._dissolve(worker)
        elif news[0] == "waiting":  # for a run that another sweep executes
            worker.since = None
        elif news[0] == "progress":
            worker.fraction = news[1] / news[2]

    def _dissolve(self, worker: _Worker) -> None:
        """Let the runs of a group that could not train together train one by one, from this one on."""
        group = self._find_group(worker.attempt) if worker.attempt else None
        if group is not None:
            self._broken.add(group)
        worker.members, worker.since = 1, time.monotonic()

    def _bury(self, worker: _Worker) -> Outcome | None:
        """Take leave of a process that ended; its place is free."""
        last = self._hear(worker)
        self._remove(worker)
        if worker.attempt is not None:
            return last or describe_death(worker.attempt.spec.key, worker.process.exitcode or 0)
        if not worker.ready:
            self._false_starts += 1
            if self._false_starts >= _MOST_FALSE_STARTS:
                reason = describe_death("", worker.process.exitcode or 0).reason
                raise RunFailedError(
                    f"A worker process could not start: {reason}. Try `graft train` without -m.\n"
                    f"{read_tail(worker.log)}".rstrip()
                )
        return None

    def _is_overdue(self, worker: _Worker) -> bool:
        if self.run_timeout is None or worker.attempt is None or worker.since is None:
            return False
        return time.monotonic() - worker.since > self.run_timeout * worker.members

    def _end_overdue(self, worker: _Worker) -> Outcome:
        assert worker.attempt is not None
        self._remove(worker)
        reason = f"it hung: not finished after sweep.run_timeout={self.run_timeout:g} s"
        return Outcome(worker.attempt.spec.key, "failed", reason)

    def _conclude(self, worker: _Worker, outcome: Outcome) -> list[Outcome]:
        """Tell how a run ended; it is over unless it is to be tried again."""
        attempt, worker.attempt = worker.attempt, None
        assert attempt is not None
        group = self._find_group(attempt)
        fell = worker not in self._workers and self.stop.signum is None
        if fell and worker.members > 1 and worker.run_id is None and group is not None:
            # The process ended while the group trained: whose fault it was shows when each trains alone.
            self._broken.add(group)
            self._waiting.appendleft(attempt)
            return []
        if outcome.status == "killed":  # the worker ends itself
            worker.process.join(timeout=_SECONDS_TO_EXIT)
            self._remove(worker)
        final = self.audience.ended(attempt, outcome, worker.run_id, read_tail(worker.log))
        if isinstance(final, Outcome):
            return [final]
        if outcome.cause == AWAY:  # the next run would find the store away as well
            self._rests_until = time.monotonic() + _SECONDS_TO_REST * len(final.earlier)
        self._waiting.append(final)
        return []

    def _stop_all(self, signum: int) -> list[Outcome]:
        """Let all runs write down where they are, and end."""
        for worker in self._busy():
            worker.process.terminate()
        outcomes: list[Outcome] = []
        deadline = time.monotonic() + _SECONDS_TO_STOP
        while self._busy() and time.monotonic() < deadline:
            outcomes += self._listen(_SECONDS_BETWEEN_LOOKS)
        for worker in self._busy():
            assert worker.attempt is not None
            self._remove(worker)
            outcomes += self._conclude(worker, describe_interruption(worker.attempt.spec.key, signum))
        return outcomes

    def _remove(self, worker: _Worker) -> None:
        """Forget a worker, and end its process and what it started."""
        if worker in self._workers:
            self._workers.remove(worker)
        _kill(worker.process)
        worker.pipe.close()

    def _end_all(self) -> None:
        """Let workers go that wait for a run; end those that still have one, and cannot be asked any more."""
        for worker in self._workers:
            worker.pipe.close()
        for worker in self._workers:
            if worker.attempt is None:
                worker.process.join(timeout=_SECONDS_TO_STOP)
            _kill(worker.process)
        for log in self._logs:  # what matters of it is recorded with the run
            log.unlink(missing_ok=True)


def _kill(process: SpawnProcess) -> None:
    """End a process and all that it started; it leads a group of its own."""
    if process.pid is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()
