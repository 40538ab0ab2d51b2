"""Runs that a complete comparison would have, and has not, and the arms that are not compared for it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from graft.plan.arms import Arm
from graft.plan.replicates import Replicate
from graft.track.record import RunRecord

#: A tracking store keeps infinity as the largest float: beyond this a number is none.
LARGEST_NUMBER = 1e300


@dataclass(frozen=True)
class Gap:
    """A run that a complete comparison would have, and has not.

    Attributes:
        arm: Its arm.
        labels: Its label budget.
        trial: Its trial.
        replicate: Its seed, and fold where there are folds.
        status: One of the statuses of a run, or ``missing`` when nobody ran it.
        reason: Why it failed, as far as recorded.
    """

    arm: Arm
    labels: str
    trial: str
    replicate: Replicate
    status: str
    reason: str = ""


@dataclass(frozen=True)
class LeftOut:
    """An arm that is not compared at a label budget.

    Attributes:
        arm: The arm.
        labels: Label budget.
        finished: Its replicates that could be compared, ascending.
        compared: Those on which the others are compared, ascending.
    """

    arm: Arm
    labels: str
    finished: tuple[Replicate, ...]
    compared: tuple[Replicate, ...]


def is_usable(record: RunRecord, metric: str) -> bool:
    """Return whether a run finished with a validation metric that is a number."""
    value = record.metrics.get(f"val/{metric}", math.nan)
    return record.status == "finished" and math.isfinite(value) and abs(value) < LARGEST_NUMBER


def list_gaps(
    trials: Mapping[Arm, Mapping[str, Mapping[Replicate, RunRecord]]], labels: str, metric: str
) -> list[Gap]:
    """List what a complete grid of trials and replicates would have, and what did not finish.

    The grid's replicates are those that half of the trials have: a quick look with another seed asks for
    nothing.
    """
    begun = Counter(one for runs in trials.values() for tried in runs.values() for one in tried)
    most = sum(len(runs) for runs in trials.values())
    grid = {one for one, count in begun.items() if 2 * count >= most}
    gaps = []
    for arm, runs in trials.items():
        for trial, by_replicate in sorted(runs.items()):
            for replicate in sorted(grid | set(by_replicate)):
                record = by_replicate.get(replicate)
                if record is None:
                    gaps.append(Gap(arm, labels, trial, replicate, "missing"))
                elif not is_usable(record, metric):
                    reason = record.notes.get("reason", "")
                    gaps.append(Gap(arm, labels, trial, replicate, name_status(record, metric), reason))
    return gaps


def name_status(record: RunRecord, metric: str) -> str:
    """Return the status; a finished run whose metric is no number has diverged, one without it is missing."""
    if record.status != "finished" or is_usable(record, metric):
        return record.status
    return "diverged" if f"val/{metric}" in record.metrics else "missing"
