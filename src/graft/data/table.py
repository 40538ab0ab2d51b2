"""A table of images: CSV or Parquet with path, label and, if wanted, split, group and weight.

Rows are taken in the order of their paths, so the order in the file does not count. Class names are the
labels of the training rows, sorted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Set
from dataclasses import astuple
from pathlib import Path

import numpy as np

from graft.data.decode import FileReader
from graft.data.facts import FACTS
from graft.data.findings import list_findings
from graft.data.folder import identify_files
from graft.data.image_set import NO_SPLIT, TRAIN, ImageSet, Progress
from graft.data.table_rows import Sheet, read_sheet
from graft.errors import GraftError, expected_one_of


def open_table(
    table: Path,
    root: Path,
    cache_root: Path,
    progress: Progress | None = None,
    without: Set[str] = frozenset(),
) -> ImageSet:
    """Open the images that a table lists.

    Args:
        table: The table, ``.csv`` or ``.parquet``.
        root: Folder that relative paths start from, and that none may leave.
        cache_root: Folder for what is worth keeping: hashes of files.
        progress: Called with (done, total) while files are hashed for the first time.
        without: Images and rows to leave out, by the names that findings give them. The set is that of the
            table after their rows were deleted.

    Raises:
        GraftError: The table has faults; the message lists the rows.
    """
    sheet = read_sheet(table, root)
    stopping = [
        finding for finding in sheet.findings if not finding.leave_out or set(finding.leave_out) - without
    ]
    if stopping:
        raise GraftError(f"Expected {table} to have no faults, but found {list_findings(stopping)}")
    class_names = _find_class_names(sheet)
    rows = [row for row in sheet.rows if row.item_id not in without]
    if not rows:
        raise GraftError(f"Expected {table} to list images, but all of its rows are left out.")
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
        read=FileReader(tuple(files)),
        groups=None if first.group is None else np.array([row.group for row in rows]),
        weights=None if first.weight is None else np.array([row.weight for row in rows], dtype=np.float64),
    )


def _find_class_names(sheet: Sheet) -> tuple[str, ...]:
    names = sheet.classes.get(TRAIN, sheet.classes.get(NO_SPLIT, ()))
    if len(names) < 2:
        found = f"one: {names[0]!r}" if names else "none"
        raise GraftError(f"Expected at least 2 classes among the training images, but got {found}.")
    strange = sorted({row.label for row in sheet.rows} - set(names))
    if strange:
        hint = expected_one_of("label", strange[0], names)
        raise GraftError(f"{hint} The classes are those of the training rows; this one has none there.")
    return names
