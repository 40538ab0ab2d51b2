"""Files that are whole or absent: what the data room keeps under ``paths.root/cache``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from graft.errors import GraftError


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write ``path`` so that a reader, or a kill at any moment, never sees a part of it.

    Args:
        path: The file to make; its folder is made when missing.
        write: Writes the content into the open binary file it is given.

    Raises:
        GraftError: The folder cannot be written, or the disk is full.
    """
    beside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        beside = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise GraftError(
            f"Expected to write {path}, but got: {error.strerror or error}. "
            "Free some space, or choose another place with `paths.root`."
        ) from error
    finally:
        if beside is not None:
            beside.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` survive a power cut, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
