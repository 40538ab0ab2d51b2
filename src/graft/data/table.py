"""A table of images: CSV or Parquet with path, label and, if wanted, split, group and weight.

Rows are taken in the order of their paths, so the order in the file does not count. Class names are the
labels of the training rows, sorted.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graft.data.decode import decode_image
from graft.data.facts import FACTS
from graft.data.folder import SPLIT_NAMES, identify_files
from graft.data.image_set import TRAIN, ImageSet, Progress, UInt8Array
from graft.errors import GraftError, expected_one_of

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("path", "label", "split", "group", "weight")
_NEEDED = ("path", "label")


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


def open_table(table: Path, root: Path, cache_root: Path, progress: Progress | None = None) -> ImageSet:
    """Open the images that a table lists.

    Args:
        table: The table, ``.csv`` or ``.parquet``.
        root: Folder that relative paths start from, and that none may leave.
        cache_root: Folder for what is worth keeping: hashes of files.
        progress: Called with (done, total) while files are hashed for the first time.

    Raises:
        GraftError: The table has a fault; the message names the row and says which.
    """
    rows = read_rows(table, root)
    class_names = _find_class_names(rows)
    files = [root / row.item_id for row in rows]
    identities = identify_files(root, files, cache_root, progress)
    digest = hashlib.sha256(json.dumps(class_names).encode())
    for row, identity in zip(rows, identities, strict=True):
        digest.update(json.dumps([*astuple(row), identity["size"], identity["sha256"]]).encode())
    first, position = rows[0], {name: label for label, name in enumerate(class_names)}
    return ImageSet(
        name="table",
        class_names=class_names,
        labels=np.array([position[row.label] for row in rows], dtype=np.int64),
        official=None if first.split is None else np.array([row.split for row in rows], dtype=np.int8),
        item_ids=tuple(row.item_id for row in rows),
        digest=digest.hexdigest(),
        channels=1 if all(identity["gray"] for identity in identities) else 3,
        facts=FACTS["table"],
        read=partial(_read, tuple(files)),
        groups=None if first.group is None else np.array([row.group for row in rows]),
        weights=None if first.weight is None else np.array([row.weight for row in rows], dtype=np.float64),
    )


def read_rows(table: Path, root: Path) -> list[Row]:
    """Read and check the rows of a table, sorted by path.

    Raises:
        GraftError: The table cannot be read, lacks a column, or has a row that cannot be used.
    """
    frame = _read_frame(table)
    missing = [name for name in _NEEDED if name not in frame.columns]
    if missing:
        found = ", ".join(repr(str(name)) for name in frame.columns) or "none"
        raise GraftError(
            f"Expected {table} to have the columns path and label, but it lacks {' and '.join(missing)}. "
            f"It has: {found}."
        )
    if len(frame) == 0:
        raise GraftError(f"Expected {table} to list images, but it has no row.")
    columns = {name: _texts(frame[name]) for name in COLUMNS if name in frame.columns}
    # An optional column that is empty in every row is as good as none.
    columns = {name: texts for name, texts in columns.items() if name in _NEEDED or any(texts)}
    paths = _check_column(table, "path", columns["path"], partial(_check_path, root.resolve(), {}))
    labels = _check_column(table, "label", columns["label"], _check_label)
    readers: dict[str, Callable[[str], Any]] = {"split": _check_split, "group": str, "weight": _check_weight}
    optional = {
        name: _check_column(table, name, columns[name], check) if name in columns else [None] * len(paths)
        for name, check in readers.items()
    }
    if "group" in columns:  # an image without a group is a group of its own
        groups = optional["group"]
        optional["group"] = [group or f"\0{path}" for group, path in zip(groups, paths, strict=True)]
    _check_once(table, paths, labels)
    rows = [Row(*values) for values in zip(paths, labels, *optional.values(), strict=True)]
    if "weight" in columns and not any(row.weight for row in rows if row.split in (None, TRAIN)):
        raise GraftError(f"Expected a weight above 0 among the training images of {table}, but all are 0.")
    return sorted(rows, key=lambda row: row.item_id)


def _read_frame(table: Path) -> pd.DataFrame:
    import pandas as pd

    readers: dict[str, Callable[[Path], pd.DataFrame]] = {
        ".csv": lambda path: pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig"),
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


def _texts(column: pd.Series[Any]) -> list[str]:
    missing = column.isna().tolist()
    values = column.astype(object).tolist()
    return ["" if none else str(value).strip() for value, none in zip(values, missing, strict=True)]


def _check_column(table: Path, name: str, texts: Sequence[str], check: Callable[[str], Any]) -> list[Any]:
    """Return the checked values of a column, or name the first row that is wrong and count the others."""
    values, complaints = [], []
    for number, text in enumerate(texts, start=1):
        try:
            values.append(check(text))
        except ValueError as error:
            complaints.append(f"in row {number} of {table}, {error}")
    if complaints:
        more = f" And so in {len(complaints) - 1} other rows." if len(complaints) > 1 else ""
        raise GraftError(f"Expected the column {name!r} to hold {_EXPECTED[name]}, but {complaints[0]}{more}")
    return values


_EXPECTED = {
    "path": "images under the root",
    "label": "a class name in every row",
    "split": "train, val or test in every row",
    "weight": "numbers of at least 0",
}


def _check_path(root: Path, resolved: dict[Path, Path], text: str) -> str:
    """Return the path relative to the root, which it may not leave."""
    if not text:
        raise ValueError("the path is empty.")
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
        raise ValueError(f"it is {text!r}. Known are {', '.join(SPLIT_NAMES)}.")
    return split


def _check_weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"the weight is {text or 'empty'}. Give 1 for an image that counts like any other.")
    return weight


def _check_once(table: Path, paths: Sequence[str], labels: Sequence[str]) -> None:
    """Refuse a path that is listed twice: it would count twice, be contradictory, or leak."""
    seen: dict[str, int] = {}
    for number, (path, label) in enumerate(zip(paths, labels, strict=True), start=1):
        first = seen.setdefault(path, number)
        if first != number:
            other = labels[first - 1]
            contrary = f", once as {other!r} and once as {label!r}" if other != label else ""
            raise GraftError(
                f"Expected each image once in {table}, but rows {first} and {number} both list "
                f"{path!r}{contrary}. Remove one of them."
            )


def _find_class_names(rows: Iterable[Row]) -> tuple[str, ...]:
    rows = list(rows)
    names = tuple(sorted({row.label for row in rows if row.split in (None, TRAIN)}))
    if not names:
        raise GraftError("Expected training images in the table, but its column 'split' never says train.")
    if len(names) < 2:
        raise GraftError(f"Expected at least 2 classes among the training images, but got one: {names[0]!r}.")
    strange = sorted({row.label for row in rows} - set(names))
    if strange:
        hint = expected_one_of("label", strange[0], names)
        raise GraftError(f"{hint} The classes are those of the training rows; this one has none there.")
    return names


def _read(files: tuple[Path, ...], index: int) -> UInt8Array:
    return decode_image(files[index])
