"""What finished runs left beside their final numbers: predictions of test images, and metrics over steps."""

from __future__ import annotations

import sqlite3
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt

from graft.track.database import look_into
from graft.track.store import Store, find_database


@dataclass(frozen=True)
class SavedScores:
    """What a run said of each test image.

    Attributes:
        index: Position in the data set, ascending, ``(N,)``.
        label: True classes ``(N,)``.
        scores: Class scores ``(N, classes)``.
        copied: Whether the run trained on a copy or near copy of it ``(N,)``; None where nobody looked.
    """

    index: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    copied: npt.NDArray[np.bool_] | None = None

    def keep(self, wanted: npt.NDArray[np.bool_]) -> SavedScores:
        """Return some of the images ``(N,)``."""
        copied = None if self.copied is None else self.copied[wanted]
        return SavedScores(self.index[wanted], self.label[wanted], self.scores[wanted], copied)


@dataclass(frozen=True)
class Archive:
    """The artifacts and histories of a store, read one run at a time."""

    store: Store

    def test_scores(self, run_id: str) -> SavedScores | None:
        """Return what a run said of the test images, None when its record does not say."""
        from mlflow.exceptions import MlflowException

        try:
            with self._open(run_id, "predictions.npz") as path, np.load(path) as stored:
                index, label, scores = (np.asarray(stored[name]) for name in ("index", "label", "scores"))
                copied = np.asarray(stored["copied"], dtype=np.bool_) if "copied" in stored else None
        except (MlflowException, OSError, KeyError, ValueError, zipfile.BadZipFile):
            return None
        if scores.ndim != 2 or not len(index) == len(label) == len(scores) or not np.isfinite(scores).all():
            return None
        if copied is not None and copied.shape != index.shape:
            return None
        return SavedScores(index.astype(np.int64), label.astype(np.int64), scores.astype(np.float64), copied)

    def history(self, run_id: str, key: str) -> list[tuple[int, float]]:
        """Return a metric over optimizer steps, ascending; none if it is not there.

        The first value of a step is what was measured then: at its last step a run says once more what its
        chosen weights have.
        """
        points = self.store.client.get_metric_history(run_id, key)
        found: dict[int, float] = {}
        for one in sorted(points, key=lambda point: int(point.timestamp)):
            found.setdefault(int(one.step), float(one.value))
        return sorted(found.items())

    @cached_property
    def _places(self) -> dict[str, str]:
        """Where the artifacts of each run lie; MLflow takes a hundred times as long to say so run by run."""
        file = find_database(self.store.uri)
        with suppress(sqlite3.Error):  # a future MLflow may keep them elsewhere
            return {seen.run_id: seen.artifacts for seen in look_into(file)} if file else {}
        return {}

    @contextmanager
    def _open(self, run_id: str, name: str) -> Iterator[Path]:
        """Yield a local path of an artifact."""
        place = self._places.get(run_id) or str(self.store.client.get_run(run_id).info.artifact_uri)
        if place.startswith("file://"):  # MLflow's own way takes ten times as long
            yield Path(unquote(urlsplit(place).path)) / name
            return
        with TemporaryDirectory() as folder:
            yield Path(self.store.client.download_artifacts(run_id, name, folder))
