"""The comparison as a value: what the report says, before it is written anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graft.compare.cost import Cost
from graft.compare.curves import Axis, Curve
from graft.compare.gaps import Gap, LeftOut
from graft.compare.importance import Importance
from graft.compare.multiplier import Multiplier
from graft.compare.select import TRANSFER_METHODS as TRANSFER_METHODS
from graft.compare.select import SelectionName
from graft.compare.statistics import MARGIN, Coverage, Difference, Estimate, Verdict
from graft.compare.tuning import TuningCurve
from graft.plan.arms import Arm
from graft.plan.replicates import Replicate
from graft.track.record import RunRecord

#: Notes of runs whose test metrics a comparison has read; what one chose, it read.
LOOKED = frozenset({"chosen", "test_read"})


@dataclass(frozen=True)
class Row:
    """One arm at one label budget.

    Attributes:
        arm: What is compared.
        name: Its short name.
        trial: The trial that validation chose.
        tuned: The values of the trial that not all trials share.
        trials: Number of trials it was chosen from.
        replicates: The replicates compared.
        validation: Mean validation metric.
        test: Mean test metric with its interval over seeds or folds.
        test_accuracy: Mean test accuracy, whatever the metric; NaN when the runs did not log it.
        feature_knn: Mean test accuracy of nearest neighbours on its frozen features, NaN if not measured.
        to_twin: Paired difference to the from-scratch twin, None without one.
        p_adjusted: Its p-value after Holm's correction over the family, NaN without a twin.
        verdict: What the difference establishes, None without a twin.
        train_seconds: Mean seconds of training.
        headline: Whether validation chose it among the transfer arms of the budget.
        to_twin_seeds: The same difference with the interval for new seeds on this test set alone.
        covers: What the interval of `to_twin` is for: new seeds and images, new seeds alone, or folds.
        level: Coverage of both intervals, as high as Holm's correction tested the difference at.
        settles: What would settle a difference that is not established, empty elsewhere.
        multiplier: How many times the labels from scratch needs to be as good, None without a twin's curve.
        cost: What the arm costs at this budget.
    """

    arm: Arm
    name: str
    trial: str
    tuned: str
    trials: int
    replicates: tuple[Replicate, ...]
    validation: float
    test: Estimate
    test_accuracy: float
    feature_knn: float
    to_twin: Difference | None
    p_adjusted: float
    verdict: Verdict | None
    train_seconds: float
    headline: bool
    to_twin_seeds: Difference | None = None
    covers: Coverage = "seeds"
    level: float = 0.95
    settles: str = ""
    multiplier: Multiplier | None = None
    cost: Cost | None = None


@dataclass(frozen=True)
class Contrast:
    """The headline arm against another transfer arm of the same budget.

    Attributes:
        other: The other arm.
        difference: Paired difference, headline minus other.
        established: Whether it is one after Holm's correction over all contrasts of the report.
    """

    other: Arm
    difference: Difference
    established: bool


@dataclass(frozen=True)
class Budget:
    """All arms at one label budget.

    Attributes:
        labels: Label budget.
        labels_train: Labelled training images used, NaN when the runs did not count them.
        labels_val: Labelled validation images used, NaN when the runs did not count them.
        pixel_1nn: Test accuracy of 1-nearest-neighbour on raw pixels with these labels, NaN if not measured.
        majority: Test accuracy of always saying the largest training class, NaN if not measured.
        rows: The arms, the best on test first.
        contrasts: The headline arm against the other transfer arms.
        sentence: The verdict in words.
    """

    labels: str
    labels_train: float
    labels_val: float
    pixel_1nn: float
    majority: float
    rows: tuple[Row, ...]
    contrasts: tuple[Contrast, ...]
    sentence: str = ""


@dataclass(frozen=True)
class WithoutCopies:
    """What an arm reached on the test images of which training held no copy.

    Attributes:
        arm: The arm.
        test: Its mean test metric.
        without: The same without the copies; NaN where too few images are left.
        verdict: What its difference to the twin establishes, None without a twin.
        verdict_without: The same without the copies.
    """

    arm: Arm
    test: float
    without: float
    verdict: Verdict | None
    verdict_without: Verdict | None


@dataclass(frozen=True)
class CopiedBudget:
    """A label budget at which training held copies, or near copies, of test images.

    Attributes:
        labels: Label budget.
        copied: Number of test images that a run of the budget trained on a copy of.
        images: Number of test images.
        arms: Each arm with and without them.
    """

    labels: str
    copied: int
    images: int
    arms: tuple[WithoutCopies, ...]


@dataclass(frozen=True)
class Section:
    """One condition: runs that share data, splits and training budget.

    Attributes:
        condition: Hash of the condition.
        data: Name of the data set.
        names: Short name of each arm, the arms in the order of tables and legends.
        axis: Where the label budgets stand in figures.
        folds: Number of folds of the cross-validation, None without.
        shared: The tuning values that all trials share.
        family: Number of comparisons that Holm's correction covers: those of the whole report.
        budgets: The label budgets, ascending.
        curves: Each arm over the label budgets.
        gaps: Runs that are not there or not finished.
        left_out: The arms that are not compared, by label budget.
        chosen: Ids of the runs of all chosen trials.
        importance: What the validation metric of the transfer arms varies with, by label budget.
        tuning_curves: Expected best validation metric among the first trials of each arm.
        without_images: Why some intervals are not for new test images, nothing where all are.
        class_sizes: Smallest and largest number of test images of a class, None where nobody counted.
        rising: Label budget, by how much the validation metric of from scratch still rose at its end, and in
            what share of the training.
        copies: The label budgets at which training held copies of test images, as far as the runs know.
    """

    condition: str
    data: str
    names: Mapping[Arm, str]
    axis: Axis
    folds: int | None
    shared: str
    family: int
    budgets: tuple[Budget, ...]
    curves: tuple[Curve, ...]
    gaps: tuple[Gap, ...]
    left_out: tuple[LeftOut, ...]
    chosen: tuple[str, ...]
    importance: tuple[Importance, ...] = ()
    tuning_curves: tuple[TuningCurve, ...] = ()
    without_images: tuple[str, ...] = ()
    class_sizes: tuple[int, int] | None = None
    rising: tuple[tuple[str, float, float], ...] = ()
    copies: tuple[CopiedBudget, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """What the report of an experiment says.

    Attributes:
        experiment: Name of the experiment.
        question: The question it asks, empty when nobody wrote it down.
        metric: Name of the metric, without a split.
        sections: One per condition, the largest first.
        doubts: Reasons to doubt the verdict, each with what to do about it.
        notes: What a reader has to know.
        records: All runs.
        selection: What chose the trials: ``validation``, or ``oracle`` (test itself, which flatters).
        margin: Difference to the twin that counts as none, in the unit of the metric.
    """

    experiment: str
    question: str
    metric: str
    sections: tuple[Section, ...]
    doubts: tuple[str, ...]
    notes: tuple[str, ...]
    records: tuple[RunRecord, ...] = field(repr=False)
    selection: SelectionName = "validation"
    margin: float = MARGIN

    @property
    def chosen(self) -> tuple[str, ...]:
        """Ids of the runs of all chosen trials."""
        return tuple(run_id for section in self.sections for run_id in section.chosen)

    @property
    def newly_read(self) -> frozenset[str]:
        """Ids of the runs whose test metrics are read here for the first time; an oracle reads all."""
        chosen = frozenset(self.chosen)
        return frozenset(
            record.run_id
            for record in self.records
            if LOOKED.isdisjoint(record.notes)
            and (record.run_id in chosen or (self.selection == "oracle" and record.status == "finished"))
        )

    @property
    def test_looks(self) -> int:
        """Number of runs whose test metrics were read, here or in an earlier comparison."""
        return len(self.newly_read) + sum(not LOOKED.isdisjoint(record.notes) for record in self.records)
