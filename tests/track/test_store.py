from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from graft.errors import GraftError
from graft.plan.spec import RunSpec
from graft.track.store import Store, open_store, resolve_uri

#: Long enough for a busy machine, short enough to tell seconds from MLflow's minutes.
SECONDS = 30


@pytest.fixture
def answer() -> Iterator[Callable[[int, str], str]]:
    """Serve one answer to everything, and return the URI."""
    servers: list[HTTPServer] = []

    def start(status: int, body: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            do_POST = do_GET  # noqa: N815 - the name is the library's

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def refuse(uri: str, root: Path) -> str:
    started = time.monotonic()
    with pytest.raises(GraftError) as error:
        open_store(uri, root)
    assert time.monotonic() - started < SECONDS
    message = str(error.value)
    assert message.startswith(f"Expected an MLflow tracking store at {uri!r}, but got: ")
    assert "Check `tracking.uri` and MLFLOW_TRACKING_URI" in message
    assert "\n" not in message
    return message


def test_nothing_answers(tmp_path: Path) -> None:
    assert "Max retries exceeded" in refuse("http://127.0.0.1:9", tmp_path)
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ, "a run that started is patient again"


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [(200, "<html>hello</html>", "JSON"), (404, "nothing here", "404"), (401, "who are you?", "401")],
)
def test_something_else_answers(
    tmp_path: Path, answer: Callable[[int, str], str], status: int, body: str, words: str
) -> None:
    assert words in refuse(answer(status, body), tmp_path)


@pytest.mark.parametrize(
    "uri", ["nonsense://there", "./mlruns", "postgresql://127.0.0.1:9/x?connect_timeout=1"]
)
def test_a_uri_that_is_none(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refuse(uri, tmp_path)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("dear diary " * 100)
    assert "not a database" in refuse(f"sqlite:///{tmp_path / 'notes.txt'}", tmp_path)


def test_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        GraftError, match=r"Expected `paths.root` to be a folder that can be written.*not a directory"
    ):
        open_store(None, tmp_path / "file" / "runs")


def test_which_uri_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert resolve_uri(None, Path("runs")) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////elsewhere/x.db")
    assert resolve_uri(None, Path("runs")) == "sqlite:////elsewhere/x.db"
    assert resolve_uri("http://server", Path("runs")) == "http://server"


def test_the_environment_names_the_store(
    tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "deep" / "there.db"
    there.parent.mkdir()
    shutil.copy(database, there)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{there}")
    store = open_store(None, tmp_path / "runs")
    assert store.uri == f"sqlite:///{there}"
    assert store.artifacts == tmp_path / "runs" / "artifacts"
    assert not (tmp_path / "runs" / "mlflow.db").exists()


def test_nothing_is_sent_and_nothing_is_shown(store: Store) -> None:
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] == "false"


def test_a_deleted_experiment_is_named(store: Store) -> None:
    identity = store.experiment_id("trash")
    assert store.experiment_id("trash") == identity
    store.client.delete_experiment(identity)
    with pytest.raises(GraftError, match=r"The experiment 'trash' is in MLflow's trash\. Restore it"):
        store.experiment_id("trash")


def test_many_processes_open_a_fresh_database(tmp_path: Path, plan: Callable[..., RunSpec]) -> None:
    """MLflow alone loses most of them: their migrations destroy each other."""
    script = (
        "import sys; from pathlib import Path; from graft.track.store import open_store\n"
        "store = open_store(None, Path(sys.argv[1]))\n"
        "run = store.client.create_run(store.experiment_id('crowd'))\n"
        "store.client.log_metric(run.info.run_id, 'done', 1.0)\n"
        "store.client.set_terminated(run.info.run_id)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(6)
    ]
    said = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 6, said
    store = open_store(None, tmp_path)
    runs = store.client.search_runs([store.experiment_id("crowd")])
    assert [run.data.metrics for run in runs] == [{"done": 1.0}] * 6
    assert [run.info.status for run in runs] == ["FINISHED"] * 6
