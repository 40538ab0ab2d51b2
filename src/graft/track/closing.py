"""Ending runs from outside: those whose process is gone, and those whose worker died."""

from __future__ import annotations

from graft.track.away import needing_answers
from graft.track.process import PARENT, STALE_SECONDS, TRANSIENT, is_dead
from graft.track.reader import name_experiments, search
from graft.track.store import Store
from graft.track.writer import RunWriter

#: Artifact that holds the last lines that a failed run printed.
LOG = "log.txt"


def close_dead_runs(store: Store, stale: float = STALE_SECONDS) -> int:
    """Close as killed what dead processes left running, and return how many there were.

    A process of this machine is looked at; never is a living one closed, not even one that was stopped. Of a
    run on another machine only its heartbeat is seen.

    Args:
        store: Where to look.
        stale: Seconds without a heartbeat after which a run of another machine is dead.

    Raises:
        StoreAwayError: When the store does not answer.
    """
    with needing_answers(store.uri):
        wanted = "attributes.status = 'RUNNING' and tags.`graft.host` != ''"
        running = list(search(store, list(name_experiments(store)), wanted))
        dead = [run for run in running if is_dead(run.data.tags, stale)]
        # A sweep that was asked for twice has one record, and lives on with either of its drivers.
        ended = {run.info.run_id for run in dead}
        alive = {run.data.tags.get(PARENT) for run in running if run.info.run_id not in ended}
        dead = [run for run in dead if run.info.run_id not in alive]
        for run in dead:
            RunWriter(store, run.info.run_id).end("killed", "its process ended without a word")
    return len(dead)


def close_run(
    store: Store, run_id: str, status: str, reason: str, log: str | None = None, *, transient: bool = False
) -> None:
    """Close a run whose worker died, unless it had closed the run itself, and say what it printed last.

    Args:
        store: Where it is recorded. When the store is away, this is kept on disk and sent later.
        run_id: The run.
        status: ``failed``, ``killed`` or ``diverged``.
        reason: Why.
        log: Last lines of its log, stored as ``log.txt``.
        transient: Whether the next attempt goes on in this run, because the cause may pass.
    """
    writer = RunWriter(store, run_id)
    writer.pick_up()
    if log:
        writer.log_text(log, LOG)
    if transient:
        writer.tag({TRANSIENT: "true"})
    if not writer.has_ended():
        writer.end(status, reason)
    writer.close()
