"""What each verb does, once its configuration is known."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID

from graft.config.schema import Config
from graft.data.preprocessing import Preprocessing
from graft.errors import GraftError
from graft.progress import make_bar, show_progress

if TYPE_CHECKING:
    from graft.compare.comparison import Comparison
    from graft.extract import Extraction
    from graft.track.record import RunRecord
    from graft.track.store import Store


def train(config: Config) -> None:
    """Execute one run, unless it is finished already, and print its result.

    Raises:
        RunFailedError: When the run failed.
    """
    from graft.plan.spec import specify
    from graft.run import decode_images, gather_facts
    from graft.sweep.worker import describe_job, execute_job
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
            execute_job(describe_job(spec, None), progress).require_finished()
        run_id = finished_runs(store)[spec.key]
    else:
        console.print("This run is finished already; nothing was computed again.")
    _show_run(console, spec.config, read_run(store, run_id))
    console.print(
        f"Recorded as run {run_id} in {store.uri}. The dashboard: graft ui{_elsewhere(config.paths.root)}"
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


def _elsewhere(root: str) -> str:
    return "" if Path(root) == Path("runs") else f" paths.root={root}"


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
    from graft.run import find_preprocessing

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


def compare(experiment: str | None, root: Path, uri: str | None) -> int:
    """Rank the arms of an experiment, print the verdict and write the report."""
    from graft.compare.report import compare_records, render_table, write_report
    from graft.config.load import read_question
    from graft.track.reader import last_experiment, read_experiment
    from graft.track.results import drop_weights, mark_chosen
    from graft.track.store import open_store

    if not root.exists() and uri is None:
        raise GraftError(
            f"Expected runs under {str(root)!r}, but there is no such folder. Start with: graft train"
        )
    store = open_store(uri, root)
    name = experiment or last_experiment(store)
    records = read_experiment(store, name)
    metric = next((record.notes["metric"] for record in records if "metric" in record.notes), "accuracy")
    comparison = compare_records(records, experiment=name, metric=metric, question=read_question(name))
    console = Console()
    for table in render_table(comparison):
        console.print(table)
    _say(console, comparison)
    written = write_report(comparison, root / "reports" / name)
    draw_confusions(store, comparison, root / "reports" / name / "figures")
    known = {record.run_id for record in records if "chosen" in record.notes}
    mark_chosen(store, set(comparison.chosen) - known)
    dropped = drop_weights(root, {record.run_key for record in records if _is_droppable(record, comparison)})
    if dropped:
        console.print(
            f"Weights of {dropped} runs that were not chosen are deleted (keep them: checkpoint.keep=all)."
        )
    console.print(f"The report: {written[0]}")
    console.print(f"The dashboard: graft ui{_elsewhere(str(root))}")
    return 0


def _is_droppable(record: RunRecord, comparison: Comparison) -> bool:
    """Whether nobody needs the weights of a run: not this comparison, no other one, and not its user."""
    chosen = record.run_id in comparison.chosen or "chosen" in record.notes
    return not chosen and record.notes.get("keep") == "chosen" and record.status == "finished"


def _say(console: Console, comparison: Comparison) -> None:
    """Print the verdict of each label budget, then what speaks against believing it."""
    for section in comparison.sections:
        for budget in section.budgets:
            console.print(f"[bold]•[/bold] {escape(budget.sentence)}", highlight=False)
    for title, lines in (("Doubts", comparison.doubts), ("Notes", comparison.notes)):
        if lines:
            console.print(f"\n[bold]{title}[/bold]")
        for line in lines:
            console.print(f"  - {escape(line)}", highlight=False)


def draw_confusions(store: Store, comparison: Comparison, folder: Path) -> None:
    """Draw the confusion matrix of every chosen trial, summed over its replicates; none is drawn twice."""
    from graft.compare.canvas import render_figure
    from graft.compare.confusion import draw_confusion
    from graft.compare.naming import name_budget
    from graft.track.reader import sum_confusions

    by_id = {record.run_id: record for record in comparison.records}
    grouped: dict[tuple[str, str], list[str]] = {}
    for run_id in comparison.chosen:
        grouped.setdefault((by_id[run_id].arm.label, by_id[run_id].labels), []).append(run_id)
    stale = set(folder.glob("confusion-*.png"))
    for (label, labels), run_ids in grouped.items():
        words = re.sub(r"[^a-z0-9]+", "-", f"{label} {labels}".lower()).strip("-")
        runs = hashlib.sha256("".join(sorted(run_ids)).encode()).hexdigest()[:6]
        path = folder / f"confusion-{words}-{runs}.png"
        if path in stale:
            stale.remove(path)
            continue
        names, counts = sum_confusions(store, run_ids)
        path.write_bytes(
            render_figure(draw_confusion(counts, names, f"{label}, {name_budget(labels)}"), "png")
        )
    for path in stale:
        path.unlink()
