"""Files of features: Parquet for tables, NPZ for arrays, written batch by batch, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from graft.data.image_set import Int64Array
from graft.errors import GraftError, expected_one_of
from graft.model.features import Float32Array

# Values that are gathered before a group of rows is written: 16 MB.
_GROUP_VALUES = 1 << 22


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """What a file says beside the features, in the order of the images.

    Attributes:
        item_ids: A name of each image; for a folder its path inside ``data.root``.
        labels: Class of each image, ``(N,)``.
        class_names: Names in the order of the labels.
        splits: ``train``, ``val``, ``test`` or ``unused`` for each image.
        about: Where the features come from: backbone, stage, weights, preprocessing.
    """

    item_ids: tuple[str, ...]
    labels: Int64Array
    class_names: tuple[str, ...]
    splits: tuple[str, ...]
    about: Mapping[str, Any]


def require_known_ending(path: Path) -> None:
    """Refuse a file of features that nothing here can write.

    Raises:
        GraftError: The ending is neither ``.parquet`` nor ``.npz``.
    """
    if path.suffix not in WRITERS:
        raise GraftError(f"{expected_one_of('the ending of `out`', path.suffix, WRITERS)} The file: {path}")


@contextlib.contextmanager
def open_beside(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of ``path`` when all went well, and vanishes when not.

    Raises:
        GraftError: The place cannot be written, or the disk is full.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise GraftError(
            f"Expected to write {path}, but got: {error.strerror or error}. "
            "Choose another place with `out=<file>`."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # where it could not be made, there is nothing to remove
            beside.unlink(missing_ok=True)


def write_features(
    file: IO[bytes], ending: str, table: FeatureTable, batches: Iterable[Float32Array]
) -> None:
    """Write features of as many images as ``table`` names.

    Args:
        file: Open for writing.
        ending: ``.parquet`` or ``.npz``.
        table: What goes beside them.
        batches: ``(n, ...)`` each, in the order of the table.
    """
    WRITERS[ending](file, table, batches)


def _write_parquet(file: IO[bytes], table: FeatureTable, batches: Iterable[Float32Array]) -> None:
    """Write a row per image: item_id, label, class_name, split, features.

    Features are flat; their shape is in the metadata, under the key ``graft``, as JSON.
    """
    writer: pq.ParquetWriter | None = None
    written = 0
    try:
        for group in _gather(batches):
            values = math.prod(group.shape[1:])
            if writer is None:
                about = {
                    **table.about,
                    "shape": list(group.shape[1:]),
                    "class_names": list(table.class_names),
                }
                schema = _schema(values).with_metadata({"graft": json.dumps(about)})
                writer = pq.ParquetWriter(file, schema, use_dictionary=["class_name", "split"])
            rows = slice(written, written + len(group))
            labels = table.labels[rows]
            columns = [
                pa.array(table.item_ids[rows]),
                pa.array(labels),
                pa.array([table.class_names[label] for label in labels]),
                pa.array(table.splits[rows]),
                pa.FixedSizeListArray.from_arrays(pa.array(group.reshape(-1)), values),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=writer.schema), row_group_size=len(group))
            written += len(group)
    finally:
        if writer is not None:
            writer.close()


def _schema(values: int) -> pa.Schema:
    kinds = {"item_id": pa.string(), "label": pa.int64(), "class_name": pa.string(), "split": pa.string()}
    return pa.schema({**kinds, "features": pa.list_(pa.float32(), values)})


def _gather(batches: Iterable[Float32Array]) -> Iterator[Float32Array]:
    """Join batches into groups that are large enough to be read fast and small enough to be held."""
    held: list[Float32Array] = []
    for batch in batches:
        held.append(batch)
        if sum(part.size for part in held) >= _GROUP_VALUES:
            yield np.concatenate(held)
            held = []
    if held:
        yield np.concatenate(held)


def _write_npz(file: IO[bytes], table: FeatureTable, batches: Iterable[Float32Array]) -> None:
    """Write arrays: features ``(N, ...)``, labels, item_ids, splits, class_names, and about (JSON)."""
    others = {
        "labels": table.labels,
        "item_ids": np.array(table.item_ids),
        "splits": np.array(table.splits),
        "class_names": np.array(table.class_names),
        "about": np.array(json.dumps(table.about)),
    }
    with zipfile.ZipFile(file, "w") as archive:
        with archive.open("features.npy", "w", force_zip64=True) as entry:
            for number, batch in enumerate(batches):
                if number == 0:
                    shape = (len(table.item_ids), *batch.shape[1:])
                    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(entry, header)
                entry.write(np.ascontiguousarray(batch, dtype="<f4").data)
        for name, array in others.items():
            with archive.open(f"{name}.npy", "w") as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


WRITERS: dict[str, Callable[[IO[bytes], FeatureTable, Iterable[Float32Array]], None]] = {
    ".parquet": _write_parquet,
    ".npz": _write_npz,
}
