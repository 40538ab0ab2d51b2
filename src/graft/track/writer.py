"""Write one run, or one sweep, into MLflow, in batches: logging each number by itself costs 3 ms."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.errors import DivergedError, PrunedError, RunInterrupted, StoreAwayError
from graft.plan.spec import RunSpec
from graft.track.away import ask_patiently, can_wait, needing_answers
from graft.track.datasets import log_data
from graft.track.describe import describe_params, describe_run
from graft.track.heartbeat import Heartbeat
from graft.track.journal import Point, say_batch, say_end, say_files
from graft.track.outbox import Outbox
from graft.track.process import HEARTBEAT, TRANSIENT, describe_process, is_dead
from graft.track.store import Store, provenance

if TYPE_CHECKING:
    from mlflow.entities import Run

#: Seconds that numbers are kept back at most, so that a long run can be watched while it trains.
_FLUSH_SECONDS = 5.0

#: MLflow takes at most so many numbers in one call.
_LARGEST_BATCH = 1000

#: MLflow takes tags of 8,000 characters; what matters of a reason is in its first lines.
_LONGEST_REASON = 5000


_RUNNING = {"graft.status": "running"}

#: How a run is closed that raised one of these.
_STATUSES = {DivergedError: "diverged", PrunedError: "pruned"}


class RunWriter:
    """One MLflow run, from its start to a status that tells the truth.

    What the store does not take at the moment is kept on disk and sent later, in order.

    Args:
        store: Where to write.
        run_id: The run, started already.
    """

    def __init__(self, store: Store, run_id: str) -> None:
        self.store = store
        self.run_id = run_id
        self._outbox = Outbox(store, run_id)
        self._heartbeat: Heartbeat | None = None
        self._kept: list[Point] = []
        self._kept_tags: dict[str, str] = {}
        self._known: set[tuple[str, int]] = set()
        self._last = 0
        self._flushed = time.monotonic()

    def record(self, metrics: Mapping[str, float], step: int) -> None:
        """Take ``metrics`` as they stand after ``step`` optimizer steps.

        What the history of a resumed run holds already is not recorded again. Of two numbers of one step
        MLflow shows the later one, and of two in one millisecond the larger: so time always moves on.
        Infinity is left out, because MLflow would show it as 1.8e308.
        """
        self._keep({key: value for key, value in metrics.items() if (key, step) not in self._known}, step)
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def conclude(self, metrics: Mapping[str, float], step: int) -> None:
        """Record the final numbers, which stand above those that `record` took at the same step.

        MLflow stores them as a whole: a resumed run that has a number for each of them was concluded before.
        """
        if all((key, step) in self._known for key in metrics):
            return
        if len(self._kept) + len(metrics) > _LARGEST_BATCH:
            self.flush()
        self._keep(metrics, step)

    def flush(self) -> None:
        """Bring what is kept back to the store, or safely on disk while the store is away."""
        while self._kept or self._kept_tags:
            self._outbox.send(say_batch(self._kept[:_LARGEST_BATCH], self._kept_tags))
            self._kept, self._kept_tags = self._kept[_LARGEST_BATCH:], {}
        self._flushed = time.monotonic()

    def log_json(self, value: Any, path: str) -> None:
        """Store ``value`` as an artifact at ``path``."""
        self.log_text(json.dumps(value, indent=1), path)

    def log_text(self, text: str, path: str) -> None:
        """Store ``text`` as an artifact at ``path``."""
        place = Path(path)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / place.name).write_text(text)
            self.log_folder(Path(folder), None if place.parent == Path() else place.parent.as_posix())

    def log_folder(self, folder: Path, path: str | None = None) -> None:
        """Store the files of a folder as artifacts under ``path``."""
        self._outbox.send(say_files(folder, path))

    def note(self, tags: Mapping[str, str]) -> None:
        """Take tags, which go to the store with the numbers."""
        self._kept_tags |= tags

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags at once."""
        self._outbox.send(say_batch(tags=tags))

    def beat(self) -> None:
        """Say that the run is alive, after what was kept while the store was away."""
        if self._outbox.is_empty or self._outbox.drain():
            self.store.client.set_tag(self.run_id, HEARTBEAT, f"{time.time():.0f}")

    def open(self, params: Mapping[str, str]) -> None:
        """Say what the run was asked for, and from now on that it is alive."""
        if params:
            self._outbox.send(say_batch(params=params))
        self._heartbeat = Heartbeat(self.beat)
        self._heartbeat.start()

    def reopen(self, run: Run, tags: Mapping[str, str], params: Mapping[str, str]) -> None:
        """Go on in a run that was interrupted: what its history holds is not recorded again.

        Args:
            run: The run as MLflow holds it.
            tags: What is true from now on.
            params: All parameters; MLflow never changes one that is set.
        """
        self.pick_up()
        client = self.store.client
        for key in client.get_run(self.run_id).data.metrics:
            for point in client.get_metric_history(self.run_id, key):
                self._known.add((key, point.step))
                self._last = max(self._last, point.timestamp)
        client.update_run(self.run_id, "RUNNING")
        for stale in {"graft.reason", TRANSIENT} & run.data.tags.keys():
            client.delete_tag(self.run_id, stale)
        self.tag({**tags, **_RUNNING})
        self.open({key: value for key, value in params.items() if key not in run.data.params})

    def pick_up(self) -> None:
        """Take over what a process that ended could not send of this run."""
        self._outbox.pick_up()
        self._outbox.drain()

    def has_ended(self) -> bool:
        """Whether the run has its last status, or will have it once everything is sent."""
        try:
            return self._outbox.holds_end or self.store.client.get_run(self.run_id).info.status != "RUNNING"
        except Exception as error:
            if not can_wait(error):
                raise
            return False

    def end(self, status: str, reason: str = "") -> None:
        """Close the run.

        Args:
            status: ``finished``, ``failed``, ``killed``, ``diverged`` or ``pruned``.
            reason: Why, unless it finished.
        """
        if self._heartbeat is not None:
            self._heartbeat.stop()
        self.note({"graft.status": status})
        if reason:
            self.note({"graft.reason": reason[:_LONGEST_REASON]})
        self.flush()
        known = {"finished": "FINISHED", "killed": "KILLED", "pruned": "KILLED"}
        self._outbox.send(say_end(known.get(status, "FAILED"), int(time.time() * 1000)))
        self.close()

    def close(self) -> None:
        """Try once more to send what is kept; what stays is sent when graft next opens the store."""
        self._outbox.close()

    def _keep(self, metrics: Mapping[str, float], step: int) -> None:
        self._last = max(int(time.time() * 1000), self._last + 1)
        self._kept += [
            (key, float(value), self._last, step) for key, value in metrics.items() if not math.isinf(value)
        ]


def start_run(store: Store, spec: RunSpec, *, parent_id: str | None, notes: Mapping[str, str]) -> RunWriter:
    """Start the MLflow run of a planned run.

    Args:
        store: Where to write.
        spec: The planned run.
        parent_id: The sweep it belongs to, if any.
        notes: Further tags, by name without the prefix ``graft.``.

    Raises:
        StoreAwayError: When the store does not answer.
    """
    with needing_answers(store.uri):
        experiment = ask_patiently(lambda: store.experiment_id(spec.config.tracking.experiment))
        tags = describe_run(spec, parent_id, notes) | _RUNNING
        run = ask_patiently(lambda: store.client.create_run(experiment, tags=tags))
        log_data(store, run.info.run_id, [spec])
    writer = RunWriter(store, run.info.run_id)
    writer.open(describe_params(spec))
    return writer


def resume_run(
    store: Store, spec: RunSpec, *, parent_id: str | None, notes: Mapping[str, str], goes_on: bool = False
) -> RunWriter | None:
    """Go on in the newest MLflow run of the same key, when it was interrupted; None when there is none.

    A run that failed for a reason of its own, or diverged, is left as it is, unless training goes on where it
    was.

    Args:
        store: Where to write.
        spec: The planned run.
        parent_id: The sweep it belongs to from now on; None leaves it where it was.
        notes: Further tags, by name without the prefix ``graft.``.
        goes_on: Whether training goes on from a checkpoint: what was recorded up to it is in the old record.

    Raises:
        StoreAwayError: When the store does not answer.
    """
    with needing_answers(store.uri):
        experiment = ask_patiently(lambda: store.experiment_id(spec.config.tracking.experiment))
        wanted = f"tags.`graft.kind` = 'run' and tags.`graft.run_key` = '{spec.key}'"
        found = ask_patiently(lambda: store.client.search_runs([experiment], wanted, max_results=1))
        failed = bool(found) and found[0].info.status == "FAILED"
        if not found or not (_was_interrupted(found[0]) or (goes_on and failed)):
            return None
        resumed = int(found[0].data.tags.get("graft.resumed", "0")) + 1
        tags = describe_run(spec, parent_id, notes) | {"graft.resumed": str(resumed)}
        writer = RunWriter(store, found[0].info.run_id)
        writer.reopen(found[0], tags, describe_params(spec))
    return writer


@contextlib.contextmanager
def recording(
    store: Store | None,
    spec: RunSpec,
    parent_id: str | None,
    notes: Mapping[str, str],
    *,
    goes_on: bool = False,
) -> Iterator[RunWriter | None]:
    """Record what happens inside as one run, and end it with the status that is true.

    An interrupted run of the same key is gone on with; see `resume_run`.

    Args:
        store: Where to write, None on processes that do not record.
        spec: The planned run.
        parent_id: The sweep it belongs to, if any.
        notes: Further tags, by name without the prefix ``graft.``.
        goes_on: Whether training goes on from a checkpoint.

    Raises:
        StoreAwayError: When the run cannot be started because the store does not answer.
    """
    if store is None:
        yield None
        return
    writer = resume_run(store, spec, parent_id=parent_id, notes=notes, goes_on=goes_on)
    writer = writer or start_run(store, spec, parent_id=parent_id, notes=notes)
    try:
        yield writer
    except BaseException as error:
        if isinstance(error, StoreAwayError):
            writer.tag({TRANSIENT: "true"})
        killed = isinstance(error, KeyboardInterrupt | SystemExit | RunInterrupted)
        named = next((name for kind, name in _STATUSES.items() if isinstance(error, kind)), "failed")
        writer.end("killed" if killed else named, f"{type(error).__name__}: {error}")
        raise
    writer.end("finished")


def start_sweep(store: Store, experiment: str, specs: Sequence[RunSpec], command: str) -> RunWriter:
    """Start the parent run of a sweep, or return the one that was started for the same plan.

    Args:
        store: Where to write.
        experiment: Name of the experiment.
        specs: The planned runs.
        command: What the user asked for, to be repeated.

    Raises:
        StoreAwayError: When the store does not answer.
    """
    from graft.track.reader import find_sweep, plan_digest

    keys = [spec.key for spec in specs]
    with needing_answers(store.uri):
        experiment_id = ask_patiently(lambda: store.experiment_id(experiment))
        known = find_sweep(store, experiment_id, keys)
        if known is not None:
            writer = RunWriter(store, known)
            writer.reopen(store.client.get_run(known), describe_process() | {"graft.command": command}, {})
            return writer
        tags = {
            "mlflow.runName": f"sweep of {len(keys)} runs",
            "graft.kind": "sweep",
            "graft.plan": plan_digest(keys),
            "graft.command": command,
            **provenance(),
            **describe_process(),
            **_RUNNING,
        }
        run = ask_patiently(lambda: store.client.create_run(experiment_id, tags=tags))
        log_data(store, run.info.run_id, specs)
    writer = RunWriter(store, run.info.run_id)
    writer.log_json({"run_keys": keys}, "plan.json")
    writer.open({})
    return writer


def _was_interrupted(run: Run) -> bool:
    """Whether the next attempt goes on in ``run``."""
    if run.info.status == "RUNNING":
        return is_dead(run.data.tags)
    failed_for_now = run.info.status == "FAILED" and run.data.tags.get(TRANSIENT) == "true"
    return run.info.status == "KILLED" or failed_for_now
