"""What the driver of a sweep writes down: how runs ended that could not say so, and what is tried again."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

from graft.errors import StoreAwayError
from graft.plan.spec import RunSpec
from graft.sweep.live import SweepView
from graft.sweep.outcome import Outcome
from graft.sweep.retry import Attempt, advise, plan_retry
from graft.sweep.stopping import Stop
from graft.track.closing import LOG, close_run
from graft.track.store import Store
from graft.track.writer import RunWriter, resume_run, start_run


@dataclass
class Bookkeeper:
    """Records the end of each try, and says what comes after it.

    Attributes:
        store: Where runs are recorded.
        parent_id: The sweep.
        retries: How often a run may be tried again.
        view: Shows it.
        stop: Once it says so, nothing is tried again.
    """

    store: Store
    parent_id: str
    retries: int
    view: SweepView
    stop: Stop

    def advanced(self, under_way: int, fraction: float) -> None:
        """Show how many runs are under way, and the sum of the fractions that they have done."""
        self.view.advance(under_way, fraction)

    def ended(self, attempt: Attempt, outcome: Outcome, run_id: str | None, log: str) -> Attempt | Outcome:
        """Record the end of a try, and return the next one, or how the run ended for good."""
        if self.stop.signum is not None and outcome.status == "killed":
            self._close(outcome, run_id, "", transient=True)
            return outcome
        again = plan_retry(attempt, outcome, self.retries)
        if again is not None:
            self._close(outcome, run_id, log, transient=True)
            self.view.retry(attempt.spec, again.earlier[-1])
            return again
        if outcome.status != "finished":
            advice = advise(attempt.spec, outcome)
            outcome = replace(outcome, reason=f"{outcome.reason}. {advice}" if advice else outcome.reason)
            if run_id is None and outcome.status == "pruned":
                record_pruned(self.store, self.parent_id, attempt.spec, outcome)
            elif run_id is None:
                record_unstarted(self.store, self.parent_id, attempt.spec, outcome, log)
            else:
                self._close(outcome, run_id, log)
                RunWriter(self.store, run_id).tag({"graft.reason": outcome.reason})
        elif attempt.earlier and run_id is not None:
            RunWriter(self.store, run_id).tag({"graft.retried": "\n".join(attempt.earlier)})
        self.view.end(attempt.spec, outcome)
        return outcome

    def _close(self, outcome: Outcome, run_id: str | None, log: str, *, transient: bool = False) -> None:
        if run_id is not None:
            close_run(self.store, run_id, outcome.status, outcome.reason, log or None, transient=transient)


def record_pruned(store: Store, parent_id: str, spec: RunSpec, outcome: Outcome) -> None:
    """Record a run whose trial was cut before it began; a record from another time serves again."""
    with contextlib.suppress(StoreAwayError):
        notes: dict[str, str] = {}
        writer = resume_run(store, spec, parent_id=parent_id, notes=notes)
        (writer or start_run(store, spec, parent_id=parent_id, notes=notes)).end("pruned", outcome.reason)


def record_unstarted(store: Store, parent_id: str, spec: RunSpec, outcome: Outcome, log: str = "") -> None:
    """Record a run that ended before it had a record; a store that is away is left in peace.

    Args:
        store: Where to.
        parent_id: The sweep.
        spec: The run.
        outcome: How it ended.
        log: Last lines of what it printed, if there are any.
    """
    with contextlib.suppress(StoreAwayError):
        writer = start_run(store, spec, parent_id=parent_id, notes={})
        if log:
            writer.log_text(log, LOG)
        writer.end(outcome.status, outcome.reason)
