"""Test images of which training holds a copy or a near copy, as far as a check has looked for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from graft.data.cache import write_whole
from graft.data.image_set import ImageSet, Int64Array
from graft.data.near_duplicates import NEAR_VERSION
from graft.data.splits import Split


def keep_likenesses(digest: str, likenesses: Int64Array, cache_root: Path) -> None:
    """Keep what a check found of a set, so that runs on it know.

    Args:
        digest: Of the set.
        likenesses: Group of each image, ``(N,)``, those that show nearly the same picture.
        cache_root: Folder of the cache.
    """
    write_whole(_name_file(digest, cache_root), lambda file: np.save(file, likenesses))


def add_likenesses(images: ImageSet, cache_root: Path) -> ImageSet:
    """Return a set with what an earlier check found of it; the set as it is where nobody looked."""
    try:
        found = np.load(_name_file(images.digest, cache_root), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return images
    sound = found.shape == (len(images),) and found.dtype == np.int64
    return replace(images, likenesses=found) if sound else images


def find_copied(images: ImageSet, split: Split) -> Int64Array | None:
    """Return the test images of which training holds a copy or a near copy.

    Args:
        images: The set.
        split: Which of them train and test.

    Returns:
        Their positions in the set, ascending; None where nobody looked.
    """
    if images.likenesses is None:
        return None
    seen = np.isin(images.likenesses[split.test], images.likenesses[split.train])
    return np.sort(split.test[seen])


def _name_file(digest: str, cache_root: Path) -> Path:
    return cache_root / "check" / f"{digest[:32]}-{NEAR_VERSION}-likenesses.npy"
