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

#: Where MLflow shows a description.
_DESCRIPTION = "mlflow.note.content"

#: The longest tag that MLflow takes.
_LONGEST = 8000

#: Folder of the artifacts that hold the report.
REPORT_FOLDER = "report"


@dataclass(frozen=True)
class Parent:
    """The parent run of a sweep.

    Attributes:
        run_id: MLflow's id.
        command: The command that started it, empty when nobody recorded it.
    """

    run_id: str
    command: str


def read_parents(store: Store, name: str) -> list[Parent]:
    """Return the parent runs of an experiment, or the one of that id; the newest first.

    Raises:
        GraftError: When there is no such experiment.
    """
    runs = find_parents(store, name)
    return [Parent(run.info.run_id, run.data.tags.get("graft.command", "")) for run in runs]


def publish_report(
    store: Store, run_ids: Sequence[str], description: str, numbers: Mapping[str, float], folder: Path
) -> None:
    """Put a verdict on parent runs: as their description, as metrics, and the report as artifacts.

    Args:
        store: Where to write.
        run_ids: The parent runs.
        description: The verdict in Markdown.
        numbers: Gains by metric key; what is no finite number is left out.
        folder: Folder of the report.

    Raises:
        StoreAwayError: When the store does not answer.
    """
    from mlflow.entities import Metric, RunTag

    now = int(time.time() * 1000)
    metrics = [Metric(key, value, now, 0) for key, value in numbers.items() if math.isfinite(value)]
    with needing_answers(store.uri):
        for run_id in run_ids:
            tags = [RunTag(_DESCRIPTION, description[:_LONGEST])]
            store.client.log_batch(run_id, metrics=metrics, tags=tags)
            store.client.log_artifacts(run_id, str(folder), REPORT_FOLDER)
