"""The download path against a real local server, with the hash check as it is."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision

from graft.errors import GraftError
from graft.model import weights as weights_module
from graft.model.download import fetch
from graft.model.weights import load_weights, resolve_weights


class Server(ThreadingHTTPServer):
    """Serves ``content`` whole, or stops after ``cut_at`` bytes while promising all."""

    daemon_threads = True
    content = b""
    cut_at: int | None = None
    requests = 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        if not self.path.endswith(".pth"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content[: self.server.cut_at])

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    torch.manual_seed(0)
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), tmp_path / "made.pth")
    running = Server(("127.0.0.1", 0), Handler)
    running.content = (tmp_path / "made.pth").read_bytes()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def url_of(server: Server, prefix: str | None = None) -> str:
    prefix = hashlib.sha256(server.content).hexdigest()[:8] if prefix is None else prefix
    return f"http://127.0.0.1:{server.server_port}/own-{prefix}.pth"


def test_whole_and_then_from_the_cache(server: Server, tmp_path: Path) -> None:
    path = fetch(url_of(server), tmp_path / "cache")
    assert path.read_bytes() == server.content
    assert fetch(url_of(server), tmp_path / "cache") == path
    assert server.requests == 1
    assert [found.name for found in (tmp_path / "cache").iterdir()] == [path.name]


def assert_refused(url: str, folder: Path, message: str) -> None:
    with pytest.raises(GraftError, match=message) as caught:
        fetch(url, folder)
    assert "backbone.weights=<path>" in str(caught.value)
    assert url.rsplit("/", 1)[-1] in str(caught.value)
    assert str(folder) in str(caught.value)
    assert list(folder.iterdir()) == []


def test_a_server_that_goes_away_half_way_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.cut_at = len(server.content) // 2
    assert_refused(url_of(server), tmp_path / "cache", "went away|whole")


def test_a_wrong_hash_leaves_nothing(server: Server, tmp_path: Path) -> None:
    assert_refused(url_of(server, "0123abcd"), tmp_path / "cache", "sha256 that begins with 0123abcd")


def test_a_missing_file_or_server_leaves_nothing(server: Server, tmp_path: Path) -> None:
    assert_refused(url_of(server) + "x", tmp_path / "cache", "Not Found")
    assert_refused("http://127.0.0.1:9/own-0123abcd.pth", tmp_path / "cache", "refused")


def test_a_full_disk_leaves_nothing(server: Server, tmp_path: Path, monkeypatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert_refused(url_of(server), tmp_path / "cache", "the disk is full")


def test_a_truncated_file_in_the_cache_is_named(server: Server, tmp_path: Path) -> None:
    path = fetch(url_of(server), tmp_path / "cache")
    path.write_bytes(server.content[:-10])
    with pytest.raises(GraftError, match=r"truncated or damaged\. Delete it"):
        fetch(url_of(server), tmp_path / "cache")


def test_offline_never_tries(server: Server, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("GRAFT_OFFLINE", "1")
    with pytest.raises(GraftError, match="GRAFT_OFFLINE forbids"):
        fetch(url_of(server), tmp_path / "cache")
    assert server.requests == 0


def test_published_weights_go_all_the_way(server: Server, tmp_path: Path, monkeypatch) -> None:
    name = "shufflenet_v2_x0_5"
    real = torchvision.models.get_model_weights(name).DEFAULT
    entry = SimpleNamespace(name="OWN", url=url_of(server), transforms=real.transforms, meta=real.meta)
    monkeypatch.setattr(weights_module, "_published", lambda _: {"OWN": entry})
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    source = resolve_weights("OWN", name, tmp_path)
    assert source is not None
    assert source.sha256 == hashlib.sha256(server.content).hexdigest()
    assert source.preprocessing is not None
    assert source.preprocessing.size == 224
    assert source.path.parent == tmp_path / "hub" / "checkpoints"
    assert load_weights(source, name).state["fc.weight"].shape == (1000, 1024)
