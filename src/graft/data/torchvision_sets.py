"""The torchvision data sets by name, where torchvision keeps them, with their official splits.

They lie under ``data.root``, or ``<paths.root>/data`` when that is not given. Labels and class names are
torchvision's; files of images are decoded by graft's own rule (`graft.data.decode`). torchvision compares
the md5 of CIFAR's pickles before it loads them; no other set has any.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from graft.config.schema import DataConfig
from graft.data.cache import write_whole
from graft.data.decode import FileReader
from graft.data.facts import FACTS
from graft.data.folder import identify_files
from graft.data.image_set import (
    NO_SPLIT,
    TEST,
    TRAIN,
    VAL,
    ImageSet,
    Int8Array,
    Int64Array,
    Progress,
    UInt8Array,
)
from graft.data.torchvision_table import TORCHVISION_SETS, Part
from graft.errors import GraftError

_SPLITS = {"train": TRAIN, "val": VAL, "test": TEST, "all": NO_SPLIT}

#: How torchvision fails on files that are missing, cut short or of another content.
_DAMAGES = (RuntimeError, OSError, EOFError, ValueError, AssertionError, KeyError, IndexError)


def open_torchvision(config: DataConfig, cache_root: Path, progress: Progress | None = None) -> ImageSet:
    """Open the torchvision set ``config.name``, downloading it only when ``config.download``.

    Raises:
        GraftError: The set is missing or damaged; the message says how to get it.
    """
    root = Path(config.root).expanduser() if config.root is not None else cache_root.parent / "data"
    opener = cache(partial(_open_parts, config.name, root, config.download))
    if TORCHVISION_SETS[config.name].of_files:
        return _open_files(config.name, root, opener(), cache_root, progress)
    return _open_arrays(config.name, root, opener, cache_root)


def _open_parts(name: str, root: Path, download: bool) -> dict[str, Part]:
    """Open every split, after a download where that is asked for and needed."""
    source = TORCHVISION_SETS[name]
    try:
        return _open_present(name, root, download=False)
    except _DAMAGES as error:
        if not download:
            raise GraftError(
                f"Expected the data set {name} under {root}, where torchvision keeps it as {source.folder}, "
                f"but it is missing or damaged ({_first_line(error)}). Download it with "
                f"`data.download=true` (about {source.megabytes:,} MB), or say with `data.root=<folder>` "
                "where it is."
            ) from error
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock"):
            return _open_present(name, root, download=True)
    except _DAMAGES as error:
        raise GraftError(
            f"Expected to download the data set {name} into {root}, but got: {_first_line(error)}. Check "
            f"the connection and the free space (about {source.megabytes:,} MB, twice that while it is "
            f"unpacked); where an earlier download broke off, remove {source.folder} there first."
        ) from error


def _open_present(name: str, root: Path, *, download: bool) -> dict[str, Part]:
    from torchvision import datasets

    source = TORCHVISION_SETS[name]
    made = getattr(datasets, source.class_name)
    parts = {
        split: source.part(made(str(root), download=download, **options))
        for split, options in source.splits.items()
    }
    found = {split: len(part.labels) for split, part in parts.items()}
    if found != dict(FACTS[name].split_sizes):
        raise RuntimeError(f"expected {_sizes(FACTS[name].split_sizes)} images, but got {_sizes(found)}")
    missing = [file for part in parts.values() for file in part.files if not file.is_file()]
    if missing:  # torchvision takes a folder for the whole set, also where unpacking broke off
        raise RuntimeError(f"{len(missing):,} of its files are missing, such as {missing[0].name}")
    return parts


def _open_files(
    name: str, root: Path, parts: dict[str, Part], cache_root: Path, progress: Progress | None
) -> ImageSet:
    """Make an `ImageSet` of files, each hashed once."""
    files = tuple(file for part in parts.values() for file in part.files)
    identities = identify_files(root, list(files), cache_root, progress)
    labels, official, class_names = _join(parts)
    item_ids = tuple(file.relative_to(root).as_posix() for file in files)
    digest = hashlib.sha256(_header(class_names, labels, official))
    for item_id, identity in zip(item_ids, identities, strict=True):
        digest.update(json.dumps([item_id, identity["size"], identity["sha256"]]).encode())

    return ImageSet(
        name=name,
        class_names=class_names,
        labels=labels,
        official=None if np.all(official == NO_SPLIT) else official,
        item_ids=item_ids,
        digest=digest.hexdigest(),
        channels=3,
        facts=FACTS[name],
        read=FileReader(files),
    )


def _open_arrays(name: str, root: Path, opener: Callable[[], dict[str, Part]], cache_root: Path) -> ImageSet:
    """Make an `ImageSet` of arrays: labels and digest are kept, so pixels load when one is read."""
    place = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:32]
    path = cache_root / "sets" / f"{name}-{place}.npz"
    identity = _identify(root, TORCHVISION_SETS[name].folder)
    known = _read_known(path, identity)
    if known is None:
        parts = opener()
        known = _digest_arrays(parts)
        identity = _identify(root, TORCHVISION_SETS[name].folder)
        text = json.dumps([identity, known.digest, known.class_names])
        write_whole(
            path,
            lambda file: np.savez_compressed(
                file, text=np.array(text), labels=known.labels, official=known.official
            ),
        )
    sizes = FACTS[name].split_sizes
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()])[:-1].tolist(), strict=True))

    def read(index: int) -> UInt8Array:
        split = max((one for one in starts if starts[one] <= index), key=lambda one: starts[one])
        images = opener()[split].images
        assert images is not None  # sets of files are opened elsewhere
        return np.ascontiguousarray(images[index - starts[split]])

    return ImageSet(
        name=name,
        class_names=known.class_names,
        labels=known.labels,
        official=known.official,
        item_ids=tuple(f"{name}/{split}/{n}" for split, size in sizes.items() for n in range(size)),
        digest=known.digest,
        channels=TORCHVISION_SETS[name].channels,
        facts=FACTS[name],
        read=read,
    )


@dataclass(frozen=True, eq=False)
class _Known:
    """What is kept of a set of arrays."""

    labels: Int64Array
    official: Int8Array
    class_names: tuple[str, ...]
    digest: str


def _digest_arrays(parts: Mapping[str, Part]) -> _Known:
    labels, official, class_names = _join(parts)
    digest = hashlib.sha256(_header(class_names, labels, official))
    for part in parts.values():
        assert part.images is not None  # sets of files are opened elsewhere
        for start in range(0, len(part.images), 1000):
            digest.update(np.ascontiguousarray(part.images[start : start + 1000]).data)
    return _Known(labels, official, class_names, digest.hexdigest())


def _join(parts: Mapping[str, Part]) -> tuple[Int64Array, Int8Array, tuple[str, ...]]:
    """Return labels, marks of the official splits and class names of all parts together."""
    labels = np.concatenate([part.labels for part in parts.values()]).astype(np.int64)
    marks = [np.full(len(part.labels), _SPLITS[split], dtype=np.int8) for split, part in parts.items()]
    return labels, np.concatenate(marks), next(iter(parts.values())).class_names


def _header(class_names: tuple[str, ...], labels: Int64Array, official: Int8Array) -> bytes:
    return json.dumps(class_names).encode() + labels.astype("<i8").tobytes() + official.tobytes()


def _identify(root: Path, pattern: str) -> list[list[Any]]:
    """List path, size and time of change of the files of a set, none where it is missing."""
    found = [path for base in root.glob(pattern) for path in ([base] if base.is_file() else base.rglob("*"))]
    states = [(path, path.stat()) for path in sorted(found) if path.is_file()]
    return [[path.relative_to(root).as_posix(), state.st_size, state.st_mtime_ns] for path, state in states]


def _read_known(path: Path, identity: list[list[Any]]) -> _Known | None:
    """Read what was kept of the same files; a damaged record only costs opening the set again."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            kept, digest, class_names = json.loads(str(arrays["text"]))
            labels, official = arrays["labels"], arrays["official"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return _Known(labels, official, tuple(class_names), digest) if identity and kept == identity else None


def _first_line(error: Exception) -> str:
    return (
        str(error).split("\n")[0].removesuffix(".").removesuffix(". You can use download=True to download it")
    )


def _sizes(sizes: Mapping[str, int]) -> str:
    return " + ".join(f"{size:,} {split}" for split, size in sizes.items())
