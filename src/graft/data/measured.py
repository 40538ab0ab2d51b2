"""Numbers that many runs share, measured by the first of them and kept in small files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

#: Raise it when code changes what is measured.
_VERSION = 2


def measure_once(
    folder: Path, name: str, same: Sequence[object], measure: Callable[[], Mapping[str, float]]
) -> dict[str, float]:
    """Return what ``measure`` gives, from the file of whoever measured it before where there is one.

    Args:
        folder: Where the files are.
        name: What is measured.
        same: All that the numbers depend on.
        measure: Measures it.
    """
    text = json.dumps([_VERSION, name, *same], sort_keys=True, default=str)
    file = folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        return {str(key): float(value) for key, value in json.loads(file.read_text()).items()}
    found = dict(measure())
    with contextlib.suppress(OSError):  # a folder that cannot be written costs time, and nothing else
        folder.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(found))
        fresh.replace(file)
    return found
