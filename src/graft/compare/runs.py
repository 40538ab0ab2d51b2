"""Runs as a table of text: everything that the report and its figures were made from."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from graft.errors import GraftError
from graft.plan.arms import Arm
from graft.plan.replicates import Replicate
from graft.track.record import RunRecord

_COLUMNS = (
    "run_id",
    "run_key",
    "status",
    "data",
    "condition",
    "labels",
    "arm",
    "trial",
    "seed",
    "experiment",
)

#: Columns that tables from before there were folds do not have.
_FOLD_COLUMNS = ("replicate", "folds")


def format_runs(records: Sequence[RunRecord]) -> str:
    """Return runs as CSV; numbers are written so that they are read back the same.

    An empty cell means that the run has no such metric or note.
    """
    metrics = sorted({key for record in records for key in record.metrics})
    notes = sorted({key for record in records for key in record.notes})
    rows = [
        [
            *_COLUMNS,
            *_FOLD_COLUMNS,
            *(f"metrics.{key}" for key in metrics),
            *(f"notes.{key}" for key in notes),
        ]
    ]
    for record in records:
        cells = [record.arm.text if name == "arm" else str(getattr(record, name)) for name in _COLUMNS]
        cells += [record.replicate.text, "" if record.folds is None else str(record.folds)]
        cells += [repr(float(record.metrics[key])) if key in record.metrics else "" for key in metrics]
        rows.append(cells + [record.notes.get(key, "") for key in notes])
    # The csv module leaves a carriage return unquoted, and then reads it as the end of a line.
    has_return = any("\r" in cell for row in rows for cell in row)
    table = io.StringIO(newline="")
    csv.writer(
        table, lineterminator="\n", quoting=csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL
    ).writerows(rows)
    return table.getvalue()


def read_runs(path: Path) -> list[RunRecord]:
    """Read runs from a CSV that `format_runs` wrote.

    Raises:
        GraftError: When the file is missing or not such a table.
    """
    if not path.is_file():
        raise GraftError(f"Expected a table of runs at {path}, but there is no such file.")
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        absent = [name for name in _COLUMNS if name not in (rows.fieldnames or ())]
        if absent:
            raise GraftError(
                f"Expected a table of runs at {path}, but it lacks the columns: {', '.join(absent)}."
            )
        try:
            return [_read_run(row) for row in rows]
        except (ValueError, TypeError, AttributeError) as error:
            raise GraftError(
                f"Expected a table of runs at {path}, but line {rows.line_num} says: {error}."
            ) from error


def _read_run(row: dict[str, str]) -> RunRecord:
    return RunRecord(
        run_id=row["run_id"],
        run_key=row["run_key"],
        status=row["status"],
        arm=Arm.parse(row["arm"]),
        trial=row["trial"],
        condition=row["condition"],
        labels=row["labels"],
        replicate=Replicate.parse(row.get("replicate") or f"seed={row['seed']}"),
        data=row["data"],
        experiment=row["experiment"],
        metrics={
            key.partition(".")[2]: float(cell)
            for key, cell in row.items()
            if key.startswith("metrics.") and cell
        },
        notes={key.partition(".")[2]: cell for key, cell in row.items() if key.startswith("notes.") and cell},
        folds=int(row["folds"]) if row.get("folds") else None,
    )
