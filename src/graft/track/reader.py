"""Read runs and sweeps back from MLflow."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import yaml

from graft.errors import GraftError, expected_one_of
from graft.plan.arms import Arm
from graft.plan.replicates import Replicate
from graft.track.away import needing_answers
from graft.track.database import look_into
from graft.track.record import RunRecord
from graft.track.store import Store, find_database

if TYPE_CHECKING:
    from mlflow.entities import Run

#: The experiment that MLflow makes by itself, and graft never uses.
_BUILT_IN = "Default"
_PAGE = 1000
_RUN = "tags.`graft.kind` = 'run'"
_FINISHED = f"{_RUN} and attributes.status = 'FINISHED'"
_SWEEP = "tags.`graft.kind` = 'sweep'"
_OWN_FIELDS = {
    "run_key", "arm", "trial", "condition", "labels", "seed", "replicate", "folds", "data", "kind", "status",
}  # fmt: skip


#: Tags that are there to be filtered by in the dashboard, and here mean the same as their absence.
_SAYS_NOTHING = {("graft.chosen", "false"), ("graft.register", "false")}


def plan_digest(keys: Sequence[str]) -> str:
    """Return the name of a plan: a hash of its run keys, whatever their order."""
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()[:20]


def find_sweep(store: Store, experiment_id: str, keys: Sequence[str]) -> str | None:
    """Return the id of the parent run of the same plan in this experiment, if there is one."""
    wanted = f"{_SWEEP} and tags.`graft.plan` = '{plan_digest(keys)}'"
    found = store.client.search_runs([experiment_id], wanted, max_results=1)
    return found[0].info.run_id if found else None


def finished_runs(store: Store) -> dict[str, str]:
    """Return the id of the newest finished run by run key, over all experiments of the store.

    Raises:
        StoreAwayError: When the store does not answer.
    """
    found: dict[str, str] = {}
    for key, run_id in _list_finished(store):  # the newest first
        found.setdefault(key, run_id)
    return found


def _list_finished(store: Store) -> list[tuple[str, str]]:
    """Return run key and id of the finished runs, the newest first."""
    file = find_database(store.uri)
    if file is not None:
        with contextlib.suppress(sqlite3.Error):  # a future MLflow may keep them elsewhere: ask it then
            seen = [run for run in look_into(file) if run.status == "FINISHED"]
            return [
                (run.tags["graft.run_key"], run.run_id) for run in seen if run.tags["graft.kind"] == "run"
            ]
    with needing_answers(store.uri):
        runs = search(store, list(name_experiments(store)), _FINISHED)
        return [(run.data.tags["graft.run_key"], run.info.run_id) for run in runs]


def find_finished(store: Store, run_key: str, metric: str) -> float | None:
    """Return the validation metric of the newest finished run of one key, None when there is none.

    Raises:
        StoreAwayError: When the store does not answer.
    """
    with needing_answers(store.uri):
        wanted = f"{_FINISHED} and tags.`graft.run_key` = '{run_key}'"
        found = store.client.search_runs(list(name_experiments(store)), wanted, max_results=1)
    return float(found[0].data.metrics[f"val/{metric}"]) if found else None


def name_experiments(store: Store) -> dict[str, str]:
    """Return the names of all experiments by id."""
    names: dict[str, str] = {}
    token: str | None = None
    while True:
        page = store.client.search_experiments(max_results=_PAGE, page_token=token)
        names |= {str(experiment.experiment_id): str(experiment.name) for experiment in page}
        token = page.token
        if not token:
            return names


def read_run(store: Store, run_id: str) -> RunRecord:
    """Return one run."""
    run = store.client.get_run(run_id)
    return _record(run, "")


def find_run(store: Store, run_id: str) -> RunRecord | None:
    """Return one run, None where there is none of that id, or it is a sweep's parent run."""
    from mlflow.exceptions import MlflowException

    try:
        run = store.client.get_run(run_id)
    except MlflowException:
        return None
    return _record(run, "") if run.data.tags.get("graft.kind") == "run" else None


def last_experiment(store: Store) -> str:
    """Return the name of the experiment in which a run was started last.

    Raises:
        GraftError: When no run was ever started.
    """
    names = name_experiments(store)
    newest = store.client.search_runs(
        list(names), _RUN, order_by=["attributes.start_time DESC"], max_results=1
    )
    if not newest:
        raise GraftError(
            f"Expected at least one run in {store.uri}, but there is none. Start with: graft train"
        )
    return str(names[newest[0].info.experiment_id])


def read_experiment(store: Store, name: str) -> list[RunRecord]:
    """Return the runs that serve an experiment or a sweep, wherever they were first run.

    Args:
        store: Where to read.
        name: Name of an experiment, or id of a sweep's parent run.

    Raises:
        GraftError: When there is no such experiment.
    """
    names = name_experiments(store)
    sweeps = find_parents(store, name)
    keys = {key for sweep in sweeps for key in _plan(store, sweep)}
    records = [
        _record(run, names.get(run.info.experiment_id, ""))
        for run in search(store, list(names), _RUN)
        if names.get(run.info.experiment_id) == name or run.data.tags.get("graft.run_key") in keys
    ]
    return _latest_of_each(records)


def find_parents(store: Store, name: str) -> list[Run]:
    """Return the parent runs of the sweeps of an experiment, or the one of that id; the newest first.

    Raises:
        GraftError: When there is no such experiment or parent run.
    """
    by_name = {label: identity for identity, label in name_experiments(store).items()}
    if name in by_name:
        return list(search(store, [by_name[name]], _SWEEP))
    return _find_parent(store, name, sorted(set(by_name) - {_BUILT_IN}))


def read_class_names(store: Store, run_id: str) -> tuple[str, ...]:
    """Return the names of the classes that a run told apart, none where its record does not say."""
    try:
        return tuple(read_json(store, run_id, "confusion.json")["class_names"])
    except GraftError:
        return ()


def read_worst_errors(store: Store, run_id: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the configuration of a run, and its surest errors: item, index, true, predicted, probability."""
    config = yaml.safe_load(_read_text(store, run_id, "config.yaml"))
    return config, read_json(store, run_id, "worst_errors.json")


def _find_parent(store: Store, run_id: str, experiments: list[str]) -> list[Run]:
    from mlflow.exceptions import MlflowException

    try:
        run = store.client.get_run(run_id)
    except MlflowException as error:
        raise GraftError(expected_one_of("experiment", run_id, experiments)) from error
    if run.data.tags.get("graft.kind") != "sweep":
        raise GraftError(f"Expected the parent run of a sweep, but {run_id!r} is a single run.")
    return [run]


def count_ahead(store: Store, name: str, records: Iterable[RunRecord]) -> int:
    """Return how many runs that sweeps of an experiment planned have not ended for good.

    Args:
        store: Where they are recorded.
        name: The experiment, or the id of a parent run.
        records: Its runs.
    """
    ended = {one.run_key for one in records if one.status not in ("running", "killed")}
    planned: set[str] = set()
    for sweep in find_parents(store, name):
        with contextlib.suppress(GraftError):  # a plan that is gone asks for nothing
            planned.update(_plan(store, sweep))
    return len(planned - ended)


def _plan(store: Store, sweep: Run) -> list[str]:
    return [str(key) for key in read_json(store, sweep.info.run_id, "plan.json")["run_keys"]]


def read_json(store: Store, run_id: str, path: str) -> Any:
    """Return what a JSON artifact of a run holds.

    Raises:
        GraftError: When it is not there.
    """
    return json.loads(_read_text(store, run_id, path))


def _read_text(store: Store, run_id: str, path: str) -> str:
    """Return the text of an artifact."""
    from mlflow.exceptions import MlflowException

    place = store.client.get_run(run_id).info.artifact_uri
    with tempfile.TemporaryDirectory() as folder:
        try:
            if place.startswith("file://"):  # MLflow's own way takes ten times as long
                return (Path(unquote(urlsplit(place).path)) / path).read_text()
            return Path(store.client.download_artifacts(run_id, path, folder)).read_text()
        except (MlflowException, OSError) as error:
            raise GraftError(
                f"Expected the artifact {path!r} of the run {run_id!r} in {store.uri}, but it cannot be "
                f"read: {str(error).splitlines()[0]}"
            ) from error


def search(store: Store, experiments: list[str], wanted: str) -> Iterator[Run]:
    """Yield the runs of experiments, by id, that a filter wants; the newest first."""
    token: str | None = None
    while experiments:
        page = store.client.search_runs(experiments, wanted, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _latest_of_each(records: list[RunRecord]) -> list[RunRecord]:
    """Keep one run of each key: a finished one if there is any, else the newest, which MLflow gives first."""
    best: dict[str, RunRecord] = {}
    for record in records:
        known = best.get(record.run_key)
        if known is None or (record.status == "finished" and known.status != "finished"):
            best[record.run_key] = record
    return list(best.values())


def _record(run: Run, experiment: str) -> RunRecord:
    tags = {
        key.removeprefix("graft."): value
        for key, value in run.data.tags.items()
        if key.startswith("graft.") and (key, value) not in _SAYS_NOTHING
    }
    killed = "pruned" if tags.get("status") == "pruned" else "killed"
    status = {"FINISHED": "finished", "KILLED": killed, "FAILED": tags.get("status", "failed")}
    return RunRecord(
        run_id=run.info.run_id,
        run_key=tags["run_key"],
        status=status.get(run.info.status, "running"),
        arm=Arm.parse(tags["arm"]),
        trial=tags["trial"],
        condition=tags["condition"],
        labels=tags["labels"],
        # Runs from before there were folds have the seed alone.
        replicate=Replicate.parse(tags.get("replicate", f"seed={tags['seed']}")),
        data=tags["data"],
        experiment=experiment,
        metrics=dict(run.data.metrics),
        notes={key: value for key, value in tags.items() if key not in _OWN_FIELDS} | _read_commit(run),
        folds=int(tags["folds"]) if "folds" in tags else None,
    )


def _read_commit(run: Run) -> dict[str, str]:
    """Return the commit that a run was made by as a note, nothing outside of a repository."""
    commit = run.data.tags.get("mlflow.source.git.commit")
    return {"commit": commit} if commit else {}
