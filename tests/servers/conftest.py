"""Real servers, started and stopped by the tests; what is not installed is skipped with a reason."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from graft.config.load import to_config
from graft.plan.spec import Facts, RunSpec, specify

_SECONDS = 120
_PREPROCESSING = {
    "channels": 1, "size": 16, "resize": None, "interpolation": "bilinear", "antialias": True,
    "mean": [0.5], "std": [0.5],
}  # fmt: skip


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(is_true: Callable[[], bool], words: str) -> None:
    deadline = time.monotonic() + _SECONDS
    while not is_true():
        assert time.monotonic() < deadline, f"waited for {words}"
        time.sleep(0.2)


class Server:
    """A server that can be stopped and started again on the same port with the same data.

    Args:
        uri: Where clients find it.
        command: Starts it, and stays.
        ready: Whether it answers.
        folder: For what it prints.
    """

    def __init__(self, uri: str, command: Sequence[str], ready: Callable[[], bool], folder: Path) -> None:
        self.uri, self.command, self.ready, self.folder = uri, list(command), ready, folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                self.command, env=os.environ | quiet, stdout=log, stderr=log, start_new_session=True
            )
        wait_for(self.ready, f"{self.command[0]} to answer")

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGINT)  # for PostgreSQL: at once, without waiting for clients
            self.process.wait(timeout=_SECONDS)
            self.process = None


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[Server]:
    """An MLflow server over HTTP, which keeps the artifacts as well."""
    port, folder = free_port(), tmp_path / "server"
    folder.mkdir()
    uri = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    server = Server(uri, [*command, "--artifacts-destination", str(folder / "artifacts")], ready, folder)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def postgres() -> Iterator[Server]:
    """A PostgreSQL server with an empty database, of Debian's packages."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    pytest.importorskip("psycopg", reason="pip install 'graft-transfer[postgres]'")
    folder = Path(tempfile.mkdtemp(prefix="graft-postgres-"))
    # It refuses to run as root.
    as_user = (
        ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    )
    if as_user:
        shutil.chown(folder, "postgres", "postgres")
    user = "postgres" if as_user else getpass.getuser()
    port = free_port()
    made = [*as_user, str(programs[-1] / "initdb"), "-D", str(folder / "data"), "-A", "trust", "-U", user]
    subprocess.run(made, check=True, capture_output=True, cwd=folder)
    uri = f"postgresql://{user}@127.0.0.1:{port}/postgres"

    def ready() -> bool:
        asked = [str(programs[-1] / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        return subprocess.run(asked, check=False).returncode == 0

    command = [*as_user, str(programs[-1] / "postgres"), "-D", str(folder / "data"), "-p", str(port)]
    server = Server(uri, [*command, "-k", str(folder), "-h", "127.0.0.1"], ready, folder)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


def plan_run(**knobs: Any) -> RunSpec:
    """Return a planned run, without any data."""
    tree = {
        "data": {"name": "digits"},
        "backbone": {"name": "small_cnn"},
        "transfer": {"method": "from_scratch"},
        "tracking": {"experiment": "servers"},
    }
    return specify(to_config(tree | knobs), Facts("d" * 64, (), None, "none", _PREPROCESSING, "32"))


@pytest.fixture
def plan() -> Callable[..., RunSpec]:
    return plan_run
