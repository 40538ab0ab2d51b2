"""Which trial speaks for an arm: validation chooses, and test is not read here."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from graft.config.names import METRICS
from graft.errors import GraftError, expected_one_of
from graft.plan.arms import Arm
from graft.plan.replicates import Replicate
from graft.track.record import RunRecord

#: A tracking store keeps infinity as the largest float: beyond this a number is none.
LARGEST_NUMBER = 1e300

Cell = tuple[str, Arm, str, Replicate]


@dataclass(frozen=True)
class Choice:
    """The trial that speaks for an arm at a label budget.

    Attributes:
        arm: What is compared.
        labels: Label budget.
        trial: The chosen trial.
        runs: Its finished runs by replicate, ascending: those that all arms of the budget have.
        validation: Mean validation metric over these replicates.
        trials: All trials that were tried, finished or not.
    """

    arm: Arm
    labels: str
    trial: str
    runs: Mapping[Replicate, RunRecord]
    validation: float
    trials: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """A choice, the choice that answers it, and the replicates that both have."""

    choice: Choice
    twin: Choice
    replicates: tuple[Replicate, ...]


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
class Selection:
    """The chosen trials of one condition, ordered by label budget, and what it lacks.

    Attributes:
        condition: Hash of data, splits and training budget.
        data: Name of the data set.
        choices: The chosen trials.
        gaps: Runs that are not there or not finished.
        left_out: Arm and label budget of those without a trial to choose.
        folds: Number of folds of the cross-validation, None without.
    """

    condition: str
    data: str
    choices: tuple[Choice, ...]
    gaps: tuple[Gap, ...]
    left_out: tuple[tuple[Arm, str], ...]
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


def select_trials(records: Sequence[RunRecord], metric: str) -> list[Selection]:
    """Choose one trial per condition, arm and label budget by its mean validation metric over replicates.

    At a label budget all arms are compared on the replicates that all of them finished. Trials that tie go
    to the simpler one (fewer knobs in effect), then to the one that trained faster. None with a diverged run
    is chosen.

    Args:
        records: Runs of any status, in any order.
        metric: Name of the metric, without a split.

    Returns:
        One selection per condition, the one with most finished runs first.

    Raises:
        GraftError: When the metric is unknown, no run can be compared, or two finished runs claim one place.
    """
    if metric not in METRICS:
        raise GraftError(expected_one_of("metric", metric, METRICS))
    cells = _index_cells(records)
    _expect_comparable(records, metric)
    selections = [_select_condition(list(found.values()), metric) for found in cells.values()]
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
        if twin is None or choice.arm.from_scratch:
            continue
        both = tuple(sorted(set(choice.runs) & set(twin.runs)))
        if both:
            pairs.append(Pair(choice, twin, both))
    return pairs


def is_usable(record: RunRecord, metric: str) -> bool:
    """Return whether a run finished with a validation metric that is a number."""
    value = record.metrics.get(f"val/{metric}", math.nan)
    return record.status == "finished" and math.isfinite(value) and abs(value) < LARGEST_NUMBER


def _index_cells(records: Iterable[RunRecord]) -> dict[str, dict[Cell, RunRecord]]:
    """Return by condition the one run of each place; a finished one goes before one that is not."""
    cells: dict[str, dict[Cell, RunRecord]] = defaultdict(dict)
    for record in sorted(records, key=lambda one: one.run_id):
        place = (record.labels, record.arm, record.trial, record.replicate)
        known = cells[record.condition].get(place)
        if known is None or (known.status != "finished" and record.status == "finished"):
            cells[record.condition][place] = record
        elif known.status == record.status == "finished" and known.run_key != record.run_key:
            where = f"{record.arm.label}, labels {record.labels}, {record.replicate.label}"
            raise GraftError(
                f"Expected one finished run per arm, trial, labels and replicate ({where}), but got two that"
                f" differ in something else: {known.run_id} and {record.run_id}."
                " Compare one sweep at a time: `graft compare <parent run>`."
            )
    return cells


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


def _select_condition(records: Sequence[RunRecord], metric: str) -> Selection:
    choices: list[Choice] = []
    gaps: list[Gap] = []
    left_out: list[tuple[Arm, str]] = []
    for labels in order_labels(record.labels for record in records):
        trials: dict[Arm, dict[str, dict[Replicate, RunRecord]]] = defaultdict(lambda: defaultdict(dict))
        for record in records:
            if record.labels == labels:
                trials[record.arm][record.trial][record.replicate] = record
        ordered = {arm: trials[arm] for arm in sorted(trials, key=order_arm)}
        common = _common_replicates(ordered, metric)
        chosen = [
            _choose(arm, labels, runs, common[arm], metric) for arm, runs in ordered.items() if arm in common
        ]
        choices += chosen
        left_out += [(arm, labels) for arm in ordered if arm not in common]
        gaps += _list_gaps(ordered, labels, metric)
    first = records[0]
    return Selection(first.condition, first.data, tuple(choices), tuple(gaps), tuple(left_out), first.folds)


def order_arm(arm: Arm) -> tuple[object, ...]:
    """Sort key of arms: by backbone, from scratch first, then by freeze depth."""
    return (arm.backbone, not arm.from_scratch, arm.method == "random_features", arm.freeze_depth, arm.text)


def _common_replicates(
    trials: Mapping[Arm, Mapping[str, Mapping[Replicate, RunRecord]]], metric: str
) -> dict[Arm, frozenset[Replicate]]:
    """Return for each arm that can be compared the replicates that all such arms finished.

    An arm whose replicates are disjoint from those of the others is left out, the one with fewer.
    """
    own: dict[Arm, frozenset[Replicate]] = {}
    for arm, runs in trials.items():
        finished = _finished_replicates(runs, metric)
        if finished:
            own[arm] = _widest_replicates(list(finished.values()))
    common: frozenset[Replicate] = frozenset()
    compared: list[Arm] = []
    for arm in sorted(own, key=lambda one: (-len(own[one]), order_arm(one))):
        shared = common & own[arm] if compared else own[arm]
        if shared:
            common = shared
            compared.append(arm)
    return dict.fromkeys(compared, common)


def _finished_replicates(
    runs: Mapping[str, Mapping[Replicate, RunRecord]], metric: str
) -> dict[str, frozenset[Replicate]]:
    """Return the finished replicates of each trial that may be chosen."""
    finished = {}
    for trial, by_replicate in runs.items():
        usable = frozenset(one for one, record in by_replicate.items() if is_usable(record, metric))
        diverged = any(_gap_status(record, metric) == "diverged" for record in by_replicate.values())
        if usable and not diverged:
            finished[trial] = usable
    return finished


def _widest_replicates(finished: Collection[frozenset[Replicate]]) -> frozenset[Replicate]:
    """Return the replicates that keep most runs: a sweep cut short may have the last in one trial only."""

    def runs_kept(some: frozenset[Replicate]) -> int:
        return len(some) * sum(some <= other for other in finished)

    return max(finished, key=lambda some: (runs_kept(some), len(some), sorted(some, reverse=True)))


def _choose(
    arm: Arm,
    labels: str,
    runs: Mapping[str, Mapping[Replicate, RunRecord]],
    common: frozenset[Replicate],
    metric: str,
) -> Choice:
    sign = -1.0 if METRICS[metric].higher_is_better else 1.0
    eligible = [trial for trial, finished in _finished_replicates(runs, metric).items() if common <= finished]
    means = {trial: mean_metric(runs[trial], common, f"val/{metric}") for trial in eligible}
    seconds = {trial: mean_metric(runs[trial], common, "train_seconds") for trial in eligible}

    def worth(trial: str) -> tuple[float, int, float, str]:
        cost = seconds[trial] if math.isfinite(seconds[trial]) else math.inf
        return (sign * round(means[trial], 12), len(trial.split()), cost, trial)

    best = min(eligible, key=worth)
    chosen = {replicate: runs[best][replicate] for replicate in sorted(common)}
    return Choice(arm, labels, best, chosen, means[best], tuple(sorted(runs)))


def mean_metric(runs: Mapping[Replicate, RunRecord], replicates: Iterable[Replicate], key: str) -> float:
    """Return the mean of a metric over the given replicates; NaN when a run lacks it."""
    values = [runs[one].metrics.get(key, math.nan) for one in replicates]
    return math.fsum(values) / len(values) if values else math.nan


def _list_gaps(
    trials: Mapping[Arm, Mapping[str, Mapping[Replicate, RunRecord]]], labels: str, metric: str
) -> list[Gap]:
    """List what a complete grid of trials and replicates would have; its replicates are those of any arm."""
    replicates = sorted({one for runs in trials.values() for tried in runs.values() for one in tried})
    gaps = []
    for arm, runs in trials.items():
        for trial, by_replicate in sorted(runs.items()):
            for replicate in replicates:
                record = by_replicate.get(replicate)
                if record is None:
                    gaps.append(Gap(arm, labels, trial, replicate, "missing"))
                elif not is_usable(record, metric):
                    reason = record.notes.get("reason", "")
                    gaps.append(Gap(arm, labels, trial, replicate, _gap_status(record, metric), reason))
    return gaps


def _gap_status(record: RunRecord, metric: str) -> str:
    """Return the status; a finished run whose metric is no number has diverged, one without it is missing."""
    if record.status != "finished" or is_usable(record, metric):
        return record.status
    return "diverged" if f"val/{metric}" in record.metrics else "missing"
