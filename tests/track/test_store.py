from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from graft.errors import GraftError, StoreAwayError
from graft.track.outbox import list_unsent
from graft.track.reader import search
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


def test_nothing_answers(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A library that another test used may have left a log handler whose stream is closed by now.
    monkeypatch.setattr("logging.raiseExceptions", False)
    assert "Max retries exceeded" in refuse("http://127.0.0.1:9", tmp_path)
    assert capfd.readouterr().err == "", "it is said once"
    with pytest.raises(StoreAwayError, match="try again when it is back") as error:
        open_store("http://127.0.0.1:9", tmp_path)
    assert error.value.exit_code == 1


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, "<html>hello</html>", "JSON"),
        (200, "<html>hello</html>", "What answers there is no MLflow server"),
        (404, "nothing here", "What answers there is no MLflow server"),
        (501, "nothing here", "What answers there is no MLflow server"),
        (401, "who are you?", "It needs a login: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        (403, "not you", "or MLFLOW_TRACKING_TOKEN"),
    ],
)
def test_something_else_answers(
    tmp_path: Path, answer: Callable[[int, str], str], status: int, body: str, words: str
) -> None:
    uri = answer(status, body)
    assert words in refuse(uri, tmp_path)
    with pytest.raises(GraftError) as error:
        open_store(uri, tmp_path)
    assert error.value.exit_code == 2, "a mistake, not a failure"


def test_a_server_in_trouble_is_away(tmp_path: Path, answer: Callable[[int, str], str]) -> None:
    uri = answer(503, "later")
    assert "503" in refuse(uri, tmp_path)
    with pytest.raises(StoreAwayError):
        open_store(uri, tmp_path)


def test_a_folder_of_files_over_http_is_no_mlflow(tmp_path: Path) -> None:
    """What `python -m http.server` answers."""
    server = HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert "no MLflow server" in refuse(f"http://127.0.0.1:{server.server_port}", tmp_path)
    finally:
        server.shutdown()
        server.server_close()


def test_a_password_is_never_shown(tmp_path: Path) -> None:
    with pytest.raises(GraftError) as error:
        open_store("postgresql://me:secret@127.0.0.1:9/runs", tmp_path)
    assert "secret" not in str(error.value)
    assert "postgresql://me:***@127.0.0.1:9/runs" in str(error.value)


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


#: Each process records runs of its own, from the first second of a store that nobody has opened.
_CROWD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import plan_run
from graft.track.store import open_store
from graft.track.writer import recording
for number in range(int(sys.argv[4])):
    spec = plan_run("crowd", seed=1000 * int(sys.argv[3]) + number)
    with recording(open_store(None, Path(sys.argv[2])), spec, None, {}) as writer:
        for step in range(3):
            writer.record({"val/accuracy": step / 4}, step)
            writer.flush()
        writer.log_json({"number": number}, "number.json")
"""


@pytest.mark.parametrize(
    ("processes", "runs"), [(4, 5), pytest.param(32, 20, marks=[pytest.mark.full, pytest.mark.timeout(1800)])]
)
def test_a_crowd_on_a_fresh_database(tmp_path: Path, processes: int, runs: int) -> None:
    """MLflow alone loses most of them: their migrations destroy each other."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    crowd = [
        subprocess.Popen(
            [sys.executable, "-c", _CROWD, str(Path(__file__).parent), str(tmp_path), str(one), str(runs)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for one in range(processes)
    ]
    said = [process.communicate(timeout=1500)[0] for process in crowd]
    assert [process.returncode for process in crowd] == [0] * processes, "".join(said)
    store = open_store(None, tmp_path)
    found = list(search(store, [store.experiment_id("crowd")], ""))
    assert len(found) == len({run.data.tags["graft.run_key"] for run in found}) == processes * runs
    assert {run.info.status for run in found} == {"FINISHED"}
    for run in found:
        history = store.client.get_metric_history(run.info.run_id, "val/accuracy")
        assert [(point.step, point.value) for point in history] == [(0, 0.0), (1, 0.25), (2, 0.5)]
    assert store.artifacts is not None
    assert len(list(store.artifacts.rglob("number.json"))) == processes * runs
    assert list_unsent(tmp_path) == [], "what a busy database did not take at once is there as well"
