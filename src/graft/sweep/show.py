"""What a person sees of a sweep: the plan, how far it is, what failed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.table import Table

from graft.compare.replicates import count_replicates
from graft.compare.select import order_labels
from graft.plan.spec import RunSpec
from graft.progress import make_bar
from graft.sweep.planner import Plan
from graft.sweep.worker import Outcome

#: Where there is no terminal, one line of progress at most so often.
_SECONDS_BETWEEN_LINES = 15.0


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
    said += [f"{plan.merged} equal runs merged (from scratch has no freeze depth)"] if plan.merged else []
    console.print("; ".join(said) + ".")


class SweepProgress:
    """A bar with an estimate of the time left on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._ended = 0
        self._failed = 0
        self._started = self._said = time.monotonic()
        self._bar = make_bar(console)
        self._task = self._bar.add_task("starting workers", total=total)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, under_way: float) -> None:
        """Show the fractions done of the runs under way."""
        self._bar.update(self._task, completed=self._ended + under_way, description=self._words())

    def ended(self, spec: RunSpec, outcome: Outcome) -> None:
        """Count a run that ended."""
        self._ended += 1
        if outcome.status != "finished":
            self._failed += 1
            self._console.print(
                f"{outcome.status}: {spec.arm.label} · {spec.trial}: {outcome.reason}", style="red"
            )
        self._bar.update(self._task, completed=self._ended, description=self._words())
        now = time.monotonic()
        if not self._console.is_terminal and (
            now - self._said > _SECONDS_BETWEEN_LINES or self._ended == self._total
        ):
            self._said = now
            left = (now - self._started) / self._ended * (self._total - self._ended)
            self._console.print(f"{self._ended} of {self._total} runs, about {left:.0f} s left")

    def _words(self) -> str:
        return f"runs ({self._failed} failed)" if self._failed else "runs"


def show_failures(
    console: Console, specs: Sequence[RunSpec], outcomes: Sequence[Outcome], command: str
) -> None:
    """Print what did not finish, and the command that tries again."""
    failed = {outcome.key: outcome for outcome in outcomes if outcome.status != "finished"}
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
    counts = Counter(outcome.status for outcome in failed.values())
    counted = ", ".join(f"{count} {status}" for status, count in counts.items())
    console.print(f"{counted}. To run just these again: {command}")
