"""Write one run, or one sweep, into MLflow, in batches: logging each number by itself costs 3 ms."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.config.load import flatten, to_plain
from graft.errors import DivergedError
from graft.plan.spec import RunSpec
from graft.track.store import Store, provenance

if TYPE_CHECKING:
    from mlflow.entities import Metric

#: Seconds that numbers are kept back at most, so that a long run can be watched while it trains.
_FLUSH_SECONDS = 5.0

#: MLflow takes at most so many numbers in one call.
_LARGEST_BATCH = 1000


class RunWriter:
    """One MLflow run, from its start to a status that tells the truth.

    Args:
        store: Where to write.
        run_id: The run, started already.
    """

    def __init__(self, store: Store, run_id: str) -> None:
        self.store = store
        self.run_id = run_id
        self._kept: list[Metric] = []
        self._last = 0
        self._flushed = time.monotonic()

    def record(self, metrics: Mapping[str, float], step: int) -> None:
        """Take ``metrics`` as they stand after ``step`` optimizer steps.

        Of two numbers of one step MLflow shows the later one, and of two in one millisecond the larger: so
        time always moves on. Infinity is left out, because MLflow would show it as 1.8e308.
        """
        from mlflow.entities import Metric

        self._last = max(int(time.time() * 1000), self._last + 1)
        finite = {name: float(value) for name, value in metrics.items() if not math.isinf(value)}
        self._kept += [Metric(name, value, self._last, step) for name, value in finite.items()]
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send what is kept back."""
        while self._kept:
            self.store.client.log_batch(self.run_id, metrics=self._kept[:_LARGEST_BATCH])
            self._kept = self._kept[_LARGEST_BATCH:]
        self._flushed = time.monotonic()

    def log_json(self, value: Any, path: str) -> None:
        """Store ``value`` as an artifact at ``path``."""
        self.store.client.log_text(self.run_id, json.dumps(value, indent=1), path)

    def log_folder(self, folder: Path, path: str | None = None) -> None:
        """Store the files of a folder as artifacts under ``path``."""
        self.store.client.log_artifacts(self.run_id, str(folder), path)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag

        self.store.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def end(self, status: str, reason: str = "") -> None:
        """Close the run.

        Args:
            status: ``finished``, ``failed``, ``killed`` or ``diverged``.
            reason: Why, unless it finished.
        """
        self.flush()
        tags = {"graft.status": status}
        if reason:
            tags["graft.reason"] = reason
        self.tag(tags)
        known = {"finished": "FINISHED", "killed": "KILLED"}
        self.store.client.set_terminated(self.run_id, known.get(status, "FAILED"))


def start_run(store: Store, spec: RunSpec, *, parent_id: str | None, notes: Mapping[str, str]) -> RunWriter:
    """Start the MLflow run of a planned run.

    Args:
        store: Where to write.
        spec: The planned run.
        parent_id: The sweep it belongs to, if any.
        notes: Further tags, by name without the prefix ``graft.``.
    """
    from mlflow.entities import Param, RunTag

    tags = {
        "mlflow.runName": f"{spec.arm.label} · {spec.labels} labels · {spec.replicate.label}",
        "graft.kind": "run",
        "graft.run_key": spec.key,
        "graft.arm": spec.arm.text,
        "graft.trial": spec.trial,
        "graft.condition": spec.condition,
        "graft.labels": spec.labels,
        "graft.seed": str(spec.seed),
        "graft.replicate": spec.replicate.text,
        "graft.data": spec.config.data.name,
        "graft.metric": spec.config.metric,
        "graft.keep": spec.config.checkpoint.keep,
        "graft.data_digest": spec.facts.data_digest,
        "graft.preprocessing": json.dumps(dict(spec.facts.preprocessing)),
        **{f"graft.{name}": value for name, value in notes.items()},
        **provenance(),
    }
    if spec.folds is not None:
        tags["graft.folds"] = str(spec.folds)
    if parent_id is not None:
        tags["mlflow.parentRunId"] = parent_id
    experiment = store.experiment_id(spec.config.tracking.experiment)
    run_id = store.client.create_run(experiment, tags=tags).info.run_id
    params = [
        Param(key, "" if value is None else str(value))
        for key, value in flatten(to_plain(spec.config)).items()
    ]
    store.client.log_batch(run_id, params=params, tags=[RunTag("graft.status", "running")])
    return RunWriter(store, run_id)


@contextlib.contextmanager
def recording(
    store: Store | None, spec: RunSpec, parent_id: str | None, notes: Mapping[str, str]
) -> Iterator[RunWriter | None]:
    """Record what happens inside as one run, and end it with the status that is true.

    Args:
        store: Where to write, None on processes that do not record.
        spec: The planned run.
        parent_id: The sweep it belongs to, if any.
        notes: Further tags, by name without the prefix ``graft.``.
    """
    if store is None:
        yield None
        return
    writer = start_run(store, spec, parent_id=parent_id, notes=notes)
    try:
        yield writer
    except BaseException as error:
        killed = isinstance(error, KeyboardInterrupt | SystemExit)
        status = "killed" if killed else "diverged" if isinstance(error, DivergedError) else "failed"
        writer.end(status, f"{type(error).__name__}: {error}")
        raise
    writer.end("finished")


def start_sweep(store: Store, experiment: str, specs: Sequence[RunSpec], command: str) -> RunWriter:
    """Start the parent run of a sweep, or return the one that was started for the same plan.

    Args:
        store: Where to write.
        experiment: Name of the experiment.
        specs: The planned runs.
        command: What the user asked for, to be repeated.
    """
    from graft.track.reader import find_sweep, plan_digest

    keys = [spec.key for spec in specs]
    experiment_id = store.experiment_id(experiment)
    known = find_sweep(store, experiment_id, keys)
    if known is not None:
        store.client.update_run(known, "RUNNING")
        writer = RunWriter(store, known)
        writer.tag({"graft.status": "running", "graft.reason": ""})
        return writer
    tags = {
        "mlflow.runName": f"sweep of {len(keys)} runs",
        "graft.kind": "sweep",
        "graft.plan": plan_digest(keys),
        "graft.status": "running",
        "graft.command": command,
        **provenance(),
    }
    writer = RunWriter(store, store.client.create_run(experiment_id, tags=tags).info.run_id)
    writer.log_json({"run_keys": keys}, "plan.json")
    return writer


def close_dead_runs(store: Store) -> int:
    """Close as killed what dead processes of this machine left running, and return how many there were."""
    experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
    wanted = f"attributes.status = 'RUNNING' and tags.`graft.host` = '{platform.node()}'"
    dead = [
        run
        for run in store.client.search_runs(experiments, wanted, max_results=_LARGEST_BATCH)
        if not _is_alive(int(run.data.tags["graft.pid"]))
    ]
    for run in dead:
        RunWriter(store, run.info.run_id).end("killed", "its process ended without a word")
    return len(dead)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
