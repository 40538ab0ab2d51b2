"""The answer of an experiment: ranked arms, the verdict, its doubts, the report and its pictures."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from graft.config.running import say_place
from graft.errors import GraftError

if TYPE_CHECKING:
    from graft.compare.comparison import Comparison
    from graft.track.record import RunRecord
    from graft.track.store import Store


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
    draw_worst_errors(store, comparison, root, console)
    known = {record.run_id for record in records if "chosen" in record.notes}
    mark_chosen(store, set(comparison.chosen) - known)
    dropped = drop_weights(root, {record.run_key for record in records if _is_droppable(record, comparison)})
    if dropped:
        console.print(
            f"Weights of {dropped} runs that were not chosen are deleted (keep them: checkpoint.keep=all)."
        )
    console.print(f"The report: {written[0]}")
    console.print(f"The dashboard: graft ui{say_place(str(root))}")
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
    """Draw the confusion matrix of every chosen trial, summed over its replicates; none is drawn twice.

    Runs of different conditions are never summed: their classes and images are others.
    """
    from graft.compare.canvas import render_figure
    from graft.compare.confusion import draw_confusion
    from graft.compare.naming import name_budget
    from graft.compare.report import write_whole
    from graft.track.reader import sum_confusions

    by_id = {record.run_id: record for record in comparison.records}
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for section in comparison.sections:
        for run_id in section.chosen:
            key = (section.condition, by_id[run_id].arm.label, by_id[run_id].labels)
            grouped.setdefault(key, []).append(run_id)
    stale = set(folder.glob("confusion-*.png"))
    for (_, label, labels), run_ids in grouped.items():
        words = re.sub(r"[^a-z0-9]+", "-", f"{label} {labels}".lower()).strip("-")
        runs = hashlib.sha256("".join(sorted(run_ids)).encode()).hexdigest()[:6]
        path = folder / f"confusion-{words}-{runs}.png"
        if path in stale:
            stale.remove(path)
            continue
        names, counts = sum_confusions(store, run_ids)
        figure = draw_confusion(counts, names, f"{label}, {name_budget(labels)}")
        write_whole(path, render_figure(figure, "png"))
    for path in stale:
        path.unlink()


def draw_worst_errors(store: Store, comparison: Comparison, root: Path, console: Console) -> None:
    """Draw what the headline arm was surest of, and wrong, at the largest label budget of each condition."""
    from graft.compare.canvas import render_figure
    from graft.compare.naming import name_budget
    from graft.compare.report import write_whole
    from graft.compare.worst import draw_worst
    from graft.config.load import to_config
    from graft.inputs import open_run_images
    from graft.track.reader import read_worst_errors

    by_id = {record.run_id: record for record in comparison.records}
    folder = root / "reports" / comparison.experiment / "figures"
    for section in comparison.sections:
        budget = section.budgets[-1]
        headline = next((row for row in budget.rows if row.headline), None)
        runs = [by_id[run_id] for run_id in section.chosen]
        mine = [run for run in runs if headline and (run.arm, run.labels) == (headline.arm, budget.labels)]
        path = folder / f"worst-errors-{section.condition[:6]}-{mine[0].run_id[:6]}.png" if mine else None
        if path is None or path.exists():
            continue
        for stale in folder.glob(f"worst-errors-{section.condition[:6]}-*.png"):
            stale.unlink()
        try:
            plain, errors = read_worst_errors(store, mine[0].run_id)
            plain["paths"]["root"], plain["data"]["download"] = str(root), False
            images = open_run_images(to_config(plain))
            if images.digest != mine[0].notes["data_digest"]:
                raise GraftError("the images have changed since the run.")
        except GraftError as error:
            console.print(f"No picture sheet of the worst errors: {error}", highlight=False, markup=False)
            continue
        if errors:
            captions = [_say_error(error, images.class_names) for error in errors]
            title = f"Surest errors: {mine[0].arm.label}, {name_budget(budget.labels)}"
            figure = draw_worst([images.read(error["index"]) for error in errors], captions, title)
            write_whole(path, render_figure(figure, "png"))


def _say_error(error: Mapping[str, Any], class_names: Sequence[str]) -> str:
    true, predicted = class_names[error["true"]], class_names[error["predicted"]]
    return f"{true}, taken for {predicted} ({error['probability']:.2f})"
