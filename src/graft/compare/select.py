"""Which trial speaks for an arm: validation chooses, and test is not read here."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from graft.config.names import METRICS
from graft.errors import GraftError, expected_one_of
from graft.plan.arms import Arm
from graft.track.record import RunRecord

#: A tracking store keeps infinity as the largest float: beyond this a number is none.
LARGEST_NUMBER = 1e300

Cell = tuple[str, Arm, str, int]


@dataclass(frozen=True)
class Choice:
    """The trial that speaks for an arm at a label budget.

    Attributes:
        arm: What is compared.
        labels: Label budget.
        trial: The chosen trial.
        runs: Its finished runs by seed, the seeds ascending: those that all arms of the budget have.
        validation: Mean validation metric over these seeds.
        trials: All trials that were tried, finished or not.
    """

    arm: Arm
    labels: str
    trial: str
    runs: Mapping[int, RunRecord]
    validation: float
    trials: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """A choice, the choice that answers it, and the seeds that both have."""

    choice: Choice
    twin: Choice
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Gap:
    """A run that a complete comparison would have, and has not.

    Attributes:
        arm: Its arm.
        labels: Its label budget.
        trial: Its trial.
        seed: Its seed.
        status: One of the statuses of a run, or ``missing`` when nobody ran it.
        reason: Why it failed, as far as recorded.
    """

    arm: Arm
    labels: str
    trial: str
    seed: int
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
    """

    condition: str
    data: str
    choices: tuple[Choice, ...]
    gaps: tuple[Gap, ...]
    left_out: tuple[tuple[Arm, str], ...]


def order_labels(labels: Iterable[str]) -> list[str]:
    """Sort label budgets by size, each once, ``all`` last.

    >>> order_labels(["10", "all", "2", "2"])
    ['2', '10', 'all']
    """
    return sorted(
        set(labels), key=lambda text: (not text.isdigit(), int(text) if text.isdigit() else 0, text)
    )


def select_trials(records: Sequence[RunRecord], metric: str) -> list[Selection]:
    """Choose one trial per condition, arm and label budget by its mean validation metric over seeds.

    At a label budget all arms are compared on the seeds that all of them finished. Trials that tie go to the
    simpler one (fewer knobs in effect), then to the one that trained faster. None with a diverged run
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
    """Pair each choice with its from-scratch twin at the same label budget, on the seeds that both have.

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
        seeds = tuple(sorted(set(choice.runs) & set(twin.runs)))
        if seeds:
            pairs.append(Pair(choice, twin, seeds))
    return pairs


def is_usable(record: RunRecord, metric: str) -> bool:
    """Return whether a run finished with a validation metric that is a number."""
    value = record.metrics.get(f"val/{metric}", math.nan)
    return record.status == "finished" and math.isfinite(value) and abs(value) < LARGEST_NUMBER


def _index_cells(records: Iterable[RunRecord]) -> dict[str, dict[Cell, RunRecord]]:
    """Return by condition the one run of each place; a finished one goes before one that is not."""
    cells: dict[str, dict[Cell, RunRecord]] = defaultdict(dict)
    for record in sorted(records, key=lambda one: one.run_id):
        place = (record.labels, record.arm, record.trial, record.seed)
        known = cells[record.condition].get(place)
        if known is None or (known.status != "finished" and record.status == "finished"):
            cells[record.condition][place] = record
        elif known.status == record.status == "finished" and known.run_key != record.run_key:
            where = f"{record.arm.label}, labels {record.labels}, seed {record.seed}"
            raise GraftError(
                f"Expected one finished run per arm, trial, labels and seed ({where}), but got two that"
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
        trials: dict[Arm, dict[str, dict[int, RunRecord]]] = defaultdict(lambda: defaultdict(dict))
        for record in records:
            if record.labels == labels:
                trials[record.arm][record.trial][record.seed] = record
        ordered = {arm: trials[arm] for arm in sorted(trials, key=order_arm)}
        common = _common_seeds(ordered, metric)
        chosen = [
            _choose(arm, labels, runs, common[arm], metric) for arm, runs in ordered.items() if arm in common
        ]
        choices += chosen
        left_out += [(arm, labels) for arm in ordered if arm not in common]
        gaps += _list_gaps(ordered, labels, metric)
    return Selection(records[0].condition, records[0].data, tuple(choices), tuple(gaps), tuple(left_out))


def order_arm(arm: Arm) -> tuple[object, ...]:
    """Sort key of arms: by backbone, from scratch first, then by freeze depth."""
    return (arm.backbone, not arm.from_scratch, arm.method == "random_features", arm.freeze_depth, arm.text)


def _common_seeds(
    trials: Mapping[Arm, Mapping[str, Mapping[int, RunRecord]]], metric: str
) -> dict[Arm, frozenset[int]]:
    """Return for each arm that can be compared the seeds that all such arms finished.

    An arm whose seeds are disjoint from those of the others is left out, the one with fewer seeds.
    """
    own: dict[Arm, frozenset[int]] = {}
    for arm, runs in trials.items():
        finished = _finished_seeds(runs, metric)
        if finished:
            own[arm] = _widest_seeds(list(finished.values()))
    common: frozenset[int] = frozenset()
    compared: list[Arm] = []
    for arm in sorted(own, key=lambda one: (-len(own[one]), order_arm(one))):
        shared = common & own[arm] if compared else own[arm]
        if shared:
            common = shared
            compared.append(arm)
    return dict.fromkeys(compared, common)


def _finished_seeds(runs: Mapping[str, Mapping[int, RunRecord]], metric: str) -> dict[str, frozenset[int]]:
    """Return the finished seeds of each trial that may be chosen."""
    finished = {}
    for trial, by_seed in runs.items():
        seeds = frozenset(seed for seed, record in by_seed.items() if is_usable(record, metric))
        diverged = any(_gap_status(record, metric) == "diverged" for record in by_seed.values())
        if seeds and not diverged:
            finished[trial] = seeds
    return finished


def _widest_seeds(finished: Collection[frozenset[int]]) -> frozenset[int]:
    """Return the seeds that keep most runs: a sweep cut short may have the last seed in one trial only."""

    def runs_kept(seeds: frozenset[int]) -> int:
        return len(seeds) * sum(seeds <= other for other in finished)

    return max(finished, key=lambda seeds: (runs_kept(seeds), len(seeds), sorted(seeds, reverse=True)))


def _choose(
    arm: Arm, labels: str, runs: Mapping[str, Mapping[int, RunRecord]], seeds: frozenset[int], metric: str
) -> Choice:
    sign = -1.0 if METRICS[metric].higher_is_better else 1.0
    eligible = [trial for trial, finished in _finished_seeds(runs, metric).items() if seeds <= finished]
    means = {trial: mean_metric(runs[trial], seeds, f"val/{metric}") for trial in eligible}
    seconds = {trial: mean_metric(runs[trial], seeds, "train_seconds") for trial in eligible}

    def worth(trial: str) -> tuple[float, int, float, str]:
        cost = seconds[trial] if math.isfinite(seconds[trial]) else math.inf
        return (sign * round(means[trial], 12), len(trial.split()), cost, trial)

    best = min(eligible, key=worth)
    chosen = {seed: runs[best][seed] for seed in sorted(seeds)}
    return Choice(arm, labels, best, chosen, means[best], tuple(sorted(runs)))


def mean_metric(runs: Mapping[int, RunRecord], seeds: Iterable[int], key: str) -> float:
    """Return the mean of a metric over the given seeds; NaN when a run lacks it."""
    values = [runs[seed].metrics.get(key, math.nan) for seed in seeds]
    return math.fsum(values) / len(values) if values else math.nan


def _list_gaps(
    trials: Mapping[Arm, Mapping[str, Mapping[int, RunRecord]]], labels: str, metric: str
) -> list[Gap]:
    """List what a complete grid of trials and seeds would have; its seeds are those that any arm has."""
    seeds = sorted({seed for runs in trials.values() for by_seed in runs.values() for seed in by_seed})
    gaps = []
    for arm, runs in trials.items():
        for trial, by_seed in sorted(runs.items()):
            for seed in seeds:
                record = by_seed.get(seed)
                if record is None:
                    gaps.append(Gap(arm, labels, trial, seed, "missing"))
                elif not is_usable(record, metric):
                    reason = record.notes.get("reason", "")
                    gaps.append(Gap(arm, labels, trial, seed, _gap_status(record, metric), reason))
    return gaps


def _gap_status(record: RunRecord, metric: str) -> str:
    """Return the status; a finished run whose metric is no number has diverged, one without it is missing."""
    if record.status != "finished" or is_usable(record, metric):
        return record.status
    return "diverged" if f"val/{metric}" in record.metrics else "missing"
