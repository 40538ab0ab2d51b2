"""Asynchronous successive halving: which trials of an arm go on, and which are cut early.

The first replicate of every trial decides. At a ninth and at a third of its training it is held against the
other trials of its arm, label budget and experiment that have come as far in the race; unless it is among
the best third of them, it is cut there, and the trial's other replicates are not started. Nobody waits for
anybody, so which trials are cut depends on the order in which they come; the best one that has come is never
cut.

Source: Li et al. 2020, A System for Massively Parallel Hyperparameter Tuning; the stopping variant.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from graft.config.names import METRICS
from graft.errors import PrunedError
from graft.plan.spec import RunSpec

#: One in so many trials goes on.
REDUCTION = 3

#: Where trials are held against each other, as shares of the training.
RUNGS = (1 / 9, 1 / 3)


@dataclass(frozen=True)
class Halving:
    """The race that one run takes part in; it lives in a folder that all workers see.

    Attributes:
        folder: Where the race is.
        trial: Name of the run's trial in it.
        leads: Whether this run decides for its trial.
        higher_is_better: Of the validation metric.
        run: Key of the run.
    """

    folder: Path
    trial: str
    leads: bool
    higher_is_better: bool
    run: str = ""

    def find_cut(self, is_finished: Callable[[str], bool] = lambda run: False) -> str:
        """Return why the trial was cut, empty where it was not, or where the cut run is finished by now.

        Args:
            is_finished: Whether the run of a key was trained to its end since, without pruning.
        """
        file = self._cut_file()
        if not file.exists():
            return ""
        reason, _, run = file.read_text().partition("\n")
        return "" if run and is_finished(run) else reason

    def judge(self, value: float, before: float, now: float) -> None:
        """Hold a validation against those of the other trials, where it is the first behind a rung.

        Args:
            value: The validation metric.
            before: Share of the training done at the validation before.
            now: Share of the training done at this one.

        Raises:
            PrunedError: The trial is cut.
        """
        if not self.leads:
            return
        for number, rung in enumerate(RUNGS):
            if before < rung <= now < 1:
                self._enter(number, value)

    def _enter(self, rung: int, value: float) -> None:
        place = self.folder / f"rung{rung}"
        place.mkdir(parents=True, exist_ok=True)
        _write(place / self.trial, json.dumps(value))
        values = [json.loads(file.read_text()) for file in place.iterdir() if file.suffix != ".part"]
        if goes_on(value, values, self.higher_is_better):
            return
        better = sum((other > value) == self.higher_is_better and other != value for other in values)
        reason = (
            f"pruned at {RUNGS[rung]:.0%} of the training: {better} of {len(values) - 1} other trials of its "
            "arm were better there"
        )
        _write(self._cut_file(), f"{reason}\n{self.run}")
        raise PrunedError(reason)

    def _cut_file(self) -> Path:
        return self.folder / "cut" / self.trial


def goes_on(value: float, values: Sequence[float], higher_is_better: bool) -> bool:
    """Whether a value is among the best third of those at a rung; the best one always is.

    >>> goes_on(0.5, [0.5], True), goes_on(0.5, [0.5, 0.6], True), goes_on(0.5, [0.5, 0.6, 0.1, 0.2], True)
    (True, False, True)
    """
    if math.isnan(value):
        return False
    better = sum((other > value) if higher_is_better else (other < value) for other in values)
    return better < math.ceil(len(values) / REDUCTION)


def plan_halving(specs: Sequence[RunSpec], root: Path) -> dict[str, Halving]:
    """Return the race of each run, by its key; the same rule for every arm, the from-scratch twin included.

    The condition names the validation metric, so runs that choose by another one race apart.

    Args:
        specs: All runs of a sweep, finished ones too.
        root: ``paths.root``.
    """
    first = min((spec.replicate for spec in specs), default=None)
    races = {}
    for spec in specs:
        same = json.dumps([spec.config.tracking.experiment, spec.condition, spec.labels, spec.arm.text])
        folder = root / "halving" / hashlib.sha256(same.encode()).hexdigest()[:20]
        trial = hashlib.sha256(spec.trial.encode()).hexdigest()[:20]
        better = METRICS[spec.config.metric].higher_is_better
        races[spec.key] = Halving(folder, trial, spec.replicate == first, better, spec.key)
    return races


def _write(file: Path, text: str) -> None:
    """Write so that a reader never sees a part."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f"{file.name}.{os.getpid()}.part")
    beside.write_text(text)
    beside.replace(file)
