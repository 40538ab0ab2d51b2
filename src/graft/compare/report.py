"""The report: compare the runs of an experiment, render the comparison, and write it down."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

from graft.compare.canvas import render_figure
from graft.compare.comparison import Comparison
from graft.compare.doubts import list_doubts, list_notes
from graft.compare.drawing import Drawing, format_table
from graft.compare.evidence import Evidence, format_sheet
from graft.compare.figures.section import draw_section
from graft.compare.latex import render_latex
from graft.compare.markdown import FigureFile, render_markdown
from graft.compare.origins import note_data_versions
from graft.compare.page import render_page
from graft.compare.ranking import name_section
from graft.compare.runs import format_runs
from graft.compare.section import build_sections
from graft.compare.select import Selection, SelectionName, select_trials
from graft.compare.statistics import MARGIN
from graft.compare.verdict import say_verdict
from graft.errors import GraftError
from graft.plan.arms import Arm
from graft.plan.replicates import Replicate
from graft.track.archive import Archive
from graft.track.record import RunRecord

#: What `comparison.json` holds.
_TOLD = (
    "experiment", "question", "metric", "selection", "margin", "test_looks", "doubts", "notes", "sections",
)  # fmt: skip

#: A report that needs nothing but the runs.
_NOTHING = Evidence()


def compare_records(
    records: Sequence[RunRecord],
    *,
    experiment: str,
    metric: str,
    question: str = "",
    margin: float = MARGIN,
    selection: SelectionName = "validation",
    archive: Archive | None = None,
) -> Comparison:
    """Compare the runs of an experiment: validation chooses the trials, test judges them against their twins.

    Args:
        records: Runs of any status.
        experiment: Name of the experiment.
        metric: Name of the metric, without a split.
        question: The question the experiment asks.
        margin: Difference to the twin that counts as none, in the unit of the metric.
        selection: What chooses the trials; an oracle looks at test.
        archive: Where predictions and histories of the runs are; None: nowhere.

    Raises:
        GraftError: When no run can be compared.
    """
    sections, doubts, notes = [], [], []
    selections = select_trials(records, metric, selection)
    compared = [one for one in selections if one.choices]
    built = build_sections(compared, metric, margin=margin, archive=archive)
    for one, section in zip(compared, built, strict=True):
        budgets = [
            replace(own, sentence=say_verdict(own, section.names, metric, margin)) for own in section.budgets
        ]
        section = replace(section, budgets=tuple(budgets))
        own = [record for record in records if record.condition == section.condition]
        opening = f"{name_section(section)}: " if len(compared) > 1 else ""
        doubts += [_capitalise(opening + doubt) for doubt in list_doubts(section, one, own, metric)]
        notes += [_capitalise(opening + note) for note in list_notes(section, own)]
        sections.append(section)
    if selection == "oracle":
        doubts.insert(
            0, "Test itself chose the trials (oracle): every number flatters. Leave out `--oracle`."
        )
    notes = _note_conditions(selections, records) + notes
    return Comparison(
        experiment,
        question,
        metric,
        tuple(sections),
        tuple(doubts),
        tuple(notes),
        tuple(records),
        selection=selection,
        margin=margin,
    )


def _note_conditions(selections: Sequence[Selection], records: Sequence[RunRecord]) -> list[str]:
    """Say which runs stand apart, and of which nothing can be compared."""
    notes = []
    compared = sum(bool(one.choices) for one in selections)
    if compared > 1:
        said = "Runs of different data, splits or training budgets are never compared with each other"
        notes = [f"{said}: the {compared} conditions found stand apart.", *note_data_versions(records)]
    for one in selections:
        if not one.choices:
            size = sum(record.condition == one.condition for record in records)
            where = f"{one.data} (condition {one.condition[:6]})"
            notes.append(f"{where}: none of {size} runs can be compared.")
    return notes


def write_report(comparison: Comparison, folder: Path, evidence: Evidence = _NOTHING) -> list[Path]:
    """Write the report and what it was made from; each file appears whole or not at all.

    Figures of an earlier report that this one does not have are deleted.

    Args:
        comparison: What to write.
        folder: Where to, created when missing.
        evidence: What of the store the report shows beside the numbers of the runs.

    Returns:
        The files: ``index.html`` and ``report.md`` first, then the tables and the figures.

    Raises:
        GraftError: When the folder cannot be written.
    """
    drawings: dict[str, list[Drawing]] = {}
    pictures: dict[Path, bytes] = {}
    vectors: dict[str, bytes] = {}
    for index, section in enumerate(comparison.sections):
        suffix = f"-{section.condition[:6]}" if index else ""
        own = draw_section(section, comparison.metric, comparison.records, evidence)
        drawings[section.condition] = own = [replace(one, name=f"{one.name}{suffix}") for one in own]
        for one in own:
            # Pixels first: finding the layout for them is also right for the other file.
            pictures[Path("figures") / f"{one.name}.png"] = render_figure(one.figure, "png")
            vectors[one.name] = render_figure(one.figure, "svg")
            pictures[Path("figures") / f"{one.name}.svg"] = vectors[one.name]
            pictures[Path("figures") / f"{one.name}.csv"] = format_table(one).encode()
        sheet = evidence.sheets.get(section.condition)
        if sheet is not None:
            pictures[Path("figures") / f"{sheet.name}.png"] = sheet.png
            pictures[Path("figures") / f"{sheet.name}.csv"] = format_sheet(sheet).encode()
    files = {
        Path("index.html"): render_page(comparison, drawings, vectors, evidence).encode(),
        Path("report.md"): render_markdown(comparison, _list_figures(drawings, evidence)).encode(),
        Path("runs.csv"): format_runs(comparison.records).encode(),
        Path("comparison.json"): format_json(comparison).encode(),
        Path("table.tex"): render_latex(comparison).encode(),
        **pictures,
    }
    for path, content in files.items():
        write_whole(folder / path, content)
    for stale in set((folder / "figures").iterdir()) - {folder / path for path in files}:
        stale.unlink(missing_ok=True)
    return [folder / path for path in files]


def _list_figures(
    drawings: Mapping[str, Sequence[Drawing]], evidence: Evidence
) -> dict[str, list[FigureFile]]:
    """Return the figures of each condition as Markdown shows them."""
    found = {}
    for condition, own in drawings.items():
        found[condition] = [FigureFile(f"{one.name}.png", one.caption) for one in own]
        if condition in evidence.sheets:
            sheet = evidence.sheets[condition]
            found[condition].append(FigureFile(f"{sheet.name}.png", sheet.caption))
    return found


def format_json(comparison: Comparison) -> str:
    """Return the comparison as JSON, without the runs; a number that is none is null."""
    values = {name: getattr(comparison, name) for name in _TOLD}
    return json.dumps(_plain(values), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _capitalise(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


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
