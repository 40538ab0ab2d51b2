"""How sweeps stand, and which runs are not finished: the verb ``graft status``."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from graft.errors import GraftError, StoreAwayError, expected_one_of
from graft.track.database import Seen
from graft.track.outbox import list_unsent
from graft.track.overview import SweepState, look, read_plans, summarise

_STALE_SECONDS = 600.0
_OPTIONS = ("--json", "--reap", "--stale=<seconds>")
#: Columns of a sweep: the heading, and the states that it counts.
_COLUMNS = {
    "done": ("finished",),
    "running": ("running",),
    "failed": ("failed",),
    "diverged": ("diverged",),
    "killed": ("killed", "lost"),
    "pruned": ("pruned",),
    "waiting": ("waiting",),
}
#: Shown even where no sweep has such runs; other columns only where one has.
_ALWAYS = ("done", "running", "waiting")
_COLOURS = {"running": "green", "failed": "red", "diverged": "red", "killed": "yellow", "lost": "yellow"}


@dataclass(frozen=True)
class Asked:
    """What may stand before the places on the command line."""

    as_json: bool = False
    reap: bool = False
    stale: float = _STALE_SECONDS


def read_options(words: Sequence[str]) -> tuple[Asked, list[str]]:
    """Read the options out of ``words`` and return the rest.

    Raises:
        GraftError: For an option that is none.
    """
    rest, stale = [], _STALE_SECONDS
    for word in words:
        name, _, value = word.partition("=")
        if name == "--stale":
            if not value.isdigit():
                raise GraftError(f"Expected `--stale=<seconds>`, such as --stale=600, but got {word!r}.")
            stale = float(value)
        elif word.startswith("-") and word not in _OPTIONS:
            raise GraftError(expected_one_of("option", word, _OPTIONS))
        elif not word.startswith("-"):
            rest.append(word)
    return Asked("--json" in words, "--reap" in words, stale), rest


def show_status(experiment: str | None, asked: Asked, root: Path, uri: str | None) -> int:
    """Print how sweeps stand and which runs are not finished.

    Args:
        experiment: Its name, None for all.
        asked: Options.
        root: ``paths.root``.
        uri: ``tracking.uri``.

    Raises:
        GraftError: When there is no such store or experiment.
    """
    if not root.exists() and uri is None and "MLFLOW_TRACKING_URI" not in os.environ:
        raise GraftError(
            f"Expected runs under {str(root)!r}, but there is no such folder. Start with: graft train"
        )
    console = Console(stderr=asked.as_json, soft_wrap=True)
    if list_unsent(root.resolve()):
        _send(uri, root, console)
    if asked.reap:
        _reap(uri, root, asked.stale, console)
    seen = look(uri, root)
    names = sorted({run.experiment for run in seen})
    if experiment is not None and experiment not in names:
        raise GraftError(expected_one_of("experiment", experiment, names))
    sweeps, runs = summarise(seen, read_plans(seen, uri, root), experiment)
    unsent = list_unsent(root.resolve())
    if asked.as_json:
        print(json.dumps(_describe(sweeps, runs, unsent), indent=1))
        return 0
    _print(console, sweeps, runs)
    if not seen:
        console.print("Nothing is recorded here yet. Start with: graft train")
    if unsent:
        console.print(
            f"What {len(unsent)} runs recorded while their store was away still waits under "
            f"{escape(str(root / 'unsent'))}."
        )
    return 0


def _send(uri: str | None, root: Path, console: Console) -> None:
    """Send what waits; opening the store does it."""
    from graft.track.store import open_store

    try:
        open_store(uri, root)
    except StoreAwayError as error:
        console.print(str(error), highlight=False, markup=False)


def _reap(uri: str | None, root: Path, stale: float, console: Console) -> None:
    from graft.track.closing import close_dead_runs
    from graft.track.store import open_store

    closed = close_dead_runs(open_store(uri, root), stale)
    console.print(f"{closed} runs whose process is gone were closed as killed.", highlight=False)


def _print(console: Console, sweeps: Sequence[SweepState], runs: Sequence[Seen]) -> None:
    if sweeps:
        shown = {
            name: states
            for name, states in _COLUMNS.items()
            if name in _ALWAYS or any(sweep.counts[state] for sweep in sweeps for state in states)
        }
        table = Table("", "experiment", "sweep", *shown, title="Sweeps", title_justify="left")
        for number, sweep in enumerate(sweeps, start=1):
            counts = [str(sum(sweep.counts[state] for state in states)) for states in shown.values()]
            table.add_row(str(number), escape(sweep.seen.experiment), _colour(sweep.state), *counts)
        console.print(table)
        for number, sweep in enumerate(sweeps, start=1):  # too long for a column
            console.print(f"{number}: {escape(sweep.seen.tags.get('graft.command', ''))}", highlight=False)
    if runs:
        headings = ("state", "experiment", "run", "", "last seen", "reason")
        table = Table(*headings, title="Not finished", title_justify="left")
        for run in runs:
            seen = f"{say_age(run.heartbeat_age)}, {run.tags.get('graft.host', '')}"
            table.add_row(
                _colour(run.state),
                escape(run.experiment),
                run.run_id[:8],
                escape(run.tags.get("mlflow.runName", "")),
                escape(seen) if run.status == "RUNNING" else "",
                escape(next(iter(run.tags.get("graft.reason", "").splitlines()), "")),
            )
        console.print(table)
    elif sweeps and "running" not in {sweep.state for sweep in sweeps}:
        console.print("Every run that was begun is finished.")
    if "lost" in {run.state for run in runs} | {sweep.state for sweep in sweeps}:
        console.print("lost = its process is gone. The same command goes on; graft status --reap closes it.")


def _colour(state: str) -> str:
    colour = _COLOURS.get(state)
    return f"[{colour}]{state}[/{colour}]" if colour else state


def say_age(seconds: float | None) -> str:
    """Return how long ago something was.

    >>> [say_age(seconds) for seconds in (None, 5.0, 125.0, 7300.0)]
    ['never', '5 s ago', '2 min ago', '2 h ago']
    """
    if seconds is None:
        return "never"
    if seconds < 120:
        return f"{seconds:.0f} s ago"
    return f"{seconds / 60:.0f} min ago" if seconds < 7200 else f"{seconds / 3600:.0f} h ago"


def _describe(sweeps: Sequence[SweepState], runs: Sequence[Seen], unsent: Sequence[str]) -> dict[str, object]:
    return {
        "sweeps": [
            {
                "run_id": sweep.seen.run_id,
                "experiment": sweep.seen.experiment,
                "state": sweep.state,
                "command": sweep.seen.tags.get("graft.command", ""),
                **sweep.counts,
            }
            for sweep in sweeps
        ],
        "unfinished": [
            {
                "run_id": run.run_id,
                "run_key": run.tags.get("graft.run_key", ""),
                "experiment": run.experiment,
                "name": run.tags.get("mlflow.runName", ""),
                "state": run.state,
                "host": run.tags.get("graft.host", ""),
                "heartbeat_age_seconds": run.heartbeat_age,
                "reason": run.tags.get("graft.reason", ""),
            }
            for run in runs
        ],
        "unsent": list(unsent),
    }
