"""What an arm costs: seconds and images, tuning and pretraining included, and what they buy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graft.compare.naming import write_seconds
from graft.compare.select import Choice, mean_metric
from graft.config.names import METRICS
from graft.plan.arms import Arm
from graft.track.record import RunRecord

#: Validation metric over optimizer steps.
History = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Cost:
    """What an arm costs at a label budget. A number that nobody recorded is NaN.

    Attributes:
        seconds: Mean seconds of one run of the chosen trial, as if it ran alone.
        tuned_seconds: Seconds of one run of every trial: what it takes to choose, and to train, once; what
            was pruned or diverged with what it took until then.
        images: Mean training images seen by one run of the chosen trial.
        tuned_images: Training images seen by one run of every trial.
        unknown_trials: Trials that these two lack, because none of their runs recorded what it took.
        flops: Mean floating-point operations of one run of the chosen trial.
        pretrain_seconds: Seconds that pretraining took, where the weights say so.
        reach_seconds: Mean seconds until validation was as good as the twin's best; infinite where it never
            was, NaN without a twin or a recorded history.
        twin_seconds: Mean seconds until the twin was at its best.
        paid_back_runs: Number of runs after which what they save pays for the pretraining, infinite where
            they save nothing; NaN where one of these is not known.
        on_front: Whether no other arm of the budget is both better on test and cheaper with its tuning.
        break_even: In words: what the arm saves against its twin, empty where it cannot be said.
    """

    seconds: float
    tuned_seconds: float
    images: float
    tuned_images: float
    unknown_trials: int
    flops: float
    pretrain_seconds: float
    reach_seconds: float
    twin_seconds: float
    paid_back_runs: float
    on_front: bool
    break_even: str


def weigh_costs(
    choices: Sequence[Choice],
    twins: Mapping[Arm, Choice],
    tests: Sequence[float],
    histories: Mapping[str, History],
    metric: str,
) -> list[Cost]:
    """Return what each arm of a label budget costs.

    Args:
        choices: The choices of the budget.
        twins: The twin of each arm that has one.
        tests: Mean test metric of each choice.
        histories: Validation metric over optimizer steps by run id, as far as recorded.
        metric: Name of the metric, without a split.
    """
    higher = METRICS[metric].higher_is_better
    tuned = [_add_trials(choice, "train_seconds") for choice in choices]
    worth = [test if higher else -test for test in tests]
    costs = []
    for place, choice in enumerate(choices):
        twin = twins.get(choice.arm)
        reach, alone = _reach(choice, twin, histories, higher) if twin else (math.nan, math.nan)
        pretrain = _read_note(choice, "pretrain_seconds")
        costs.append(
            Cost(
                seconds=mean_metric(choice.runs, choice.runs, "train_seconds"),
                tuned_seconds=tuned[place],
                images=mean_metric(choice.runs, choice.runs, "images_seen"),
                tuned_images=_add_trials(choice, "images_seen"),
                unknown_trials=_count_unknown(choice),
                flops=mean_metric(choice.runs, choice.runs, "train_flops"),
                pretrain_seconds=pretrain,
                reach_seconds=reach,
                twin_seconds=alone,
                paid_back_runs=_count_paid_back(reach, alone, pretrain),
                on_front=is_on_front(place, worth, tuned),
                break_even=_say_break_even(reach, alone, pretrain),
            )
        )
    return costs


def is_on_front(place: int, worth: Sequence[float], cost: Sequence[float]) -> bool:
    """Return whether nothing is at least as good and as cheap, and better in one of them.

    What has no known cost is on no front.

    Args:
        place: Which one is asked about.
        worth: How good each is, more is better, shape ``(arms,)``.
        cost: What each costs, shape ``(arms,)``.
    """
    if not math.isfinite(cost[place]):
        return False
    return not any(
        better >= worth[place] and cheaper <= cost[place] and (better > worth[place] or cheaper < cost[place])
        for better, cheaper in zip(worth, cost, strict=True)
    )


def _trace(choice: Choice, histories: Mapping[str, History], sign: float) -> list[tuple[float, float]]:
    """Return the seconds of a run and the best validation metric until then, means over the runs of a choice.

    A run that stopped early keeps what it had, and costs no more.

    Returns:
        Pairs at the steps that any of them recorded, ascending; none where one of them recorded nothing.
    """
    curves = [histories.get(run.run_id, ()) for run in choice.runs.values()]
    if not curves or not all(curves):
        return []
    spent = [run.metrics.get("train_seconds", math.nan) for run in choice.runs.values()]
    trace = []
    for step in sorted(set.union(*({at for at, _ in curve} for curve in curves))):
        until = [[sign * value for at, value in curve if at <= step] for curve in curves]
        if not all(until):  # one of them was not looked at yet
            continue
        seconds = [
            whole * min(1.0, step / curve[-1][0]) if curve[-1][0] else math.nan
            for whole, curve in zip(spent, curves, strict=True)
        ]
        best = math.fsum(max(values) for values in until) / len(until)
        trace.append((math.fsum(seconds) / len(seconds), best))
    return trace


def _add_trials(choice: Choice, key: str) -> float:
    """Return the sum over trials of the mean over its runs that recorded it; NaN where none of any did."""
    found = [
        [run.metrics[key] for run in runs.values() if key in run.metrics] for runs in choice.tried.values()
    ]
    means = [math.fsum(values) / len(values) for values in found if values]
    return math.fsum(means) if means else math.nan


def _count_unknown(choice: Choice) -> int:
    """Return the number of trials none of whose runs recorded what it took."""
    tried = choice.tried.values()
    return sum(not any("train_seconds" in run.metrics for run in runs.values()) for runs in tried)


def _reach(
    choice: Choice, twin: Choice, histories: Mapping[str, History], higher: bool
) -> tuple[float, float]:
    """Return the mean seconds until validation was as good as the twin's best: the choice's, the twin's."""
    sign = 1.0 if higher else -1.0
    mine, theirs = _trace(choice, histories, sign), _trace(twin, histories, sign)
    if not mine or not theirs:
        return math.nan, math.nan
    wanted = theirs[-1][1] - 1e-12  # means of equal numbers may differ in their last digit
    first, second = (
        next((seconds for seconds, best in trace if best >= wanted), math.inf) for trace in (mine, theirs)
    )
    return first, second


def _say_break_even(reach: float, alone: float, pretrain: float) -> str:
    """Say when an arm pays for itself, against training its twin until it is at its best."""
    if not math.isfinite(alone) or math.isnan(reach):
        return ""
    if reach == math.inf:
        return "its validation never was as good as from scratch at its best"
    said = (
        f"as good as from scratch at its best after {write_seconds(reach)} instead of {write_seconds(alone)}"
    )
    if not math.isfinite(pretrain):
        return said
    runs = _count_paid_back(reach, alone, pretrain)
    if runs == math.inf:
        return f"{said}; its pretraining ({write_seconds(pretrain)}) is not paid back by training time"
    return f"{said}; its pretraining ({write_seconds(pretrain)}) is paid back after {runs:,.0f} such runs"


def _count_paid_back(reach: float, alone: float, pretrain: float) -> float:
    """Return after how many runs pretraining is paid back by what each saves against its twin."""
    if math.isnan(reach) or not math.isfinite(alone) or not math.isfinite(pretrain):
        return math.nan
    return float(math.ceil(pretrain / (alone - reach))) if reach < alone else math.inf


def _read_note(choice: Choice, key: str) -> float:
    records: list[RunRecord] = list(choice.runs.values())
    try:
        return float(records[0].notes[key])
    except (KeyError, ValueError, IndexError):
        return math.nan
