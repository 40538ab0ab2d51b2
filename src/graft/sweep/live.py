"""How far a sweep is: a view that moves on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from graft.compare.naming import name_budget
from graft.compare.select import order_labels
from graft.config.names import METRICS
from graft.plan.spec import RunSpec
from graft.progress import make_bar
from graft.sweep.outcome import Outcome

#: Where there is no terminal, one line of progress at most so often.
_SECONDS_BETWEEN_LINES = 15.0

#: One validation value of a run that is finished.
Value = tuple[RunSpec, float]


class SweepView:
    """Counts, a bar with the time left, and the best validation of each arm so far.

    Args:
        console: Where to.
        total: Runs to do.
        values: Validation values of runs of the sweep that were finished before.
    """

    def __init__(self, console: Console, total: int, values: Iterable[Value] = ()) -> None:
        self._console, self._total = console, total
        self._values = list(values)
        self._counts: Counter[str] = Counter()
        self._under_way = 0
        self._started = self._said = time.monotonic()
        self._bar = make_bar(console)
        self._task = self._bar.add_task("starting workers", total=total)
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=2)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def advance(self, under_way: int, fraction: float) -> None:
        """Show how many runs are under way, and the sum of the fractions that they have done."""
        self._under_way = under_way
        self._bar.update(self._task, completed=self._counts.total() + fraction, description=self._words())

    def retry(self, spec: RunSpec, reason: str) -> None:
        """Say that a run is tried again."""
        self._console.print(
            f"tried again: {_name(spec)}: {reason}", style="yellow", markup=False, soft_wrap=True
        )

    def end(self, spec: RunSpec, outcome: Outcome) -> None:
        """Count a run that ended."""
        self._counts[outcome.status] += 1
        if outcome.status == "finished" and outcome.val is not None:
            self._values.append((spec, outcome.val))
        if outcome.status not in ("finished", "pruned"):
            said = f"{outcome.status}: {_name(spec)}: {outcome.reason}"
            self._console.print(said, style="red", markup=False, soft_wrap=True)
        ended = self._counts.total()
        self._bar.update(self._task, completed=ended, description=self._words())
        now = time.monotonic()
        if not self._console.is_terminal and (
            now - self._said > _SECONDS_BETWEEN_LINES or ended == self._total
        ):
            self._said = now
            left = (now - self._started) / ended * (self._total - ended)
            self._console.print(f"{ended} of {self._total} runs, about {left:.0f} s left")

    def _words(self) -> str:
        pruned = self._counts["pruned"]
        failed = self._counts.total() - self._counts["finished"] - pruned
        said = [f"{self._counts['finished']} done", f"{self._under_way} running"]
        said += [f"{pruned} pruned"] if pruned else []
        return ", ".join(said + ([f"{failed} failed"] if failed else []))

    def _render(self) -> Group:
        best = find_best(self._values)
        if not best:
            return Group(self._bar.get_renderable())
        metric = best[0][0].config.metric
        table = Table(box=None, padding=(0, 2, 0, 0))
        for name in ("best so far", "labels", f"val/{metric}, mean over seeds", "seeds", "trial"):
            table.add_column(name)
        for spec, mean, count in best[: max(1, self._console.height - 6)]:
            table.add_row(
                escape(spec.arm.label),
                name_budget(spec.labels),
                f"{mean:.4f}",
                str(count),
                escape(spec.trial),
            )
        return Group(self._bar.get_renderable(), Text(""), table)


def find_best(values: Sequence[Value]) -> list[tuple[RunSpec, float, int]]:
    """Return for each arm and label budget the trial with the best mean over replicates, and their number.

    While replicates are missing this is a first look: means of different replicates are put side by side.
    """
    trials: dict[tuple[str, str], dict[str, list[Value]]] = {}
    for spec, value in values:
        trials.setdefault((spec.labels, spec.arm.text), {}).setdefault(spec.trial, []).append((spec, value))
    best = []
    for by_trial in trials.values():
        scored = [(runs[0][0], fmean(value for _, value in runs), len(runs)) for runs in by_trial.values()]
        sign = 1 if METRICS[scored[0][0].config.metric].higher_is_better else -1
        best.append(max(scored, key=lambda entry: sign * entry[1]))
    ordered = order_labels(spec.labels for spec, _, _ in best)
    return sorted(best, key=lambda entry: (ordered.index(entry[0].labels), entry[0].arm.label))


def _name(spec: RunSpec) -> str:
    return f"{spec.arm.label} · {spec.trial} · {spec.replicate.label}"
