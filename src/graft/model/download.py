"""Fetch published weights: from the cache where they are, else from the network, whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import sys
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from graft.errors import GraftError
from graft.model.bundle import sha256_of

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 30
_HASH_IN_NAME = re.compile(r"-([a-f0-9]{8,})\.")


def fetch(url: str, folder: Path) -> Path:
    """Return the file of ``url`` in ``folder``, checked against the hash in its name; fetch it when missing.

    Args:
        url: Address whose last part is a file name with the beginning of its sha256 in it.
        folder: The cache.

    Raises:
        GraftError: The cached file is damaged, or the download failed; says where to put the file by hand.
    """
    name = url.rsplit("/", 1)[-1]
    target = folder / name
    found = _HASH_IN_NAME.search(name)
    prefix = found.group(1) if found else ""
    if target.is_file():
        digest = sha256_of(target)
        if not digest.startswith(prefix):
            raise GraftError(
                f"Expected {target} to have a sha256 that begins with {prefix}, as its name says, but it "
                f"begins with {digest[: len(prefix)]}: the file is truncated or damaged. Delete it and try "
                f"again.{_way_around(name, folder)}"
            )
        return target
    if os.environ.get("GRAFT_OFFLINE", "") not in {"", "0"}:
        raise GraftError(
            f"Expected {name} in {folder}, and GRAFT_OFFLINE forbids to download "
            f"it.{_way_around(name, folder)}"
        )
    _download(url, target, prefix)
    return target


def _way_around(name: str, folder: Path) -> str:
    return f" Put {name} into {folder} by hand, or give its path: `backbone.weights=<path>`."


def _download(url: str, target: Path, prefix: str) -> None:
    """Stream into a file beside the target, and rename it once its hash is right."""
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    way_around = _way_around(target.name, target.parent)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = _stream(url, beside)
        if not digest.startswith(prefix):
            raise GraftError(
                f"Expected the download of {target.name} to have a sha256 that begins with {prefix}, but it "
                f"begins with {digest[: len(prefix)]}: it came damaged or is another file.{way_around}"
            )
        beside.replace(target)
    except OSError as error:  # urllib's errors are OSErrors too
        if error.errno == errno.ENOSPC:
            raise GraftError(
                f"Expected room for {target.name} in {target.parent}, but the disk is full.{way_around}"
            ) from error
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        reason = getattr(error, "reason", None) or error.strerror or error
        raise GraftError(
            f"Expected to download {target.name}, but could not: {reason}.{way_around}"
        ) from error
    except (HTTPException, ValueError) as error:
        raise GraftError(
            f"Expected to download {target.name} whole, but could not: {error}.{way_around}"
        ) from error
    finally:
        beside.unlink(missing_ok=True)


def _stream(url: str, beside: Path) -> str:
    """Download ``url`` into ``beside`` under a progress bar, and return its sha256."""
    digest, received = hashlib.sha256(), 0
    console = Console(file=sys.stderr)
    columns = (
        "{task.description}",
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with (
        urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response,
        beside.open("wb") as file,
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
    ):
        length = int(response.headers.get("Content-Length") or 0)
        task = progress.add_task(url.rsplit("/", 1)[-1], total=length or None)
        while chunk := response.read(_CHUNK_BYTES):
            file.write(chunk)
            digest.update(chunk)
            received += len(chunk)
            progress.update(task, completed=received)
        if received < length:
            raise ConnectionError(
                errno.ECONNRESET, f"the server went away after {received} of {length} bytes"
            )
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()
