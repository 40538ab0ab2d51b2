"""The weights bundle: a safetensors file and a JSON sidecar that says what it is.

A bundle is a folder ``<root>/weights/<name>/`` with ``weights.safetensors`` and ``bundle.json``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from graft.errors import GraftError, nearest_first

FORMAT = 1
WEIGHTS_FILE = "weights.safetensors"
SIDECAR_FILE = "bundle.json"
_hashes: dict[tuple[str, int, int], str] = {}


@dataclass(frozen=True)
class Sidecar:
    """What a bundle says about its weights.

    Attributes:
        architecture: Name of the backbone.
        options: Its options (hidden size, layers).
        classes: Class names of the source data, in the order of the scores.
        channels: Channels of its input.
        image_size: Side of its input, in px.
        preprocessing: How an image becomes its input.
        data: Name of the source data.
        data_digest: Digest of the source data.
        metrics: What training measured, by metric key.
        graft_version: Version that wrote it.
        run_key: Key of the run that trained the weights.
        sha256: Of the safetensors file; filled in by `write_bundle`.
        size_bytes: Of the safetensors file; filled in by `write_bundle`.
        parent: sha256 of the weights that training started from, ``None`` for none.
    """

    architecture: str
    options: dict[str, Any]
    classes: list[str]
    channels: int
    image_size: int
    preprocessing: dict[str, Any]
    data: str
    data_digest: str
    metrics: dict[str, float]
    graft_version: str
    run_key: str
    sha256: str = ""
    size_bytes: int = 0
    parent: str | None = None
    format: int = field(default=FORMAT)


def bundle_folder(root: Path, name: str) -> Path:
    """Return the folder of the bundle ``name``."""
    return root / "weights" / name


def list_bundles(root: Path) -> list[str]:
    """List the names of the bundles under ``root``."""
    return sorted(found.parent.name for found in (root / "weights").glob(f"*/{SIDECAR_FILE}"))


def write_atomically(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files so that each is there whole or not at all, even if the machine stops.

    All are brought to the disk before the first takes its place: where one cannot be written, what was there
    before stays.

    Args:
        folder: Where they go; made if it is not there.
        contents: What is in each, by file name.

    Raises:
        GraftError: The folder cannot be written.
    """
    beside = {name: folder / f".{name}.{os.getpid()}" for name in contents}
    name = next(iter(contents))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            with beside[name].open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for name, path in beside.items():
            path.replace(folder / name)
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    except OSError as error:
        raise GraftError(f"Expected to write {folder / name}, but could not: {error.strerror}.") from error
    finally:
        for path in beside.values():
            with contextlib.suppress(OSError):  # where nothing can be written, nothing was
                path.unlink(missing_ok=True)


def write_files(folder: Path, weights: bytes, sidecar: Sidecar) -> Sidecar:
    """Write the two files of a bundle, and return the sidecar as it was written, with hash and size.

    Raises:
        GraftError: The folder cannot be written; a bundle that was there before stays.
    """
    written = replace(sidecar, sha256=hashlib.sha256(weights).hexdigest(), size_bytes=len(weights))
    described = json.dumps(asdict(written), indent=2, sort_keys=True).encode() + b"\n"
    write_atomically(folder, {WEIGHTS_FILE: weights, SIDECAR_FILE: described})
    return written


def read_sidecar(folder: Path) -> Sidecar:
    """Read what a bundle says about itself.

    Raises:
        GraftError: The sidecar is missing, no JSON, of another format, or lacks a field.
    """
    path = folder / SIDECAR_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise GraftError(f"Expected a weights bundle in {folder}, but it has no {SIDECAR_FILE}.") from error
    except (OSError, ValueError) as error:
        raise GraftError(
            f"Expected {path} to be the JSON sidecar of a weights bundle, but it cannot be read: {error}."
        ) from error
    known = [item.name for item in fields(Sidecar)]
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        came = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise GraftError(f"Expected {path} in bundle format {FORMAT}, but got {came!r}.")
    if set(content) != set(known):
        differing = ", ".join(sorted(set(content) ^ set(known)))
        raise GraftError(
            f"Expected {path} to have exactly the fields of a weights bundle, but these differ: {differing}."
        )
    return Sidecar(**content)


def verify(folder: Path, sidecar: Sidecar) -> None:
    """Check that the weights of a bundle are those that were written.

    Raises:
        GraftError: The file is missing, truncated, or changed.
    """
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise GraftError(f"Expected the weights of the bundle at {path}, but there is no such file.")
    size = path.stat().st_size
    if size < sidecar.size_bytes:
        raise GraftError(
            f"Expected {path} to have {sidecar.size_bytes} bytes, but it has {size}: it is truncated. Copy "
            "it again, or run `graft pretrain` again."
        )
    found = sha256_of(path)
    if found != sidecar.sha256:
        raise GraftError(
            f"Expected {path} to have the sha256 {sidecar.sha256[:16]}... of its sidecar, but it has "
            f"{found[:16]}...: its content was changed or damaged. Copy "
            "it again, or run `graft pretrain` again."
        )


def describe_unknown(root: Path, name: str, published: list[str]) -> str:
    """Say that ``name`` is no weights, and what there is, nearest first.

    Args:
        root: Where graft writes.
        name: What was asked for.
        published: Names of published weights of the backbone.
    """
    existing = nearest_first(name, list_bundles(root))
    bundles = ", ".join(existing) if existing else "none yet, `graft pretrain` makes one"
    others = f" Published weights: default, {', '.join(published)}." if published else ""
    return (
        "Expected `backbone.weights` to be a weights bundle, a path to a weights file, default or none, "
        f"but got {name!r}. Bundles in {root / 'weights'}: {bundles}.{others}"
    )


def sha256_of(path: Path) -> str:
    """Hash a file; asked again for a file that did not change, the answer is remembered."""
    stat = path.stat()
    key = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    if key not in _hashes:
        with path.open("rb") as file:
            _hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _hashes[key]
