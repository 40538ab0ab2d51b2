"""Progress of long work: a bar on a terminal, and now and then a line where the output is kept."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

#: Between two lines of a log.
_SECONDS_BETWEEN_LINES = 60.0


def make_bar(console: Console) -> Progress:
    """Return a bar with counts, the time it took and an estimate of the time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("elapsed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


@contextlib.contextmanager
def show_progress(console: Console, words: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar that appears with the first news; where there is no terminal, a line a minute.

    Args:
        console: Where to.
        words: What is done.

    Yields:
        What takes the news: (done, total).
    """
    began = last = time.monotonic()
    with make_bar(console) as bar:
        tasks: list[TaskID] = []

        def advance(done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            if bar.disable and now - last >= _SECONDS_BETWEEN_LINES:
                last = now
                console.print(f"{words}: {done:,} of {total:,} after {now - began:.0f} s", highlight=False)
            if not tasks:
                tasks.append(bar.add_task(words, total=total))
            bar.update(tasks[0], completed=done, total=total)

        yield advance
