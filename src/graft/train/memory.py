"""How much memory is free on this machine, as far as it says so."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def find_free_memory() -> int | None:
    """Return the bytes that processes may still take, None where the system does not say.

    A container that may have less than its machine has less.
    """
    found = [size for size in (_read_machine(), _read_group()) if size is not None]
    return min(found, default=None)


def _read_machine() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    with contextlib.suppress(OSError, ValueError, AttributeError):  # no such file: all that there is
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _read_group() -> int | None:
    """Return what is left to the control group of this container; files that it may forget count as free."""
    with contextlib.suppress(OSError, ValueError):  # no group, or no limit: "max" is no number
        limit = int((_GROUP / "memory.max").read_text())
        used = int((_GROUP / "memory.current").read_text())
        lines = (_GROUP / "memory.stat").read_text().splitlines()
        files = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
        return max(0, limit - used + files)
    return None
