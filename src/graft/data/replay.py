"""Replays the split of an old run from its ``split.json``: the same images, or an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from graft.data.image_set import Int64Array
from graft.data.splits import Split, hash_parts
from graft.errors import GraftError

_PARTS = ("train", "val", "test")


def describe_split(split: Split, data_digest: str) -> dict[str, Any]:
    """Return what ``split.json`` holds: the hash, the data set's digest and the indices."""
    parts = {name: getattr(split, name).tolist() for name in _PARTS}
    return {"sha256": split.digest, "data": data_digest, **parts}


def read_split(path: Path) -> tuple[Split, str]:
    """Read a split and the digest of the data set that it divides.

    Raises:
        GraftError: The file is missing, no split of graft's, or not as it was written.
    """
    advice = "Give the file split.json of a finished run (an artifact of it in MLflow)."
    try:
        found = json.loads(path.read_bytes())
        parts = {name: _read_indices(found[name]) for name in _PARTS}
        sha256, data = str(found["sha256"]), str(found["data"])
    except OSError as error:
        raise GraftError(
            f"Expected `data.split_file` to be a readable file, but got {path}: "
            f"{error.strerror or error}. {advice}"
        ) from error
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise GraftError(
            f"Expected `data.split_file` to hold sha256, data, train, val and test, but "
            f"{path} does not. {advice}"
        ) from error
    if hash_parts(parts["train"], parts["val"], parts["test"]) != sha256:
        raise GraftError(
            f"Expected the indices in {path} to have the sha256 that it names, but they have another: "
            f"the file was changed. {advice}"
        )
    return Split(**parts, digest=sha256), data


def replay_split(path: Path, labels: Int64Array, data_digest: str) -> Split:
    """Return the split in ``path`` for the data set that it was made for.

    Args:
        path: A file ``split.json``.
        labels: Class of each image, ``(N,)``.
        data_digest: Digest of the data set.

    Raises:
        GraftError: The file cannot be used, or it divides another data set.
    """
    split, data = read_split(path)
    if data != data_digest:
        raise GraftError(
            f"Expected `data.split_file` to divide this data set ({data_digest[:12]}), but {path} divides "
            f"another ({data[:12]}): images, labels or class names have changed since."
        )
    together = np.concatenate([split.train, split.val, split.test])
    whole = len(np.unique(together)) == len(together) and len(split.train) and len(split.val)
    if not whole or together.min() < 0 or together.max() >= len(labels):
        raise GraftError(
            f"Expected {path} to hold indices below {len(labels)}, each in one part only, and images "
            "to train and to validate, but it does not."
        )
    return split


def _read_indices(values: Any) -> Int64Array:
    found = np.asarray(values)
    if found.ndim != 1 or (len(found) and found.dtype.kind != "i"):
        raise ValueError("no list of indices")
    return found.astype(np.int64)
