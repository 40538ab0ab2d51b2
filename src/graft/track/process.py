"""Which process records a run, told so that a reused number is never taken for the process that had it."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

#: Tag of a run that failed for a reason that may pass: the next attempt goes on in it.
TRANSIENT = "graft.transient"
#: MLflow's tag of the sweep that a run belongs to.
PARENT = "mlflow.parentRunId"
#: Tag that says, in seconds since 1970, when a run was last seen alive.
HEARTBEAT = "graft.heartbeat"

#: Seconds without a sign of life after which a run of another machine counts as dead, unless told otherwise.
STALE_SECONDS = 3600.0

_HOST, _PID, _MARK = "graft.host", "graft.pid", "graft.process"


@dataclass(frozen=True)
class Mark:
    """What a process number needs beside it to mean one process for ever.

    Attributes:
        machine: Hash of the machine's id, empty where it has none.
        boot: Id of the boot of the machine.
        namespace: Numbers count inside it: each container has its own.
        start: When the process started, in clock ticks since boot; empty where the system does not say.
    """

    machine: str
    boot: str
    namespace: str
    start: str

    @property
    def text(self) -> str:
        """All of it in one tag."""
        return "/".join((self.machine, self.boot, self.namespace, self.start))

    @classmethod
    def parse(cls, text: str) -> Mark:
        """Read what `text` gave."""
        return cls(*text.split("/"))


def mark_process(pid: int) -> Mark:
    """Return the mark of a process of this machine; its start is empty when it has ended.

    Source: proc(5), field 22 of /proc/<pid>/stat.
    """
    machine = _read("/etc/machine-id")
    return Mark(
        machine=hashlib.sha256(machine.encode()).hexdigest()[:8] if machine else "",
        boot=_read("/proc/sys/kernel/random/boot_id")[:8],
        namespace=_read_link("/proc/self/ns/pid"),
        start=_read_start(pid),
    )


def describe_process() -> dict[str, str]:
    """Return this process as tags, its first sign of life among them."""
    tags = {_HOST: platform.node(), _PID: str(os.getpid()), HEARTBEAT: f"{time.time():.0f}"}
    mark = mark_process(os.getpid())
    return tags | ({_MARK: mark.text} if mark.start else {})


def is_gone(tags: Mapping[str, str]) -> bool | None:
    """Say whether the process that recorded a run has ended; None where that cannot be known from here.

    Args:
        tags: Tags of the run.
    """
    if tags.get(_HOST) != platform.node() or _PID not in tags:
        return None
    pid = int(tags[_PID])
    if _MARK not in tags:  # a run from before processes were marked, or a system that marks none
        return not _exists(pid)
    then, now = Mark.parse(tags[_MARK]), mark_process(pid)
    if then.boot != now.boot:  # the machine was started again, unless another one has the same name
        return True if then.machine and then.machine == now.machine else None
    if then.namespace != now.namespace:
        return None
    if now.start:
        return now.start != then.start
    return None if _exists(pid) and not _is_zombie(pid) else True


def is_dead(tags: Mapping[str, str], stale: float = STALE_SECONDS) -> bool:
    """Whether a run has nobody left to go on with it.

    Args:
        tags: Tags of the run.
        stale: Seconds without a sign of life that count where its process cannot be looked at.
    """
    gone = is_gone(tags)
    if gone is None:
        return HEARTBEAT in tags and time.time() - float(tags[HEARTBEAT]) > stale
    return gone


def _read_start(pid: int) -> str:
    fields = _read_stat(pid)
    return fields[19] if fields and fields[0] not in "ZX" else ""


def _is_zombie(pid: int) -> bool:
    fields = _read_stat(pid)
    return bool(fields) and fields[0] in "ZX"


def _read_stat(pid: int) -> list[str]:
    """Return the fields from the third on: the second, the name, may hold anything."""
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _read_link(path: str) -> str:
    try:
        return str(Path(path).readlink()).partition("[")[2].rstrip("]")
    except OSError:
        return ""
