"""A set of labelled images as one value, whatever its source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

UInt8Array = npt.NDArray[np.uint8]
Int64Array = npt.NDArray[np.int64]
Int8Array = npt.NDArray[np.int8]
Progress = Callable[[int, int], None]
"""Called now and then with (done, total)."""

NO_SPLIT, TRAIN, VAL, TEST = -1, 0, 1, 2
"""What `ImageSet.official` says of an image; one marked -1 is in no split."""


@dataclass(frozen=True)
class SourceFacts:
    """Where images come from, for the record and the report.

    Attributes:
        license: Terms of use, in words.
        citation: Whom to thank.
        description: What is to be seen.
        classes: Number of classes, or ``None`` where the user's own images decide.
        split_sizes: Images of each official split; ``all`` where there is none; empty where it is open.
        image_size: Height and width in words, empty where it is open.
    """

    license: str
    citation: str
    description: str
    classes: int | None = None
    split_sizes: Mapping[str, int] = field(default_factory=dict)
    image_size: str = ""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images that can be read one by one.

    Attributes:
        name: The source's name in the catalog.
        class_names: Names in the order of the labels, the same for all splits.
        labels: Index of the class of each image, ``(N,)``.
        official: The source's own split of each image, ``(N,)``, or ``None`` where it has none.
        item_ids: A name of each image that stays the same on every machine.
        digest: sha256 over content, labels and class names; a folder's place is not in it.
        channels: 1 when every image is gray, else 3.
        facts: License, citation and description.
        read: Decodes image ``index``: uint8, ``(H, W, 1)`` or ``(H, W, 3)``.
        groups: Group of each image, ``(N,)``, which no split divides, or ``None``; in the digest.
        weights: How much each image counts in training, ``(N,)``, or ``None``; in the digest.
        notes: What the record of a run should say of the source.
        likenesses: Group of each image, ``(N,)``, those that show nearly the same picture; None where nobody
            looked. Not in the digest.
    """

    name: str
    class_names: tuple[str, ...]
    labels: Int64Array
    official: Int8Array | None
    item_ids: tuple[str, ...]
    digest: str
    channels: int
    facts: SourceFacts
    read: Callable[[int], UInt8Array]
    groups: npt.NDArray[np.str_] | None = None
    weights: npt.NDArray[np.float64] | None = None
    notes: tuple[str, ...] = ()
    likenesses: Int64Array | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def official_names(self) -> tuple[str, ...]:
        """Names of the splits that the source brings."""
        found = set() if self.official is None else set(self.official.tolist())
        return tuple(
            name for split, name in ((TRAIN, "train"), (VAL, "val"), (TEST, "test")) if split in found
        )


def hash_arrays(class_names: tuple[str, ...], labels: Int64Array, images: UInt8Array) -> str:
    """Return the digest of a set that is held in memory, hex."""
    digest = hashlib.sha256()
    digest.update(json.dumps([class_names, images.shape]).encode())
    digest.update(labels.astype("<i8").tobytes())
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()
