"""The last lines of what a run printed."""

from __future__ import annotations

from pathlib import Path

#: What is kept of the log of a run that failed.
_LINES = 50
_BYTES = 32_768


def read_tail(log: Path) -> str:
    """Return the last lines of a file, empty when there is none."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-_LINES:])
