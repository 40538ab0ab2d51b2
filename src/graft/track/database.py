"""Runs as a SQLite file of MLflow holds them, read without MLflow: its import alone takes two seconds."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from graft.track.process import HEARTBEAT, PARENT, TRANSIENT, is_gone

TAGS = (
    "graft.kind", "graft.run_key", "graft.status", "graft.reason", "graft.host", "graft.pid", "graft.process",
    "graft.command", HEARTBEAT, TRANSIENT, "mlflow.runName", PARENT,
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
            if self.tags.get(TRANSIENT) == "true":
                return "waiting"  # to be tried again
            return "diverged" if self.tags.get("graft.status") == "diverged" else "failed"
        if self.status == "RUNNING":
            return "lost" if is_gone(self.tags) else "running"
        if self.status == "KILLED":
            return "pruned" if self.tags.get("graft.status") == "pruned" else "killed"
        return "finished" if self.status == "FINISHED" else "running"

    @property
    def heartbeat_age(self) -> float | None:
        """Seconds since the last sign of life, None where there never was one."""
        beat = self.tags.get(HEARTBEAT)
        return None if beat is None else max(0.0, time.time() - float(beat))


def look_into(file: Path) -> Iterator[Seen]:
    """Yield every run and sweep that graft recorded in a database, the newest first.

    The tables are those that MLflow has had since its first release.

    Raises:
        sqlite3.Error: It has other tables.
    """
    places = ", ".join("?" for _ in TAGS)
    with contextlib.closing(
        sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=20)
    ) as base:
        tags: dict[str, dict[str, str]] = {}
        for run_id, key, value in base.execute(
            f"SELECT run_uuid, key, value FROM tags WHERE key IN ({places})", TAGS
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
