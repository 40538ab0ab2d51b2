"""Which trial speaks for an arm: validation chooses, and test is not read here."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from graft.compare.gaps import Gap, LeftOut, is_usable, list_gaps, name_status
from graft.compare.replicates import choose_replicates
from graft.config.names import METRICS
from graft.errors import GraftError, expected_one_of
from graft.plan.arms import Arm
from graft.plan.replicates import Replicate
from graft.track.record import RunRecord

#: Methods that use pretrained weights; random features are a control, which no family counts.
TRANSFER_METHODS = ("linear_probe", "fine_tune")

#: What chooses a trial; an oracle looks at test, which flatters every arm with more trials.
SelectionName = Literal["validation", "oracle"]

Cell = tuple[str, Arm, str, Replicate]


@dataclass(frozen=True)
class Choice:
    """The trial that speaks for an arm at a label budget.

    Attributes:
        arm: What is compared.
        labels: Label budget.
        trial: The chosen trial.
        runs: Its finished runs by replicate, ascending: those that all arms compared at the budget have.
        validation: Mean validation metric over these replicates.
        trials: All trials that were tried, finished or not.
        tried: All runs of each of them, of any status.
    """

    arm: Arm
    labels: str
    trial: str
    runs: Mapping[Replicate, RunRecord]
    validation: float
    trials: tuple[str, ...]
    tried: Mapping[str, Mapping[Replicate, RunRecord]] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Pair:
    """A choice, the choice that answers it, and the replicates that both have."""

    choice: Choice
    twin: Choice
    replicates: tuple[Replicate, ...]


@dataclass(frozen=True)
class Selection:
    """The chosen trials of one condition, ordered by label budget, and what it lacks.

    Attributes:
        condition: Hash of data, splits and training budget.
        data: Name of the data set.
        choices: The chosen trials.
        gaps: Runs that are not there or not finished.
        left_out: The arms that are not compared, by label budget.
        folds: Number of folds of the cross-validation, None without.
    """

    condition: str
    data: str
    choices: tuple[Choice, ...]
    gaps: tuple[Gap, ...]
    left_out: tuple[LeftOut, ...]
    folds: int | None = None


def order_labels(labels: Iterable[str]) -> list[str]:
    """Sort label budgets by size, each once: images per class, shares of the labels, ``replayed``, ``all``.

    >>> order_labels(["10", "all", "2", "30%", "2", "5%", "replayed"])
    ['2', '10', '5%', '30%', 'replayed', 'all']
    """

    def place(text: str) -> tuple[int, float, str]:
        if text.isdigit():
            return (0, float(text), text)
        return (1, float(text[:-1]), text) if text.endswith("%") else (2 + (text == "all"), 0.0, text)

    return sorted(set(labels), key=place)


def select_trials(
    records: Sequence[RunRecord], metric: str, selection: SelectionName = "validation"
) -> list[Selection]:
    """Choose one trial per condition, arm and label budget by its mean validation metric over replicates.

    At a label budget all arms are compared on the same replicates, and those that lack one are left out.
    Trials that tie go to the simpler one (fewer knobs in effect), then to the one that trained faster. None
    with a diverged run is chosen.

    Args:
        records: Runs of any status, in any order.
        metric: Name of the metric, without a split.
        selection: What chooses; an oracle takes the test metric, and is for showing what that flatters.

    Returns:
        One selection per condition, the one with most finished runs first.

    Raises:
        GraftError: When the metric is unknown, no run can be compared, or two finished runs claim one place.
    """
    if metric not in METRICS:
        raise GraftError(expected_one_of("metric", metric, METRICS))
    cells = _index_cells(records)
    _expect_comparable(records, metric)
    split = "test" if selection == "oracle" else "val"
    selections = [_select_condition(list(found.values()), metric, split) for found in cells.values()]
    if not any(one.choices for one in selections):
        raise GraftError(_explain_diverged(records, metric))
    sizes = Counter(record.condition for record in records if is_usable(record, metric))
    return sorted(selections, key=lambda one: (not one.choices, -sizes[one.condition], one.condition))


def pair(choices: Iterable[Choice]) -> list[Pair]:
    """Pair each choice with its from-scratch twin at the same label budget, on the replicates that both have.

    Args:
        choices: Choices of one condition.

    Returns:
        One pair per choice that has a twin among the choices, in their order.
    """
    found = {(choice.arm, choice.labels): choice for choice in choices}
    pairs = []
    for choice in found.values():
        twin = found.get((choice.arm.twin, choice.labels))
        if twin is None or choice.arm.method not in TRANSFER_METHODS:
            continue
        both = tuple(sorted(set(choice.runs) & set(twin.runs)))
        if both:
            pairs.append(Pair(choice, twin, both))
    return pairs


def _index_cells(records: Iterable[RunRecord]) -> dict[str, dict[Cell, RunRecord]]:
    """Return by condition the one run of each place: a finished one first, then of the newest results."""
    cells: dict[str, dict[Cell, RunRecord]] = defaultdict(dict)
    for record in sorted(records, key=lambda one: one.run_id):
        place = (record.labels, record.arm, record.trial, record.replicate)
        known = cells[record.condition].get(place)
        if known is None or _rank(record) > _rank(known):
            cells[record.condition][place] = record
        elif known.status == "finished" and _rank(known) == _rank(record) and known.run_key != record.run_key:
            where = f"{record.arm.label}, labels {record.labels}, {record.replicate.label}"
            raise GraftError(
                f"Expected one finished run per arm, trial, labels and replicate ({where}), but got two that"
                f" differ in something else: {known.run_id} and {record.run_id}."
                " Compare one sweep at a time: `graft compare <parent run>`."
            )
    return cells


def read_result_version(record: RunRecord) -> int:
    """Return the version of the results that a run has; those from before it was noted have 1."""
    return int(record.notes.get("result_version", "1"))


def _rank(record: RunRecord) -> tuple[bool, int]:
    return record.status == "finished", read_result_version(record)


def _expect_comparable(records: Sequence[RunRecord], metric: str) -> None:
    if any(is_usable(record, metric) for record in records):
        return
    finished = [record for record in records if record.status == "finished"]
    if finished:
        logged = {
            key.partition("/")[2] for record in finished for key in record.metrics if key.startswith("val/")
        }
        if metric not in logged:
            raise GraftError(expected_one_of("metric", metric, logged & set(METRICS)))
        raise GraftError(
            f"Expected a finished run with a number for `val/{metric}`, but got NaN or infinity in all"
            f" {len(finished)}. A smaller `optim.lr` or `optim.gradient_clip=1` may help."
        )
    counts = Counter(record.status for record in records)
    came = ", ".join(f"{count} {status}" for status, count in counts.most_common()) or "none at all"
    raise GraftError(
        f"Expected at least one finished run to compare, but got {came}."
        " Run the sweep first: `graft train experiment=<name>`; asking again does only what is missing."
    )


def _explain_diverged(records: Sequence[RunRecord], metric: str) -> str:
    """Say why there are finished runs, and yet no trial to choose."""
    diverged = sum(name_status(record, metric) == "diverged" for record in records)
    finished = sum(is_usable(record, metric) for record in records)
    return (
        f"Expected a trial without a diverged run, but got none: {finished} finished, of trials that"
        f" diverged under another seed ({diverged} diverged). A trial counts only if it trains under"
        " every seed. A smaller `optim.lr` or `optim.gradient_clip=1` may help: add it to the sweep."
    )


def _select_condition(records: Sequence[RunRecord], metric: str, split: str) -> Selection:
    choices: list[Choice] = []
    gaps: list[Gap] = []
    left_out: list[LeftOut] = []
    for labels in order_labels(record.labels for record in records):
        trials: dict[Arm, dict[str, dict[Replicate, RunRecord]]] = defaultdict(lambda: defaultdict(dict))
        for record in records:
            if record.labels == labels:
                trials[record.arm][record.trial][record.replicate] = record
        ordered = {arm: trials[arm] for arm in sorted(trials, key=order_arm)}
        own, common = _common_replicates(ordered, metric)
        for arm, runs in ordered.items():
            if common and common <= own[arm]:
                choices.append(_choose(arm, labels, runs, common, metric, split))
            else:
                left_out.append(LeftOut(arm, labels, tuple(sorted(own[arm])), tuple(sorted(common))))
        gaps += list_gaps(ordered, labels, metric)
    first = records[0]
    return Selection(first.condition, first.data, tuple(choices), tuple(gaps), tuple(left_out), first.folds)


def order_arm(arm: Arm) -> tuple[object, ...]:
    """Sort key of arms: by backbone, from scratch first, then by freeze depth."""
    return (arm.backbone, not arm.from_scratch, arm.method == "random_features", arm.freeze_depth, arm.text)


def _common_replicates(
    trials: Mapping[Arm, Mapping[str, Mapping[Replicate, RunRecord]]], metric: str
) -> tuple[dict[Arm, frozenset[Replicate]], frozenset[Replicate]]:
    """Return the replicates of each arm that could be compared, and those on which arms are compared.

    These keep most runs of transfer arms that their twins have too. Arms without a twin count only where that
    leaves one replicate at most, which gives no verdict; the others only where there is no transfer arm. An
    arm that lacks one of them is left out.
    """
    own = {}
    for arm, runs in trials.items():
        finished = _finished_replicates(runs, metric)
        own[arm] = choose_replicates(list(finished.values()))
    transfer = [arm for arm in own if arm.method in TRANSFER_METHODS]
    pairs = [own[arm] & own[arm.twin] for arm in transfer if arm.twin in own]
    shared = choose_replicates(pairs)
    if len(shared) < 2:
        shared = choose_replicates([*pairs, *(own[arm] for arm in transfer if not own.get(arm.twin))])
    return own, shared or choose_replicates(list(own.values()))


def _finished_replicates(
    runs: Mapping[str, Mapping[Replicate, RunRecord]], metric: str
) -> dict[str, frozenset[Replicate]]:
    """Return the finished replicates of each trial that may be chosen."""
    finished = {}
    for trial, by_replicate in runs.items():
        usable = frozenset(one for one, record in by_replicate.items() if is_usable(record, metric))
        diverged = any(name_status(record, metric) == "diverged" for record in by_replicate.values())
        if usable and not diverged:
            finished[trial] = usable
    return finished


def _choose(
    arm: Arm,
    labels: str,
    runs: Mapping[str, Mapping[Replicate, RunRecord]],
    common: frozenset[Replicate],
    metric: str,
    split: str,
) -> Choice:
    sign = -1.0 if METRICS[metric].higher_is_better else 1.0
    eligible = [trial for trial, finished in _finished_replicates(runs, metric).items() if common <= finished]
    means = {trial: mean_metric(runs[trial], common, f"{split}/{metric}") for trial in eligible}
    seconds = {trial: mean_metric(runs[trial], common, "train_seconds") for trial in eligible}

    def worth(trial: str) -> tuple[float, int, float, str]:
        cost = seconds[trial] if math.isfinite(seconds[trial]) else math.inf
        value = sign * round(means[trial], 12) if math.isfinite(means[trial]) else math.inf
        return (value, len(trial.split()), cost, trial)

    best = min(eligible, key=worth)
    chosen = {replicate: runs[best][replicate] for replicate in sorted(common)}
    validation = mean_metric(chosen, common, f"val/{metric}")
    return Choice(arm, labels, best, chosen, validation, tuple(sorted(runs)), runs)


def mean_metric(runs: Mapping[Replicate, RunRecord], replicates: Iterable[Replicate], key: str) -> float:
    """Return the mean of a metric over the given replicates; NaN when a run lacks it."""
    values = [runs[one].metrics.get(key, math.nan) for one in replicates]
    return math.fsum(values) / len(values) if values else math.nan
