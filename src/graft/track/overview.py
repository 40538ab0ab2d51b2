"""How sweeps and runs stand, read from their tags alone.

A SQLite file is read without MLflow, whose import alone takes longer than the answer may.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from graft.errors import GraftError
from graft.track.away import needing_answers
from graft.track.database import TAGS, Seen, look_into
from graft.track.store import Store, find_database, open_store, resolve_uri

#: How the runs of a plan can stand; ``lost`` = its process is gone, ``waiting`` = nobody has begun.
STATES = ("finished", "running", "lost", "failed", "diverged", "killed", "pruned", "waiting")


@dataclass(frozen=True)
class SweepState:
    """A sweep, and how many of its runs stand where."""

    seen: Seen
    counts: Mapping[str, int]

    @property
    def state(self) -> str:
        """One of `STATES`; a sweep that was asked for twice lives on with either of its drivers."""
        return "running" if self.seen.state == "lost" and self.counts["running"] else self.seen.state


def look(uri: str | None, root: Path) -> list[Seen]:
    """Return every run and sweep of a store that graft recorded, the newest first.

    Raises:
        GraftError: When there is no such store.
        StoreAwayError: When it does not answer.
    """
    file = find_database(resolve_uri(uri, root))
    if file is not None and not file.exists():
        if uri is None and "MLFLOW_TRACKING_URI" not in os.environ:
            return []  # nobody has begun
        raise GraftError(f"Expected an MLflow database at {file}, but there is no such file.")
    if file is not None:
        with contextlib.suppress(sqlite3.Error):  # a future MLflow may keep them elsewhere: ask it then
            return list(look_into(file))
    return list(_ask(open_store(uri, root)))


def summarise(
    seen: Sequence[Seen], plans: Mapping[str, Sequence[str]], experiment: str | None
) -> tuple[list[SweepState], list[Seen]]:
    """Return the sweeps of an experiment, and the runs that are not finished.

    Args:
        seen: What `look` gave.
        plans: Run keys of each sweep, by id.
        experiment: Its name, None for all.
    """
    latest: dict[str, Seen] = {}
    for run in seen:
        key = run.tags.get("graft.run_key", run.run_id)
        if run.tags["graft.kind"] == "run" and (key not in latest or run.status == "FINISHED"):
            latest[key] = run
    sweeps = []
    served = {key for key, run in latest.items() if experiment in (None, run.experiment)}
    for sweep in seen:
        if sweep.run_id not in plans or experiment not in (None, sweep.experiment):
            continue
        states = [latest[key].state if key in latest else "waiting" for key in plans[sweep.run_id]]
        sweeps.append(SweepState(sweep, {state: states.count(state) for state in STATES}))
        served |= set(plans[sweep.run_id])
    runs = [run for key, run in latest.items() if key in served and run.status != "FINISHED"]
    return sweeps, runs


def read_plans(seen: Sequence[Seen], uri: str | None, root: Path) -> dict[str, list[str]]:
    """Return the run keys of each sweep by its id; one whose plan is lost is left out."""
    plans = {}
    for sweep in seen:
        if sweep.tags["graft.kind"] == "sweep":
            with contextlib.suppress(OSError, GraftError):
                plans[sweep.run_id] = [str(key) for key in _read_plan(sweep, uri, root)["run_keys"]]
    return plans


def _read_plan(sweep: Seen, uri: str | None, root: Path) -> Mapping[str, Sequence[str]]:
    plan: Mapping[str, Sequence[str]]
    if sweep.artifacts.startswith("file://"):
        plan = json.loads((Path(unquote(urlsplit(sweep.artifacts).path)) / "plan.json").read_text())
    else:
        from graft.track.reader import read_json

        plan = read_json(open_store(uri, root), sweep.run_id, "plan.json")
    return plan


def _ask(store: Store) -> Iterator[Seen]:
    from graft.track.reader import name_experiments, search

    with needing_answers(store.uri):
        names = name_experiments(store)
        for run in search(store, list(names), "tags.`graft.kind` != ''"):
            tags = {key: value for key, value in run.data.tags.items() if key in TAGS}
            info = run.info
            experiment = names[info.experiment_id]
            yield Seen(info.run_id, experiment, info.status, info.start_time, info.artifact_uri, tags)
