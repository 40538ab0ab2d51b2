"""What each verb does, once its configuration is known."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID

from graft.config.running import say_place
from graft.config.schema import Config
from graft.data.preprocessing import Preprocessing
from graft.progress import make_bar, show_progress

if TYPE_CHECKING:
    from graft.extract import Extraction
    from graft.track.record import RunRecord


def train(config: Config) -> None:
    """Execute one run, unless it is finished already, and print its result.

    Raises:
        RunFailedError: When the run failed.
    """
    from graft.plan.spec import specify
    from graft.run import decode_images, gather_facts
    from graft.sweep.worker import Job, execute_job
    from graft.track.reader import finished_runs, read_run
    from graft.track.store import open_store

    console = Console(soft_wrap=True)
    store = open_store(config.tracking.uri, Path(config.paths.root))
    with show_progress(console, "reading images") as progress:
        spec = specify(config, gather_facts(config, progress))
    run_id = finished_runs(store).get(spec.key)
    if run_id is None:
        with show_progress(console, "decoding images") as progress:
            decode_images(spec, progress)
        with show_progress(console, "training steps") as progress:
            execute_job(Job(spec), progress).require_finished()
        run_id = finished_runs(store).get(spec.key)
        if run_id is None:  # what the store did not take is kept on disk, and sent when it answers again
            console.print("The run is finished. Its record is sent when graft next reaches the store.")
            return
    else:
        console.print("This run is finished already; nothing was computed again.")
    _show_run(console, spec.config, read_run(store, run_id))
    console.print(
        f"Recorded as run {run_id} in {store.uri}. The dashboard: graft ui{say_place(config.paths.root)}"
    )


def _show_run(console: Console, config: Config, record: RunRecord) -> None:
    """Print what a run was and what came out."""
    from graft.compare.naming import name_budget

    labels = name_budget(record.labels)
    console.print(f"[bold]{record.arm.label}[/bold] on {record.data}, {labels}, {record.replicate.label}")
    notes = record.notes
    trained, total = int(notes["trained_parameters"]), int(notes["parameters"])
    console.print(
        f"  frozen: {notes['frozen_stages']}; {trained:,} of {total:,} parameters trained", highlight=False
    )
    console.print(
        f"  preprocessing: {Preprocessing.from_dict(json.loads(notes['preprocessing'])).summary}",
        highlight=False,
    )
    for note in filter(None, notes.get("notes", "").splitlines()):
        console.print(f"  {escape(note)}", highlight=False)
    if "preprocessing_override" in notes:
        console.print(f"  overridden: {escape(notes['preprocessing_override'])}", highlight=False)
    for name in (f"val/{config.metric}", f"test/{config.metric}", "train_seconds"):
        console.print(f"  {name:<20} {record.metrics[name]:.4g}")


def pretrain(config: Config) -> None:
    """Train a source model, unless it is there already, and write its weights bundle."""
    from graft.pretrain import make_bundle

    make_bundle(config, Console(soft_wrap=True))


def check(config: Config, as_json: bool) -> int:
    """Check a data set, write the page and the JSON, and return 1 when there are errors, else 0.

    Args:
        config: A valid configuration; what concerns training has no effect.
        as_json: Whether to print the findings as JSON instead of a table.
    """
    from graft.data.check import check_source
    from graft.data.check_report import render_summary, write_check
    from graft.data.findings import say_count
    from graft.inputs import find_preprocessing

    root = Path(config.paths.root).resolve()
    with make_bar(Console(stderr=True)) as bar:
        report = check_source(
            config.data, root / "cache", partial(find_preprocessing, config), partial(_listen, bar)
        )
    page = write_check(report, root / "reports" / f"check-{report.name}")
    if as_json:
        print(json.dumps([finding.to_dict() for finding in report.findings], indent=1))
        return int(report.has_errors)
    console = Console(soft_wrap=not sys.stdout.isatty())
    if report.findings:
        console.print(render_summary(report))
    counted = ", ".join(
        say_count(report.count(severity), word)
        for severity, word in (("error", "error"), ("warning", "warning"), ("info", "note"))
    )
    console.print(
        f"{len(report.items):,} images in {report.seconds:.1f} s: {counted}. The page: {escape(str(page))}",
        highlight=False,
    )
    return int(report.has_errors)


def _listen(bar: Progress, words: str) -> Callable[[int, int], None]:
    """Return what takes the news of a piece of work, and shows it from the first of them on."""
    tasks: list[TaskID] = []

    def advance(done: int, total: int) -> None:
        if not tasks:
            tasks.append(bar.add_task(words, total=total))
        bar.update(tasks[0], completed=done, total=total)

    return advance


def extract(config: Config, asked: Extraction) -> None:
    """Write the features of a data set after a stage of a backbone."""
    from graft.extract import write_extraction

    write_extraction(config, asked, Console(soft_wrap=True))
