"""The closed registry of sources, with the facts of each known set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from graft.config.schema import DataConfig
from graft.data.facts import FACTS
from graft.data.folder import scan_folder
from graft.data.glyphs import CHARACTERS, load_glyphs
from graft.data.image_set import (
    ImageSet,
    Int64Array,
    Progress,
    UInt8Array,
    hash_arrays,
)
from graft.data.table import open_table
from graft.data.torchvision_sets import open_torchvision
from graft.data.torchvision_table import TORCHVISION_SETS
from graft.errors import GraftError, expected_one_of

Source = Callable[[DataConfig, Path, Progress | None], ImageSet]


def open_images(config: DataConfig, cache_root: Path, progress: Progress | None = None) -> ImageSet:
    """Open the set that ``config.name`` names; images are decoded only when read.

    Args:
        config: The `data` group.
        cache_root: Folder for what is worth keeping: rendered glyphs, hashes of files.
        progress: Called with (done, total) while a set is rendered or hashed for the first time.

    Raises:
        GraftError: The name is unknown, or the source has a fault; the message says which.
    """
    if config.name not in SOURCES:
        raise GraftError(expected_one_of("data.name", config.name, SOURCES))
    return SOURCES[config.name](config, cache_root, progress)


def open_digits(config: DataConfig, cache_root: Path, progress: Progress | None = None) -> ImageSet:
    """Open scikit-learn's 1,797 handwritten digits, 8x8 gray; their values 0 to 16 become 0 to 255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255.0 / 16.0)).astype(np.uint8)
    class_names = tuple(str(name) for name in bunch.target_names)
    return _hold_in_memory("digits", class_names, bunch.target.astype(np.int64), images)


def open_glyphs(config: DataConfig, cache_root: Path, progress: Progress | None = None) -> ImageSet:
    """Open ``data.render_count`` rendered letters and digits, 8x8 gray."""
    images, labels = load_glyphs(config.render_count, config.render_seed, cache_root, progress)
    return _hold_in_memory("glyphs", tuple(CHARACTERS), labels, images)


def open_folder(config: DataConfig, cache_root: Path, progress: Progress | None = None) -> ImageSet:
    """Open the user's folder of images, ``data.root``: a folder per class, in splits or not."""
    if config.root is None:
        raise GraftError(
            "Expected `data.root` to be the folder that holds your images, one folder per class, but got "
            "nothing: say data=folder data.root=/path/to/images."
        )
    scan = scan_folder(Path(config.root).expanduser(), cache_root, progress)
    return ImageSet(
        name="folder",
        class_names=scan.class_names,
        labels=scan.labels,
        official=scan.official,
        item_ids=scan.item_ids,
        digest=scan.digest,
        channels=scan.channels,
        facts=FACTS["folder"],
        read=scan.read,
        notes=(f"{scan.ignored} files under data.root are no images of a class, and ignored",)
        if scan.ignored
        else (),
    )


def open_listed(config: DataConfig, cache_root: Path, progress: Progress | None = None) -> ImageSet:
    """Open the user's table, ``data.table``; its paths start at ``data.root``, else where it lies."""
    if config.table is None:
        raise GraftError(
            "Expected `data.table` to be a CSV or Parquet file with the columns path and label, but got "
            "nothing: say data=table data.table=/path/to/table.csv."
        )
    table = Path(config.table).expanduser()
    root = table.parent if config.root is None else Path(config.root).expanduser()
    return open_table(table, root.resolve(), cache_root, progress)


def _hold_in_memory(
    name: str, class_names: tuple[str, ...], labels: Int64Array, images: UInt8Array
) -> ImageSet:
    """Make an `ImageSet` of gray images ``(N, H, W)`` that are in memory already."""

    def read(index: int) -> UInt8Array:
        return images[index, :, :, None]

    return ImageSet(
        name=name,
        class_names=class_names,
        labels=labels,
        official=None,
        item_ids=tuple(f"{name}/{index}" for index in range(len(labels))),
        digest=hash_arrays(class_names, labels, images),
        channels=1,
        facts=FACTS[name],
        read=read,
    )


SOURCES: dict[str, Source] = {
    "digits": open_digits,
    "glyphs": open_glyphs,
    "folder": open_folder,
    "table": open_listed,
    **dict.fromkeys(TORCHVISION_SETS, open_torchvision),
}
