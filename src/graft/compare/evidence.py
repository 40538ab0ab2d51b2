"""What a report shows beyond the numbers of its runs: histories and predictions."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from graft.compare.comparison import Comparison, Section
from graft.plan.arms import Arm
from graft.track.archive import Archive
from graft.track.reader import read_class_names
from graft.track.record import RunRecord


@dataclass(frozen=True)
class Predictions:
    """What runs of one arm said of test images, one run after the other.

    Attributes:
        label: True classes, shape ``(images,)``.
        probabilities: Class probabilities, shape ``(images, classes)``.
    """

    label: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """The likeliest class of each image, shape ``(images,)``."""
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)

    def count(self) -> npt.NDArray[np.int64]:
        """Return images by true and predicted class, shape ``(classes, classes)``."""
        classes = self.probabilities.shape[1]
        flat = np.bincount(self.label * classes + self.predicted, minlength=classes * classes)
        return flat.reshape(classes, classes)


@dataclass(frozen=True)
class Portrait:
    """The winner of a condition and its twin, image by image.

    Attributes:
        labels: The label budget, the largest one.
        winner: Name of the arm that validation chose.
        twin: Name of its twin, empty without one.
        class_names: Names of the classes, shape ``(classes,)``.
        of_winner: What the winner said, over all its replicates.
        of_twin: What its twin said, None without one.
    """

    labels: str
    winner: str
    twin: str
    class_names: tuple[str, ...]
    of_winner: Predictions
    of_twin: Predictions | None


@dataclass(frozen=True)
class Sheet:
    """A sheet of pictures: the surest errors of the winner.

    Attributes:
        name: Name of its file, without its ending.
        caption: What it shows.
        captions: What stands under each picture.
        png: The picture.
    """

    name: str
    caption: str
    captions: tuple[str, ...]
    png: bytes = field(repr=False)


@dataclass(frozen=True)
class Evidence:
    """Everything of the store that a report shows and no run's last numbers hold.

    Attributes:
        histories: Validation metric of chosen runs by run id, as pairs of optimizer step and value.
        portraits: Winner and twin by condition.
        sheets: Worst errors by condition.
        commands: The commands that started the sweeps compared, the newest first.
    """

    histories: Mapping[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    portraits: Mapping[str, Portrait] = field(default_factory=dict)
    sheets: Mapping[str, Sheet] = field(default_factory=dict)
    commands: tuple[str, ...] = ()


def gather_evidence(comparison: Comparison, archive: Archive) -> Evidence:
    """Read histories of the chosen runs, and what winner and twin of each condition said.

    What a store does not hold any more is left out.
    """
    key = f"val/{comparison.metric}"
    histories = {run_id: tuple(archive.history(run_id, key)) for run_id in comparison.chosen}
    found = {section.condition: _portray(section, comparison, archive) for section in comparison.sections}
    portraits = {condition: portrait for condition, portrait in found.items() if portrait is not None}
    return Evidence(histories, portraits)


def _portray(section: Section, comparison: Comparison, archive: Archive) -> Portrait | None:
    """Return winner and twin at the largest label budget, None where the winner's predictions are gone."""
    budget = section.budgets[-1]
    winner = next((row for row in budget.rows if row.headline), None)
    if winner is None:
        return None
    runs = find_runs(section, comparison, winner.arm, budget.labels)
    of_winner = _read_predictions(archive, runs)
    names = read_class_names(archive.store, runs[0].run_id)
    if of_winner is None or of_winner.probabilities.shape[1] != len(names):
        return None
    twin = next((row for row in budget.rows if row.arm == winner.arm.twin), None)
    of_twin = None
    if twin is not None:
        of_twin = _read_predictions(archive, find_runs(section, comparison, twin.arm, budget.labels))
    name = twin.name if twin is not None and of_twin is not None else ""
    return Portrait(budget.labels, winner.name, name, names, of_winner, of_twin)


def find_runs(section: Section, comparison: Comparison, arm: Arm, labels: str) -> list[RunRecord]:
    """Return the runs of the chosen trial of an arm at a label budget."""
    by_id = {record.run_id: record for record in comparison.records}
    chosen = [by_id[run_id] for run_id in section.chosen]
    return [record for record in chosen if (record.arm, record.labels) == (arm, labels)]


def find_winner(section: Section, comparison: Comparison) -> RunRecord | None:
    """Return the first run of the arm that validation chose at the largest label budget, None without one."""
    budget = section.budgets[-1]
    headline = next((row for row in budget.rows if row.headline), None)
    return find_runs(section, comparison, headline.arm, budget.labels)[0] if headline else None


def format_sheet(sheet: Sheet) -> str:
    """Return what stands under the pictures of a sheet as CSV."""
    table = io.StringIO(newline="")
    csv.writer(table, lineterminator="\n").writerows([["caption"], *([one] for one in sheet.captions)])
    return table.getvalue()


def read_sheet(folder: Path, name: str, caption: str) -> Sheet | None:
    """Return the sheet of an earlier report, None where it has no such one.

    Args:
        folder: Folder of the report.
        name: Name of its files, without their ending.
        caption: What it shows.
    """
    picture, table = (folder / "figures" / f"{name}.{kind}" for kind in ("png", "csv"))
    if not (picture.is_file() and table.is_file()):
        return None
    with table.open(newline="", encoding="utf-8") as file:
        captions = tuple(row[0] for row in csv.reader(file) if row)[1:]
    return Sheet(name, caption, captions, picture.read_bytes())


def _read_predictions(archive: Archive, runs: Sequence[RunRecord]) -> Predictions | None:
    """Return the predictions of all runs, one after the other; None when one of them has none."""
    labels, probabilities = [], []
    for run in runs:
        saved = archive.test_scores(run.run_id)
        if saved is None:
            return None
        labels.append(saved.label)
        probabilities.append(softmax(saved.scores, axis=1))
    return Predictions(np.concatenate(labels), np.concatenate(probabilities))
