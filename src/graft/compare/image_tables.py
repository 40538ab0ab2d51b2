"""Test metrics of chosen trials by seed and test image, and what pairs of them differ in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from graft.compare.curves import read_test
from graft.compare.image_scores import score_images
from graft.compare.replicates import find_divisions, sample_values
from graft.compare.select import Choice
from graft.compare.two_way import Spread, spread_over_seeds, spread_two_way
from graft.plan.arms import Arm
from graft.plan.replicates import Replicate
from graft.track.archive import Archive

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

#: What a metric made again from predictions may differ by, relative to one, to be the one that was recorded.
_SAME = 1e-4

#: Leaves no test image out.
_ALL_IMAGES: Mapping[str, IntArray] = {}


@dataclass(frozen=True)
class Table:
    """The test metric of a choice by seed and test image.

    Attributes:
        values: One row per replicate, ascending, ``(S, N)``; the mean of a row is the metric.
        images: Position of each test image in the data set ``(N,)``.
        label: Class of each test image ``(N,)``.
        unit: How much a value changes when its image turns right ``(N,)``.
        by_class: Whether images are drawn anew inside their classes.
        copied: Whether any of its runs trained on a copy of the test image ``(N,)``; None where a run does
            not know.
    """

    values: FloatArray
    images: IntArray
    label: IntArray
    unit: FloatArray
    by_class: bool
    copied: BoolArray | None = None


@dataclass(frozen=True)
class Tables:
    """The tables of the choices of a condition, as far as there are any.

    Attributes:
        metric: Name of the metric, without a split.
        folds: Number of folds of the cross-validation, None without.
        found: The table of each arm at each label budget.
        missing: Why some choices have none, in words; nothing is missing where none can be used.
        class_sizes: Smallest and largest number of test images of a class, None where nobody counted.
    """

    metric: str
    folds: int | None
    found: Mapping[tuple[Arm, str], Table] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    class_sizes: tuple[int, int] | None = None

    def subtract(self, choice: Choice, other: Choice, replicates: Sequence[Replicate]) -> Spread:
        """Return the spread of the paired difference of two choices, ``choice`` minus ``other``.

        It is for new seeds and test images where the predictions of both are there, for new folds over
        several folds, and else for new seeds on these test images.

        Args:
            choice: A choice.
            other: Another one of the same label budget.
            replicates: Those to compare on, which both have.

        Raises:
            GraftError: When a chosen run has no test metric.
        """
        mine = sample_values(read_test(choice, self.metric, replicates), self.folds)
        theirs = sample_values(read_test(other, self.metric, replicates), self.folds)
        differences = np.asarray(mine.values) - np.asarray(theirs.values)
        one, two = (self.found.get((each.arm, each.labels)) for each in (choice, other))
        if one is None or two is None or mine.overlap or not np.array_equal(one.images, two.images):
            return spread_over_seeds(differences, mine.overlap)
        rows = [[sorted(each.runs).index(own) for own in sorted(replicates)] for each in (choice, other)]
        difference = one.values[rows[0]] - two.values[rows[1]]
        return spread_two_way(difference, one.label if one.by_class else None, one.unit)


def read_tables(
    choices: Sequence[Choice],
    metric: str,
    folds: int | None,
    archive: Archive | None,
    leave_out: Mapping[str, IntArray] = _ALL_IMAGES,
) -> Tables:
    """Read the predictions of chosen runs, and return the metric by seed and test image.

    Args:
        choices: Choices of one condition.
        metric: Name of the metric, without a split.
        folds: Number of folds of the cross-validation, None without.
        archive: Where the predictions are; None: nowhere.
        leave_out: Test images to leave out, by label budget; the metric is then no more the recorded one.
    """
    folded = folds is not None and any(len(find_divisions(choice.runs)) > 1 for choice in choices)
    if archive is None or folded:  # over several folds the test images are drawn anew already
        return Tables(metric, folds)
    found: dict[tuple[Arm, str], Table] = {}
    missing: list[str] = []
    for choice in choices:
        read = _read_table(choice, metric, archive, leave_out.get(choice.labels))
        if isinstance(read, Table):
            found[choice.arm, choice.labels] = read
        else:
            missing.append(read)
    sizes = [np.bincount(table.label) for table in list(found.values())[:1]]
    counted = [(int(one[one > 0].min()), int(one.max())) for one in sizes]
    return Tables(metric, folds, found, tuple(dict.fromkeys(missing)), counted[0] if counted else None)


def _read_table(
    choice: Choice, metric: str, archive: Archive, leave_out: IntArray | None = None
) -> Table | str:
    """Return the table of a choice, or why there is none."""
    rows, copied, first = [], [], None
    for replicate in sorted(choice.runs):
        record = choice.runs[replicate]
        saved = archive.test_scores(record.run_id)
        if saved is None:
            return "some runs have no predictions"
        if leave_out is not None:
            saved = saved.keep(~np.isin(saved.index, leave_out))
        if not len(saved.index):
            return "no test image is left"
        scored = score_images(metric, saved.label, saved.scores)
        if scored is None:
            return f"{metric.replace('_', ' ')} is no mean over images"
        first = first or (saved, scored)
        if not np.array_equal(saved.index, first[0].index):
            return "seeds differ in their test images"
        recorded = record.metrics.get(f"test/{metric}", math.nan)
        if leave_out is None and not abs(float(scored.values.mean()) - recorded) <= _SAME * max(
            1.0, abs(recorded)
        ):
            return f"the predictions of some runs do not give their {metric.replace('_', ' ')}"
        rows.append(scored.values)
        copied.append(saved.copied)
    if first is None:
        return "no run was chosen"
    saved, scored = first
    known = [one for one in copied if one is not None]
    seen = np.any(known, axis=0) if len(known) == len(rows) else None
    return Table(np.stack(rows), saved.index, saved.label, scored.unit, scored.by_class, seen)
