"""The report: compare the runs of an experiment, render the comparison, and write it down."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
from rich import box
from rich.table import Table
from rich.text import Text

from graft.compare.canvas import render_figure
from graft.compare.comparison import Comparison, Row, Section, build_section
from graft.compare.doubts import list_doubts, list_gaps, list_notes
from graft.compare.figures import draw_section
from graft.compare.naming import join_words, name_budget, write_gain, write_seconds, write_value
from graft.compare.replicates import count_replicates, name_replicate
from graft.compare.runs import format_runs
from graft.compare.select import select_trials
from graft.compare.verdict import say_verdict
from graft.config.names import METRICS
from graft.errors import GraftError
from graft.plan.arms import Arm
from graft.plan.replicates import Replicate
from graft.track.record import RunRecord

COLUMNS = (
    "arm",
    "test {metric}",
    "difference to the twin",
    "verdict",
    "val {metric}",
    "trials",
    "training",
    "chosen values",
)

_VERDICT_STYLES = {"helps": "bold green", "hurts": "bold red", "not established": "yellow"}


@dataclass(frozen=True)
class FigureFile:
    """A figure of the report: the name of its PNG under ``figures/``, and what it shows."""

    file: str
    caption: str


def compare_records(
    records: Sequence[RunRecord], *, experiment: str, metric: str, question: str = ""
) -> Comparison:
    """Compare the runs of an experiment: validation chooses the trials, test judges them against their twins.

    Args:
        records: Runs of any status.
        experiment: Name of the experiment.
        metric: Name of the metric, without a split.
        question: The question the experiment asks.

    Raises:
        GraftError: When no run can be compared.
    """
    sections, doubts, notes = [], [], []
    selections = select_trials(records, metric)
    compared = [selection for selection in selections if selection.choices]
    for selection in compared:
        section = build_section(selection, metric)
        budgets = [replace(one, sentence=say_verdict(one, section.names, metric)) for one in section.budgets]
        section = replace(section, budgets=tuple(budgets))
        own = [record for record in records if record.condition == section.condition]
        opening = f"{name_section(section)}: " if len(compared) > 1 else ""
        doubts += [_capitalise(opening + doubt) for doubt in list_doubts(section, selection)]
        notes += [_capitalise(opening + note) for note in list_notes(section, own)]
        sections.append(section)
    if len(compared) > 1:
        said = "Runs of different data, splits or training budgets are never compared with each other"
        notes.insert(0, f"{said}: the {len(compared)} conditions found stand apart.")
    for selection in selections:
        if not selection.choices:
            size = sum(record.condition == selection.condition for record in records)
            where = f"{selection.data} (condition {selection.condition[:6]})"
            notes.append(f"{where}: none of {size} runs can be compared.")
    return Comparison(
        experiment, question, metric, tuple(sections), tuple(doubts), tuple(notes), tuple(records)
    )


def name_section(section: Section) -> str:
    """Return what tells a section from the others for people."""
    return f"{section.data} (condition {section.condition[:6]})"


def render_markdown(comparison: Comparison, figures: Mapping[str, Sequence[FigureFile]] | None = None) -> str:
    """Return the report as Markdown.

    Args:
        comparison: What it says.
        figures: The figures of each condition, None for a report without any.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("graft.compare", "templates"),
        # Markdown is text, not HTML: escaping would print "&amp;" where an experiment is called "a & b".
        autoescape=False,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    views = [_view_section(section, comparison.metric, (figures or {})) for section in comparison.sections]
    families = join_words(str(section.family) for section in comparison.sections)
    in_points = METRICS[comparison.metric].unit == "fraction"
    unit = (
        "A point is 0.01 of the metric."
        if in_points
        else f"Differences are in {METRICS[comparison.metric].unit}."
    )
    folded = [_is_over_folds(section) for section in comparison.sections]
    template = environment.get_template("report.md.j2")
    return template.render(
        comparison=comparison,
        views=views,
        families=families,
        unit=unit,
        any_folds=any(folded),
        only_folds=all(folded),
    )


def render_table(comparison: Comparison) -> list[Table]:
    """Return the tables for a terminal, one per condition and label budget."""
    metric = comparison.metric
    tables = []
    for section in comparison.sections:
        for budget in section.budgets:
            title = name_budget(budget.labels)
            title = f"{name_section(section)}, {title}" if len(comparison.sections) > 1 else title
            table = Table(
                title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
            )
            in_points = METRICS[metric].unit == "fraction"
            table.add_column("arm", min_width=14)
            table.add_column(f"test {metric.replace('_', ' ')}", justify="right", no_wrap=True)
            table.add_column("points to twin" if in_points else "to twin", justify="right", no_wrap=True)
            table.add_column("verdict", min_width=11)
            table.add_column("train", justify="right", no_wrap=True)
            for row in budget.rows:
                arm, test, gain, verdict, _, _, seconds, _ = _write_row(row, metric)
                table.add_row(
                    Text(arm, style="bold" if row.headline else ""),
                    Text(test),
                    Text(gain.replace(" points", "") if in_points else gain),
                    Text(verdict, style=_VERDICT_STYLES.get(verdict, "")),
                    seconds,
                )
            tables.append(table)
    return tables


def write_report(comparison: Comparison, folder: Path) -> list[Path]:
    """Write the report and what it was made from; each file appears whole or not at all.

    Args:
        comparison: What to write.
        folder: Where to, created when missing.

    Returns:
        The files: ``report.md`` first, then ``runs.csv``, ``comparison.json`` and the figures.

    Raises:
        GraftError: When the folder cannot be written.
    """
    figures: dict[str, list[FigureFile]] = {}
    pictures: dict[Path, bytes] = {}
    for index, section in enumerate(comparison.sections):
        suffix = f"-{section.condition[:6]}" if index else ""
        figures[section.condition] = []
        for name, figure in draw_section(section, comparison.metric).items():
            figures[section.condition].append(FigureFile(f"{name}{suffix}.png", _caption(name, section)))
            for kind in ("png", "svg"):
                pictures[Path("figures") / f"{name}{suffix}.{kind}"] = render_figure(figure, kind)
    files = {
        Path("report.md"): render_markdown(comparison, figures).encode(),
        Path("runs.csv"): format_runs(comparison.records).encode(),
        Path("comparison.json"): format_json(comparison).encode(),
        **pictures,
    }
    for path, content in files.items():
        write_whole(folder / path, content)
    return [folder / path for path in files]


def format_json(comparison: Comparison) -> str:
    """Return the comparison as JSON, without the runs; a number that is none is null."""
    values = {
        name: getattr(comparison, name) for name in ("experiment", "question", "metric", "doubts", "notes")
    }
    values["sections"] = comparison.sections
    return json.dumps(_plain(values), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _view_section(
    section: Section, metric: str, figures: Mapping[str, Sequence[FigureFile]]
) -> dict[str, Any]:
    """Return what the template prints of a section."""
    tables = []
    for budget in section.budgets:
        total = budget.labels_train + budget.labels_val
        counted = (
            f" ({budget.labels_train:.0f} training + {budget.labels_val:.0f} validation = {total:.0f} labels)"
            if math.isfinite(total)
            else ""
        )
        replicates = count_replicates(budget.rows[0].replicates)
        rows = [[_escape(cell) for cell in _write_row(row, metric)] for row in budget.rows]
        for row, cells in zip(budget.rows, rows, strict=True):
            cells[0] = f"**{cells[0]}**" if row.headline else cells[0]
        title = f"{name_budget(budget.labels)}{counted}, {replicates}"
        tables.append({"title": title, "columns": _name_columns(metric), "rows": rows})
    return {
        "title": name_section(section),
        "sentences": [budget.sentence for budget in section.budgets],
        "figures": figures.get(section.condition, ()),
        "tables": tables,
        "gaps": list_gaps(section),
        "shared": section.shared,
    }


def _name_columns(metric: str) -> list[str]:
    return [column.format(metric=metric.replace("_", " ")) for column in COLUMNS]


def _write_row(row: Row, metric: str) -> list[str]:
    return [
        row.name,
        write_value(row.test),
        write_gain(row.to_twin.estimate, metric) if row.to_twin else "–",
        row.verdict or "–",
        f"{row.validation:.3f}",
        str(row.trials),
        write_seconds(row.train_seconds),
        row.tuned or "–",
    ]


def _caption(name: str, section: Section) -> str:
    measure, _, axis = name.partition("_by_")
    words = {"labels": f"{_name_labels(section)}, by arm", "arm": "arm", "depth": "freeze depth"}
    against = words.get(axis.partition("_")[0], axis)
    return f"{section.data}: test {measure.replace('_', ' ')} against {against}"


def _is_over_folds(section: Section) -> bool:
    """Whether intervals and verdicts are over folds: one fold alone is a test set as any other."""
    return any(name_replicate(row.replicates) == "fold" for budget in section.budgets for row in budget.rows)


def _name_labels(section: Section) -> str:
    """Return what label budgets are counted in."""
    return "labels per class" if section.axis.name.endswith("per class") else "labels"


def _capitalise(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _escape(cell: str) -> str:
    """Keep a cell from ending where its text has a bar."""
    return cell.replace("|", "\\|")


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; an arm and a replicate are their canonical text."""
    if isinstance(value, Arm | Replicate):
        return value.text
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {(key.text if isinstance(key, Arm) else key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_whole(path: Path, content: bytes) -> None:
    """Write a file of a report beside its place and rename it, so that nobody ever reads half of it.

    Raises:
        GraftError: When it cannot be written; what was there stays.
    """
    beside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        beside = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.chmod(0o644)
        beside.replace(path)
    except OSError as error:
        raise GraftError(
            f"Expected a folder to write the report to, but {path} cannot be written: "
            f"{error.strerror or error}. Runs are not harmed; the same command writes the report again."
        ) from error
    finally:
        if beside is not None:
            beside.unlink(missing_ok=True)
