"""What a person sees of a sweep: the plan, how far it is, what failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean

from rich.console import Console
from rich.table import Table

from graft.compare.replicates import count_replicates
from graft.compare.select import order_labels
from graft.plan.spec import RunSpec
from graft.sweep.command import reproduce
from graft.sweep.outcome import Outcome
from graft.sweep.planner import Plan
from graft.track.record import RunRecord


def show_plan(console: Console, plan: Plan) -> None:
    """Print the arms, trials and replicates of a plan, and what is done already."""
    table = Table(title="Plan", title_justify="left", box=None, padding=(0, 2, 0, 0))
    folded = any(spec.folds is not None for spec in plan.specs)
    counts = {spec.labels.isdigit() or spec.labels == "all" for spec in plan.specs}
    for name in ("arm", "labels per class" if all(counts) else "labels"):
        table.add_column(name)
    for name in ("trials", "replicates" if folded else "seeds", "runs", "done"):
        table.add_column(name, justify="right")
    for arm in sorted({spec.arm for spec in plan.specs}, key=lambda arm: arm.text):
        mine = [spec for spec in plan.specs if spec.arm == arm]
        replicates = {spec.replicate for spec in mine}
        table.add_row(
            arm.label,
            ", ".join(order_labels(spec.labels for spec in mine)),
            str(len({spec.trial for spec in mine})),
            count_replicates(replicates) if folded else str(len(replicates)),
            str(len(mine)),
            str(sum(spec.key in plan.done for spec in mine)),
        )
    console.print(table)
    said = [f"{len(plan.specs)} runs, {len(plan.done)} done already"]
    said += [f"{plan.twins} from-scratch twins added"] if plan.twins else []
    runs = "run" if plan.merged == 1 else "runs"
    said += [f"{plan.merged} equal {runs} merged{_say_why_equal(plan)}"] if plan.merged else []
    console.print("; ".join(said) + ".")
    for line in _say_precisions(plan):
        console.print(line, highlight=False)


def _say_precisions(plan: Plan) -> list[str]:
    """Say what ``trainer.precision=auto`` has become."""
    reasons = {spec.facts.precision_reason: spec.facts.precision for spec in plan.specs}
    reasons.pop("", None)
    lines = sorted(reasons)
    if len(set(reasons.values())) > 1:
        lines.append(
            "Backbones of different precision are not compared with each other; for that, name one "
            "`trainer.precision` for all."
        )
    return lines


def _say_why_equal(plan: Plan) -> str:
    """Say why runs are equal that were asked for as different ones, as far as their arms tell."""
    reasons = {
        "from scratch has no weights, freeze depth or ridge head": any(
            arm.from_scratch for arm in plan.equal_arms
        ),
        "a ridge head is solved, whatever the rate and the batch size": any(
            arm.head == "ridge" for arm in plan.equal_arms
        ),
        "a linear probe freezes all stages": any(
            arm.method == "linear_probe" and arm.head != "ridge" for arm in plan.equal_arms
        ),
    }
    said = "; ".join(reason for reason, holds in reasons.items() if holds)
    return f" ({said})" if said else ""


def show_estimate(console: Console, plan: Plan, records: Iterable[RunRecord], workers: int) -> None:
    """Say how long the missing runs will take, as far as finished runs of the same arms tell.

    Args:
        console: Where to.
        plan: The plan.
        records: Runs that the store has.
        workers: How many runs go side by side, 0 where that is not known.
    """
    if not plan.missing:
        return
    took: dict[str, list[float]] = {}
    for record in records:
        if record.status == "finished" and "run_seconds" in record.metrics:
            took.setdefault(record.arm.text, []).append(record.metrics["run_seconds"])
    known = [fmean(took[spec.arm.text]) for spec in plan.missing if spec.arm.text in took]
    if not known:
        console.print("Time: unknown until the first run has ended.")
        return
    more = len(plan.missing) - len(known)
    seconds = _say_seconds(sum(known) / max(1, min(workers, len(plan.missing))))
    said = f"Time: about {seconds} with {workers} at a time" if workers else f"Time: {seconds} of work"
    console.print(f"{said}; {more} runs of arms that never ran come on top." if more else f"{said}.")


def show_gain(console: Console, records: Iterable[RunRecord]) -> None:
    """Say what sharing saved, as far as the runs have recorded it; nothing where it saved nothing.

    Runs that were pruned or diverged count, too: they read what was computed for them.

    Args:
        console: Where to.
        records: The runs that have just been executed.
    """
    both = [
        (record.metrics["train_seconds"], record.metrics["amortised_seconds"])
        for record in records
        if {"train_seconds", "amortised_seconds"} <= record.metrics.keys()
    ]
    alone, really = (sum(column) for column in zip(*both, strict=True)) if both else (0.0, 0.0)
    if alone > really > 0:
        said = f"Training took {_say_seconds(really)} of work; without reuse about {_say_seconds(alone)}"
        console.print(f"{said} ({alone / really:.1f}x).")


def _say_seconds(seconds: float) -> str:
    """Say how long, in the unit that a person would use.

    >>> _say_seconds(45), _say_seconds(300), _say_seconds(9000)
    ('45 s', '5 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def show_failures(
    console: Console, specs: Sequence[RunSpec], outcomes: Sequence[Outcome], command: str
) -> None:
    """Print what did not finish, how to repeat each of it alone, and the command that tries all again."""
    ended_well = ("finished", "pruned")
    failed = {outcome.key: outcome for outcome in outcomes if outcome.status not in ended_well}
    if not failed:
        return
    table = Table(
        title=f"{len(failed)} runs did not finish", title_justify="left", box=None, padding=(0, 2, 0, 0)
    )
    folded = any(spec.folds is not None for spec in specs)
    for name in ("status", "arm", "labels", "replicate" if folded else "seed", "trial", "reason"):
        table.add_column(name)
    for spec in specs:
        outcome = failed.get(spec.key)
        if outcome is not None:
            replicate = spec.replicate.text if folded else str(spec.seed)
            table.add_row(outcome.status, spec.arm.label, spec.labels, replicate, spec.trial, outcome.reason)
    console.print(table)
    console.print("One by one:")
    for spec in specs:
        if spec.key in failed:
            console.print(f"  {reproduce(spec.config)}", soft_wrap=True, markup=False, highlight=False)
    counts = Counter(outcome.status for outcome in failed.values())
    counted = ", ".join(f"{count} {status}" for status, count in counts.items())
    console.print(f"{counted}. To run just these again: {command}", soft_wrap=True, markup=False)
