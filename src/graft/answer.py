"""The answer of an experiment, the verb ``graft compare``: ranked arms, verdict, doubts and report."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from graft.config.running import say_place
from graft.errors import GraftError

if TYPE_CHECKING:
    from graft.compare.asked import Asked
    from graft.compare.comparison import Comparison
    from graft.compare.evidence import Evidence, Sheet
    from graft.track.archive import Archive
    from graft.track.record import RunRecord
    from graft.track.store import Store

#: Exit code when a verdict that was expected does not hold.
NOT_AS_EXPECTED = 3


def compare(names: Sequence[str], asked: Asked, root: Path, uri: str | None, register: bool = False) -> int:
    """Rank the arms of experiments, print the verdict and write the report.

    Args:
        names: Experiments or parent runs; none for the experiment that was run last.
        asked: The options.
        root: ``paths.root``.
        uri: ``tracking.uri``.
        register: Whether the chosen models go into the registry; they do, too, where a run asked for it and
            they can.

    Returns:
        The exit code: 3 when a verdict that was expected does not hold.

    Raises:
        GraftError: When there is nothing to compare, an expectation speaks of what there is not, or nothing
            can be registered.
    """
    from graft.compare.report import format_json, write_report
    from graft.compare.terminal import render_table
    from graft.publish import find_obstacle, register_models, settle
    from graft.track.archive import Archive
    from graft.track.reader import count_ahead, last_experiment
    from graft.track.results import mark_read
    from graft.track.store import open_store

    if not root.exists() and uri is None:
        raise GraftError(
            f"Expected runs under {str(root)!r}, but there is no such folder. Start with: graft train"
        )
    names = list(dict.fromkeys(names))
    if register and (obstacle := find_obstacle(names, asked)):
        raise GraftError(obstacle)
    store = open_store(uri, root)
    names = names or [last_experiment(store)]
    records = read_records(store, names)
    archive = Archive(store)
    comparison = add_agreement(compare_asked(records, names, asked, archive), root)
    ahead = sum(count_ahead(store, name, records) for name in names)
    comparison = doubt_unfinished(comparison, ahead, root)
    unmet = _list_unmet(comparison, asked)  # a slip in an expectation is told before anything is written
    # What is read by programs stands alone on stdout.
    console = Console(stderr=asked.as_json)
    for table in () if asked.as_json else render_table(comparison):
        console.print(table)
    if not asked.as_json:
        _say(console, comparison)
    folder = root / "reports" / name_report(names, asked)
    written = write_report(
        comparison, folder, collect_evidence(archive, comparison, names, asked, root, folder, console)
    )
    if asked.as_json:
        print(format_json(comparison), end="")
    if asked.is_usual:
        settle(store, comparison, names, root, folder, console, ahead=ahead)
    else:  # what the usual one reads is marked as chosen
        mark_read(store, comparison.newly_read)
    console.print(f"The report: {written[0]}", soft_wrap=True)
    console.print(f"The dashboard: graft ui{say_place(str(root))}", soft_wrap=True)
    for line in unmet:
        print(f"graft: {line}", file=sys.stderr)
    register_models(store, comparison, names, asked, root, console, typed=register)  # may fail: all is said
    return NOT_AS_EXPECTED if unmet else 0


def read_records(store: Store, names: Sequence[str]) -> list[RunRecord]:
    """Return the runs of several experiments or parent runs, each once."""
    from graft.track.reader import read_experiment

    found = {record.run_id: record for name in names for record in read_experiment(store, name)}
    return list(found.values())


def compare_asked(
    records: Sequence[RunRecord], names: Sequence[str], asked: Asked, archive: Archive
) -> Comparison:
    """Compare the runs that count, the way that was asked for.

    Raises:
        GraftError: When nothing can be compared, or runs were chosen by different metrics.
    """
    from graft.compare.report import compare_records
    from graft.compare.statistics import MARGIN
    from graft.config.load import read_question
    from graft.config.names import METRICS

    if asked.where is not None:
        records = asked.where.keep(records)
    metric = asked.metric or find_metric(records)
    unit = 100.0 if METRICS[metric].unit == "fraction" else 1.0
    titles = find_titles(archive.store, names)
    return compare_records(
        records,
        experiment=" + ".join(titles),
        metric=metric,
        question=" ".join(filter(None, map(read_question, titles))),
        margin=MARGIN if asked.margin is None else asked.margin / unit,
        selection="oracle" if asked.oracle else "validation",
        archive=archive,
    )


def add_agreement(comparison: Comparison, root: Path) -> Comparison:
    """Note how well rankings of `graft rank` that are on record agreed with what came out."""
    from graft.compare.agreement import describe_agreement

    lines = list[str]()
    for digest in sorted({record.notes.get("data_digest", "") for record in comparison.records}):
        with contextlib.suppress(OSError, ValueError):  # nobody ranked these images
            ranking = json.loads((root / "reports" / "rank" / f"{digest}.json").read_text())
            lines += describe_agreement(ranking, comparison)
    return replace(comparison, notes=(*comparison.notes, *lines))


def doubt_unfinished(comparison: Comparison, ahead: int, root: Path) -> Comparison:
    """Put first, before other doubts, that planned runs have not ended: those others know nothing of them."""
    if not ahead:
        return comparison
    runs = "1 planned run has" if ahead == 1 else f"{ahead} planned runs have"
    doubt = (
        f"A preliminary look: {runs} not ended, and what is said of missing runs, seeds and twins leaves them"
        f" out. `graft status{say_place(str(root))}` shows them; compare again when they are done, unless"
        " they were given up."
    )
    return replace(comparison, doubts=(doubt, *comparison.doubts))


def find_titles(store: Store, names: Sequence[str]) -> list[str]:
    """Return the names of experiments, where a parent run was asked for that of its experiment; each once."""
    from graft.track.reader import find_parents, name_experiments

    by_id = name_experiments(store)
    known = set(by_id.values())
    titles = [
        title
        for name in names
        for title in (
            [name] if name in known else [by_id[run.info.experiment_id] for run in find_parents(store, name)]
        )
    ]
    return list(dict.fromkeys(titles))


def find_metric(records: Sequence[RunRecord]) -> str:
    """Return the metric that runs were chosen by while they trained.

    Raises:
        GraftError: When they differ.
    """
    found = sorted({record.notes["metric"] for record in records if "metric" in record.notes})
    if len(found) > 1:
        raise GraftError(
            f"Expected runs of one metric, but they have {len(found)}: {', '.join(found)}. Say which one to"
            f" compare by: --metric {found[0]}"
        )
    return found[0] if found else "accuracy"


def name_report(names: Sequence[str], asked: Asked) -> str:
    """Return the folder of a report; one that is not the usual comparison has its own."""
    parts = ["+".join(names)]
    if asked.where is not None:
        words = re.sub(r"[^a-z0-9]+", "-", asked.where.text.lower()).strip("-")[:60]
        parts.append(f"{words}-{hashlib.sha256(asked.where.text.encode()).hexdigest()[:6]}")
    parts += [asked.metric] if asked.metric else []
    parts += [f"margin-{asked.margin:g}"] if asked.margin is not None else []
    parts += ["oracle"] if asked.oracle else []
    return "--".join(parts)


def collect_evidence(
    archive: Archive,
    comparison: Comparison,
    names: Sequence[str],
    asked: Asked,
    root: Path,
    folder: Path,
    console: Console,
) -> Evidence:
    """Read what the report shows beyond the numbers of the runs.

    The worst errors of an earlier report in ``folder`` are not drawn again: opening the images takes long.
    """
    from graft.compare.evidence import find_winner, gather_evidence, read_sheet
    from graft.compare.naming import name_budget
    from graft.track.parents import read_parents

    store, evidence = archive.store, gather_evidence(comparison, archive)
    parents = [parent for name in names for parent in read_parents(store, name)]
    commands = [parent.command for parent in parents if parent.command]
    commands.append(" ".join(["graft compare", *names, *asked.words]))
    sheets = {}
    for section in comparison.sections:
        run = find_winner(section, comparison)
        if run is None:
            continue
        name = f"worst_errors-{run.run_id[:12]}"
        caption = f"{run.data}: surest errors, {run.arm.label}, {name_budget(run.labels)}"
        sheet = read_sheet(folder, name, caption) or draw_sheet(store, run, name, caption, root, console)
        if sheet is not None:
            sheets[section.condition] = sheet
    return replace(evidence, sheets=sheets, commands=tuple(dict.fromkeys(commands)))


def draw_sheet(
    store: Store, run: RunRecord, name: str, caption: str, root: Path, console: Console
) -> Sheet | None:
    """Draw what a run was surest of, and wrong.

    Returns:
        The sheet; None where there is no error, or the images are not there any more.
    """
    from graft.compare.canvas import render_figure
    from graft.compare.evidence import Sheet
    from graft.compare.figures.worst import draw_worst
    from graft.config.load import to_config
    from graft.inputs import open_run_images
    from graft.track.reader import read_worst_errors

    try:
        plain, errors = read_worst_errors(store, run.run_id)
        plain["paths"]["root"], plain["data"]["download"] = str(root), False
        images = open_run_images(to_config(plain))
        if images.digest != run.notes["data_digest"]:
            raise GraftError("the images have changed since the run.")
    except GraftError as error:
        console.print(f"No picture sheet of the worst errors: {error}", highlight=False, markup=False)
        return None
    if not errors:
        return None
    captions = tuple(_say_error(error, images.class_names) for error in errors)
    figure = draw_worst([images.read(error["index"]) for error in errors], captions, caption)
    return Sheet(name, caption, captions, render_figure(figure, "png"))


def _say_error(error: Mapping[str, Any], class_names: Sequence[str]) -> str:
    true, predicted = class_names[error["true"]], class_names[error["predicted"]]
    return f"{true}, taken for {predicted} ({error['probability']:.2f})"


def _say(console: Console, comparison: Comparison) -> None:
    """Print the verdict of each label budget, then what speaks against believing it."""
    from graft.compare.reading import ORACLE

    if comparison.selection == "oracle":
        console.print(f"[bold red]{ORACLE}[/bold red]")
    for section in comparison.sections:
        for budget in section.budgets:
            console.print(f"[bold]•[/bold] {escape(budget.sentence)}", highlight=False)
    for title, lines in (("Doubts", comparison.doubts), ("Notes", comparison.notes)):
        if lines:
            console.print(f"\n[bold]{title}[/bold]")
        for line in lines:
            console.print(f"  - {escape(line)}", highlight=False)


def _list_unmet(comparison: Comparison, asked: Asked) -> list[str]:
    """Say which expected verdicts do not hold."""
    from graft.compare.expect import list_failures

    return [
        f"expected {expectation.text!r}, but got {failure}"
        for expectation in asked.expects
        for failure in list_failures(comparison, expectation)
    ]
