"""Progress bars for long work on a terminal; silence where nobody watches."""

from __future__ import annotations

import contextlib
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
    """Show a bar that appears with the first news.

    Args:
        console: Where to.
        words: What is done.

    Yields:
        What takes the news: (done, total).
    """
    with make_bar(console) as bar:
        tasks: list[TaskID] = []

        def advance(done: int, total: int) -> None:
            if not tasks:
                tasks.append(bar.add_task(words, total=total))
            bar.update(tasks[0], completed=done, total=total)

        yield advance
