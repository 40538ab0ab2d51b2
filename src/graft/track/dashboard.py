"""The MLflow dashboard on graft's store: this machine only, few processes, no telemetry."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from graft.errors import GraftError, RunFailedError
from graft.track.store import open_store

_SECONDS_TO_END = 5

#: One worker and no job queue: 2 processes and 490 MB instead of 15 and 2.6 GB.
_FEW_PROCESSES = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


def _end(server: subprocess.Popen[bytes]) -> None:
    """End a server together with its own processes: it hands SIGTERM and SIGINT on to them, not SIGKILL."""
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        server.send_signal(signum)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(_SECONDS_TO_END)
            return


def serve(uri: str | None, root: Path, port: int) -> int:
    """Serve the dashboard until Ctrl-C or SIGTERM, and return the exit code.

    Raises:
        GraftError: When the store is a server already, which has a dashboard of its own.
        RunFailedError: When the server ends by itself.
    """
    store = open_store(uri, root)
    if store.uri.startswith(("http://", "https://")):
        raise GraftError(
            f"The store {store.uri} is a server and has the dashboard itself: open it in a browser."
        )
    print(f"The dashboard is at http://127.0.0.1:{port} in a few seconds. Ctrl-C ends it.", flush=True)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store.uri, "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    if store.artifacts is not None:
        command += ["--default-artifact-root", store.artifacts.as_uri()]
    server = subprocess.Popen(command, env=os.environ | _FEW_PROCESSES)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = server.wait()
    except KeyboardInterrupt:
        _end(server)
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)
    raise RunFailedError(
        f"The dashboard ended by itself (exit code {code}). If another program uses port {port}, give one "
        "that is free: graft ui port=5001"
    )
