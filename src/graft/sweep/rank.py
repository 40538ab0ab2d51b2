"""One process of a run on several devices; `several` starts it and reads what it writes beside its job."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

from graft.errors import RunFailedError
from graft.sweep.worker import execute_job, leave, read_job

_SECONDS_BETWEEN_LOOKS = 0.2


def main(job_file: Path) -> int:
    """Execute a job as the process that the environment says; the first one says how it went."""
    first = int(os.environ["LOCAL_RANK"]) == 0
    threading.Thread(target=_leave_with_parent, args=(os.getppid(),), daemon=True).start()
    signal.signal(signal.SIGTERM, leave)

    def progress(done: int, total: int) -> None:
        _write(job_file.with_suffix(".progress"), f"{done} {total}")

    def started(run_id: str) -> None:
        _write(job_file.with_suffix(".run"), run_id)

    job = read_job(json.loads(job_file.read_text()))
    outcome = execute_job(job, progress, started) if first else execute_job(job)
    if first:
        _write(job_file.with_suffix(".outcome"), json.dumps(asdict(outcome)))
    return 0 if outcome.status == "finished" else RunFailedError.exit_code


def _leave_with_parent(parent: int) -> None:
    """End this process when the one that started it is gone: nobody else would."""
    while os.getppid() == parent:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    os.kill(os.getpid(), signal.SIGKILL)


def _write(path: Path, text: str) -> None:
    """Write so that a reader never sees a part."""
    beside = path.with_suffix(".part")
    beside.write_text(text)
    beside.replace(path)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
