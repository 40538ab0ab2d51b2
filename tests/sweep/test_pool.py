"""Who gets which run: heads that trained together are recorded where they trained."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from graft.plan.spec import Facts, specify
from graft.sweep.devices import Place
from graft.sweep.outcome import describe_death
from graft.sweep.pool import Pool, _Worker
from graft.sweep.retry import Attempt
from graft.sweep.reuse import ReusePlan
from graft.sweep.stopping import Stop

FACTS = Facts("d", (), None, "none", {"size": 16}, "32")


@pytest.fixture
def specs(build_config) -> list[Any]:
    return [specify(build_config({"seed": seed}), FACTS) for seed in range(6)]


@pytest.fixture
def pool(specs) -> Pool:
    """Runs 0, 2, 4 are one group, 1 and 3 another; 5 trains alone. Two workers."""
    groups = {specs[i].key: group for i, group in ((0, 0), (2, 0), (4, 0), (1, 1), (3, 1))}
    pool = Pool([], Path(), None, Stop(), reuse=ReusePlan(group_of=groups))  # type: ignore[arg-type]
    pool._waiting = deque(Attempt(spec) for spec in specs)
    pool._workers = [_Worker(Place(1), None, None, Path()) for _ in range(2)]  # type: ignore[arg-type]
    return pool


def take(pool: Pool, number: int) -> tuple[Any, tuple[Any, ...]]:
    """Hand the next run to a worker, as the pool does."""
    worker = pool._workers[number]
    attempt = pool._choose(worker)
    assert attempt is not None
    siblings = pool._find_siblings(worker, attempt)
    pool._waiting.remove(attempt)
    worker.attempt, worker.members = attempt, 1 + len(siblings)
    return attempt.spec, siblings


def train(pool: Pool, number: int) -> None:
    """Let a worker say that the group it was given has trained."""
    worker = pool._workers[number]
    assert worker.attempt is not None
    group = pool._find_group(worker.attempt)
    pool._take(worker, ("trained", [key for key, own in pool.reuse.group_of.items() if own == group]))


def test_a_group_stays_with_the_worker_that_trained_it(pool: Pool, specs) -> None:
    assert take(pool, 0) == (specs[0], (specs[2], specs[4]))
    assert take(pool, 1) == (specs[1], (specs[3],))
    train(pool, 0)
    train(pool, 1)
    assert take(pool, 0) == (specs[2], ())  # trained already: only to be recorded
    assert take(pool, 1) == (specs[3], ())
    assert take(pool, 1) == (specs[5], ())  # run 4 is the other worker's
    assert pool._choose(pool._workers[1]) is None
    assert take(pool, 0) == (specs[4], ())


def test_nobody_takes_runs_of_a_group_that_is_training(pool: Pool, specs) -> None:
    assert take(pool, 0)[0] == specs[0]
    assert [take(pool, 1)[0] for _ in range(3)] == [specs[1], specs[3], specs[5]]
    assert pool._choose(pool._workers[1]) is None


def test_a_leader_that_never_trained_leaves_its_group_whole(pool: Pool, specs) -> None:
    take(pool, 0)  # and finds the run finished elsewhere, or the store away
    pool._workers[0].attempt = None
    assert take(pool, 0) == (specs[1], (specs[3],))
    pool._workers[0].attempt = None
    assert take(pool, 0) == (specs[2], (specs[4],))


def test_a_group_whose_process_fell_trains_run_by_run(pool: Pool, specs) -> None:
    take(pool, 0)
    worker = pool._workers.pop(0)
    assert pool._conclude(worker, describe_death(specs[0].key, -11)) == []
    assert pool._waiting[0] == Attempt(specs[0])  # no try is counted
    assert take(pool, 0) == (specs[0], ())
    assert take(pool, 0) == (specs[1], (specs[3],))  # the other group is as it was
    pool._workers[0].attempt = None
    assert take(pool, 0) == (specs[2], ())


def test_a_group_that_raised_is_not_tried_again(pool: Pool, specs) -> None:
    pool.run_timeout = 10.0
    take(pool, 0)
    worker = pool._workers[0]
    worker.since = time.monotonic() - 25
    pool._take(worker, ("trained", []))
    assert worker.members == 1
    assert not pool._is_overdue(worker)  # its own time begins now
    assert take(pool, 1) == (specs[1], (specs[3],))  # the other group is as it was
    assert [take(pool, 1) for _ in range(3)] == [(specs[2], ()), (specs[3], ()), (specs[4], ())]


def test_a_group_whose_worker_is_gone_after_training_trains_again(pool: Pool, specs) -> None:
    take(pool, 0)
    train(pool, 0)
    pool._workers.pop(0)
    pool._waiting = deque(one for one in pool._waiting if one.spec in (specs[2], specs[4]))
    assert take(pool, 0) == (specs[2], (specs[4],))


def test_what_failed_before_is_tried_alone(pool: Pool, specs) -> None:
    pool._waiting[0] = Attempt(specs[0], ("killed",))
    assert take(pool, 0) == (specs[0], ())
    pool._waiting.append(Attempt(specs[0], ("killed",)))
    assert take(pool, 0) == (specs[1], (specs[3],))
    assert take(pool, 1) == (specs[2], (specs[4],))  # without the one that failed


def test_a_group_has_the_time_of_all_its_runs(pool: Pool) -> None:
    pool.run_timeout = 10.0
    worker = pool._workers[0]
    worker.attempt, worker.since, worker.members = pool._waiting[0], -1e9, 3
    assert pool._is_overdue(worker)
    worker.since = time.monotonic() - 20
    assert not pool._is_overdue(worker)
    worker.members = 1
    assert pool._is_overdue(worker)
