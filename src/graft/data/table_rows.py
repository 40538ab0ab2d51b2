"""The rows of a table, each checked by itself: those that can be used, and what is wrong with the others.

Rows are numbered as a spreadsheet shows them: the header is row 1.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.data.findings import SPLIT_WORDS, Finding, find
from graft.data.folder import SPLIT_NAMES
from graft.data.image_set import NO_SPLIT, TRAIN
from graft.errors import GraftError, expected_one_of

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("path", "label", "split", "group", "weight")
_NEEDED = ("path", "label")
_FIRST_ROW = 2
_ALONE = "\0"
"""Begins the group of an image that the table gives none: no text of a table begins so."""


@dataclass(frozen=True)
class Row:
    """One image of a table, checked.

    Attributes:
        item_id: Its path, relative to the root.
        label: Name of its class.
        split: Mark of its split, or ``None`` where the table has no splits.
        group: Name of its group, or ``None`` where the table has no groups.
        weight: Its weight, or ``None`` where the table has no weights.
    """

    item_id: str
    label: str
    split: int | None
    group: str | None
    weight: float | None


@dataclass(frozen=True)
class Sheet:
    """What a table says.

    Attributes:
        rows: The rows that can be used, sorted by path, each image once.
        classes: Labels of each split, those of rows that cannot be used included.
        findings: What is wrong. ``leave_out`` names rows that are not among ``rows``, as "row 7 (a.png)", or
            images that are.
    """

    rows: tuple[Row, ...]
    classes: dict[int, tuple[str, ...]]
    findings: tuple[Finding, ...]


def read_sheet(table: Path, root: Path) -> Sheet:
    """Read and check the rows of a table, and collect all that is wrong with them.

    Args:
        table: The table, ``.csv`` or ``.parquet``.
        root: Folder that relative paths start from, and that none may leave.

    Raises:
        GraftError: The table cannot be read, lacks a column, or has no row.
    """
    columns, numbers = _read_columns(table)
    checks = _CHECKS | {"path": partial(_check_path, root.resolve(), {})}
    findings: list[Finding] = []
    numbered: dict[int, Row] = {}
    classes: dict[int, set[str]] = {}
    for number, texts in zip(numbers, zip(*columns.values(), strict=True), strict=True):
        cells = dict(zip(columns, texts, strict=True))
        values, complaints = _check_cells(cells, checks)
        if "label" in values and ("split" in values or "split" not in cells):
            classes.setdefault(values.get("split", NO_SPLIT), set()).add(values["label"])
        if complaints:
            name = _name_row(number, cells["path"])
            words = f"Row {number}: {' '.join(complaints)}"
            findings.append(find("bad_row", words, filter(None, [cells["path"]]), leave_out=[name]))
            continue
        if "group" in values and not values["group"]:
            values["group"] = _ALONE + values["path"]
        numbered[number] = Row(
            values["path"], values["label"], values.get("split"), values.get("group"), values.get("weight")
        )
    findings += _find_repeated(numbered)
    rows = sorted(_keep_once(numbered), key=lambda row: row.item_id)
    findings += [*_find_divided_groups(rows), *_check_training(rows, classes)]
    return Sheet(
        tuple(rows), {split: tuple(sorted(classes[split])) for split in sorted(classes)}, tuple(findings)
    )


def _read_columns(table: Path) -> tuple[dict[str, list[str]], list[int]]:
    """Return the known columns as text, and the numbers of their rows; blank lines have gone."""
    frame = _read_frame(table)
    missing = [name for name in _NEEDED if name not in frame.columns]
    if missing:
        found = ", ".join(repr(str(name)) for name in frame.columns) or "none"
        raise GraftError(
            f"Expected {table} to have the columns path and label, but it lacks {' and '.join(missing)}. "
            f"It has: {found}. Rename or add columns; docs/data.md says what each holds."
        )
    everything = [_read_texts(frame.iloc[:, index]) for index in range(frame.shape[1])]
    written = [index for index, texts in enumerate(zip(*everything, strict=True)) if any(texts)]
    if not written:
        raise GraftError(f"Expected {table} to list images, but it has no row below its header.")
    texts = {str(name): column for name, column in zip(frame.columns, everything, strict=True)}
    columns = {name: [texts[name][index] for index in written] for name in COLUMNS if name in texts}
    # An optional column that is empty in every row is as good as none.
    columns = {name: column for name, column in columns.items() if name in _NEEDED or any(column)}
    return columns, [index + _FIRST_ROW for index in written]


def _read_frame(table: Path) -> pd.DataFrame:
    import pandas as pd

    readers: dict[str, Callable[[Path], pd.DataFrame]] = {
        # Blank lines are read, so that the rows after them keep their numbers.
        ".csv": lambda path: pd.read_csv(
            path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skip_blank_lines=False
        ),
        ".parquet": lambda path: pd.read_parquet(path),
    }
    reader = readers.get(table.suffix.lower())
    if reader is None:
        raise GraftError(expected_one_of("the ending of data.table", table.suffix, readers))
    try:
        return reader(table)
    except pd.errors.EmptyDataError as error:
        raise GraftError(f"Expected {table} to list images, but it is empty.") from error
    except (OSError, ValueError) as error:  # pandas' and Arrow's own errors are ValueErrors
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
        raise GraftError(
            f"Expected `data.table` to be a readable table, but got {table}: {reason}."
        ) from error


def _read_texts(column: pd.Series[Any]) -> list[str]:
    missing = column.isna().tolist()
    values = column.astype(object).tolist()
    return ["" if none else str(value).strip() for value, none in zip(values, missing, strict=True)]


def _check_cells(
    cells: Mapping[str, str], checks: Mapping[str, Callable[[str], Any]]
) -> tuple[dict[str, Any], list[str]]:
    """Return the values of the cells that can be used, and the complaints about the others."""
    values: dict[str, Any] = {}
    complaints = []
    for name, text in cells.items():
        try:
            values[name] = checks[name](text)
        except ValueError as error:
            complaints.append(str(error))
    return values, complaints


def _check_path(root: Path, resolved: dict[Path, Path], text: str) -> str:
    """Return the path relative to the root, which it may not leave."""
    if not text:
        raise ValueError("the path is empty. Fill it in, or remove the row.")
    place = Path(os.path.normpath(root / text))
    if not place.is_relative_to(root):
        raise ValueError(f"{text!r} leads out of {root}. Move the image there, or give another `data.root`.")
    if place.parent not in resolved:
        resolved[place.parent] = place.parent.resolve()
    real = place.resolve() if place.is_symlink() else resolved[place.parent] / place.name
    if not real.is_relative_to(root):
        raise ValueError(f"{text!r} is a link that leads out of {root}, to {real}. Copy the image instead.")
    if not place.is_file():
        found = "is a folder" if place.is_dir() else "does not exist"
        raise ValueError(f"{text!r} {found} under {root}. Correct the path, or give another `data.root`.")
    return place.relative_to(root).as_posix()


def _check_label(text: str) -> str:
    if not text:
        raise ValueError("the label is empty. Fill it in, or remove the row.")
    return text


def _check_split(text: str) -> int:
    split = SPLIT_NAMES.get(text.lower())
    if split is None:
        raise ValueError(
            f"the split is {repr(text) if text else 'empty'}. Known are {', '.join(SPLIT_NAMES)}; a column "
            "that is empty in every row lets graft divide."
        )
    return split


def _check_weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(
            f"the weight is {text or 'empty'}. Give a number of at least 0, 1 for an image that counts like "
            "any other."
        )
    return weight


_CHECKS: dict[str, Callable[[str], Any]] = {
    "label": _check_label,
    "split": _check_split,
    "group": str,
    "weight": _check_weight,
}


def _name_row(number: int, path: str) -> str:
    return f"row {number} ({path})" if path else f"row {number}"


def _by_image(numbered: Mapping[int, Row]) -> Iterable[list[int]]:
    """Return the numbers of the rows of each image."""
    numbers: dict[str, list[int]] = {}
    for number, row in numbered.items():
        numbers.setdefault(row.item_id, []).append(number)
    return numbers.values()


def _find_repeated(numbered: Mapping[int, Row]) -> Iterator[Finding]:
    """Report images that are listed more than once: they would count twice, contradict, or leak."""
    for numbers in _by_image(numbered):
        if len(numbers) == 1:
            continue
        rows = [numbered[number] for number in numbers]
        labels = list(dict.fromkeys(repr(row.label) for row in rows))
        splits = list(dict.fromkeys(SPLIT_WORDS[row.split] for row in rows if row.split is not None))
        contrary = "".join(
            f", {word} {' and '.join(found)}"
            for word, found in (("as", labels), ("in", splits))
            if len(found) > 1
        )
        words = f"Rows {' and '.join(map(str, numbers))} list the image {rows[0].item_id!r}{contrary}."
        superfluous = numbers[1:] if len(set(rows)) == 1 else numbers
        out = [_name_row(number, rows[0].item_id) for number in superfluous]
        yield find("repeated_row", words, [rows[0].item_id], leave_out=out)


def _keep_once(numbered: Mapping[int, Row]) -> Iterator[Row]:
    """Return one row of each image, and none where its rows do not say the same."""
    for numbers in _by_image(numbered):
        rows = {numbered[number] for number in numbers}
        if len(rows) == 1:
            yield from rows


def _find_divided_groups(rows: Sequence[Row]) -> Iterator[Finding]:
    """Report groups that official splits divide: that is a leak."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.split is not None and row.group is not None:
            groups.setdefault(row.group, []).append(row)
    for group, members in groups.items():
        firsts = {row.split: row for row in reversed(members)}
        if len(firsts) > 1:
            ordered = sorted((split, row.item_id) for split, row in firsts.items() if split is not None)
            listed = " and ".join(f"{name} ({SPLIT_WORDS[split]})" for split, name in ordered)
            words = f"Group {group!r} is in {len(firsts)} splits: {listed}."
            last = ordered[-1][0]
            out = [row.item_id for row in members if row.split != last]
            yield find("divided_group", words, (row.item_id for row in members), leave_out=out)


def _check_training(rows: Sequence[Row], classes: Mapping[int, set[str]]) -> Iterator[Finding]:
    """Report a table that has nothing to train on."""
    if classes and TRAIN not in classes and NO_SPLIT not in classes:
        yield find("no_training", "The column split never says train.")
    training = [row for row in rows if row.split in (None, TRAIN)]
    if training and all(row.weight == 0 for row in training):
        yield find("zero_weights", "The weight of every training image is 0.")
