"""How sweeps and runs stand, read from their tags alone.

A SQLite file is read without MLflow, whose import alone takes longer than the answer may.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from graft.errors import GraftError
from graft.track.away import needing_answers
from graft.track.process import HEARTBEAT, is_gone
from graft.track.store import Store, find_database, open_store, resolve_uri

#: How the runs of a plan can stand; ``lost`` = its process is gone, ``waiting`` = nobody has begun.
STATES = ("finished", "running", "lost", "failed", "diverged", "killed", "waiting")

_TAGS = (
    "graft.kind", "graft.run_key", "graft.status", "graft.reason", "graft.host", "graft.pid", "graft.process",
    "graft.command", HEARTBEAT, "mlflow.runName",
)  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """One MLflow run, as far as its state goes.

    Attributes:
        run_id: MLflow's id.
        experiment: Name of its experiment.
        status: MLflow's status.
        started: When it was started, in milliseconds since 1970.
        artifacts: URI of its artifacts.
        tags: What graft needs of its tags.
    """

    run_id: str
    experiment: str
    status: str
    started: int
    artifacts: str
    tags: Mapping[str, str]

    @property
    def state(self) -> str:
        """One of `STATES`."""
        if self.status == "FAILED":
            return "diverged" if self.tags.get("graft.status") == "diverged" else "failed"
        if self.status == "RUNNING":
            return "lost" if is_gone(self.tags) else "running"
        return {"FINISHED": "finished", "KILLED": "killed"}.get(self.status, "running")

    @property
    def heartbeat_age(self) -> float | None:
        """Seconds since the last sign of life, None where there never was one."""
        beat = self.tags.get(HEARTBEAT)
        return None if beat is None else max(0.0, time.time() - float(beat))


@dataclass(frozen=True)
class SweepState:
    """A sweep, and how many of its runs stand where."""

    seen: Seen
    counts: Mapping[str, int]


def look(uri: str | None, root: Path) -> list[Seen]:
    """Return every run and sweep of a store that graft recorded, the newest first.

    Raises:
        GraftError: When there is no such store.
        StoreAwayError: When it does not answer.
    """
    file = find_database(resolve_uri(uri, root))
    if file is not None and file.exists():
        with contextlib.suppress(sqlite3.Error):  # a future MLflow may keep them elsewhere: ask it then
            return list(_look_into(file))
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


def _look_into(file: Path) -> Iterator[Seen]:
    """Read the tables that MLflow has had since its first release."""
    places = ", ".join("?" for _ in _TAGS)
    with contextlib.closing(
        sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=20)
    ) as base:
        tags: dict[str, dict[str, str]] = {}
        for run_id, key, value in base.execute(
            f"SELECT run_uuid, key, value FROM tags WHERE key IN ({places})", _TAGS
        ):
            tags.setdefault(run_id, {})[key] = value
        rows = base.execute(
            "SELECT run_uuid, experiments.name, status, start_time, artifact_uri FROM runs "
            "JOIN experiments ON experiments.experiment_id = runs.experiment_id "
            "WHERE runs.lifecycle_stage = 'active' AND experiments.lifecycle_stage = 'active' "
            "ORDER BY start_time DESC, run_uuid"
        ).fetchall()
    for run_id, experiment, status, started, artifacts in rows:
        if "graft.kind" in tags.get(run_id, {}):
            yield Seen(run_id, experiment, status, started, artifacts, tags[run_id])


def _ask(store: Store) -> Iterator[Seen]:
    from graft.track.reader import name_experiments, search

    with needing_answers(store.uri):
        names = name_experiments(store)
        for run in search(store, list(names), "tags.`graft.kind` != ''"):
            tags = {key: value for key, value in run.data.tags.items() if key in _TAGS}
            info = run.info
            experiment = names[info.experiment_id]
            yield Seen(info.run_id, experiment, info.status, info.start_time, info.artifact_uri, tags)
