"""The parent runs of sweeps: what was asked for, and the verdict that they carry afterwards."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from graft.track.away import needing_answers
from graft.track.reader import find_parents
from graft.track.store import Store
from graft.track.views import link_view, save_views

#: Where MLflow shows a description.
_DESCRIPTION = "mlflow.note.content"

#: The longest tag that MLflow takes.
_LONGEST = 8000

#: Ends a description that had to be cut.
_MORE = "\n\nMore in the report, among the artifacts: `report/index.html`.\n"

#: The most metrics that MLflow takes at once.
_MOST_METRICS = 1000

#: Folder of the artifacts that hold the report.
REPORT_FOLDER = "report"

#: What the keys of gains begin with.
GAIN = "gain/"


@dataclass(frozen=True)
class Parent:
    """The parent run of a sweep.

    Attributes:
        run_id: MLflow's id.
        experiment_id: MLflow's id of its experiment.
        command: The command that started it, empty when nobody recorded it.
    """

    run_id: str
    experiment_id: str
    command: str


def read_parents(store: Store, name: str) -> list[Parent]:
    """Return the parent runs of an experiment, or the one of that id; the newest first.

    Raises:
        GraftError: When there is no such experiment.
    """
    runs = find_parents(store, name)
    return [
        Parent(run.info.run_id, str(run.info.experiment_id), run.data.tags.get("graft.command", ""))
        for run in runs
    ]


def publish_report(
    store: Store,
    parents: Sequence[Parent],
    description: str,
    numbers: Mapping[str, float],
    folder: Path,
    budgets: Sequence[str],
    metric: str,
) -> None:
    """Put a verdict on parent runs: as their description, as metrics, and the report as artifacts.

    The description begins with a link to the chosen runs of each label budget. A gain that an earlier verdict
    said and this one does not becomes NaN: MLflow deletes no metric, and an old number would mislead.

    Args:
        store: Where to write.
        parents: The parent runs.
        description: The verdict in Markdown; what is too long for MLflow is cut at the end of a line.
        numbers: Gains by metric key; what is no finite number is left out.
        folder: Folder of the report.
        budgets: The label budgets, as runs carry them.
        metric: The selection metric.

    Raises:
        StoreAwayError: When the store does not answer.
    """
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    said = {key: value for key, value in numbers.items() if math.isfinite(value)}
    with needing_answers(store.uri):
        for experiment_id in sorted({parent.experiment_id for parent in parents}):
            save_views(store, experiment_id, budgets, metric)
        for parent in parents:
            links = [f"[{labels}]({link_view(parent.experiment_id, labels)})" for labels in budgets]
            opening = f"The chosen runs, side by side, by labels: {', '.join(links)}\n\n"
            store.client.set_tag(parent.run_id, _DESCRIPTION, _cut(opening + description))
            own = _find_unsaid(store, parent, said) | said
            metrics = [Metric(key, value, now, 0) for key, value in own.items()]
            for start in range(0, len(metrics), _MOST_METRICS):
                store.client.log_batch(parent.run_id, metrics=metrics[start : start + _MOST_METRICS])
            store.client.log_artifacts(parent.run_id, str(folder), REPORT_FOLDER)


def _find_unsaid(store: Store, parent: Parent, said: Mapping[str, float]) -> dict[str, float]:
    """Return NaN for each gain that a parent run has a number for, and that is not said any more."""
    known = store.client.get_run(parent.run_id).data.metrics
    return {
        key: math.nan
        for key, value in known.items()
        if key.startswith(GAIN) and key not in said and not math.isnan(value)
    }


def _cut(text: str) -> str:
    """Return text as long as MLflow takes it, of whole lines, and say where more is."""
    if len(text) <= _LONGEST:
        return text
    kept = text[: _LONGEST - len(_MORE)]
    return (kept.rpartition("\n")[0] or kept) + _MORE


def link_parent(parent: Parent) -> str:
    """Return where the dashboard shows a parent run, among the pages for training models."""
    return f"#/experiments/{parent.experiment_id}/runs/{parent.run_id}?workflowType=machine_learning"
