"""The MLflow dashboard on graft's store in a real browser: verdict, report, transfer beside from scratch."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from graft.track.parents import Parent, link_parent, read_parents
from graft.track.store import open_store

pytestmark = pytest.mark.browser

#: How the keys of gains name backbone and weights.
ARM = "small_cnn_glyphs-small_cnn"
SMALL = ("backbone=small_cnn", "trainer.accelerator=cpu", "trainer.threads=1")
SWEEP = (
    "-m", *SMALL, "backbone.weights=glyphs-small_cnn", "transfer=fine_tune", "transfer.freeze_depth=3,5",
    "data.labels_per_class=2", "seed=range(2)", "trainer.min_steps=20", "tracking.experiment=pets",
)  # fmt: skip
#: What MLflow's own page warns of, or asks its server for in vain, whatever the store holds.
MLFLOWS_OWN = re.compile(r"AG Grid|404 \(Not Found\)|deprecated|findDOMNode|React|ResizeObserver loop")


@dataclass(frozen=True)
class Dashboard:
    address: str
    parent: Parent


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    """Serve a real sweep with its verdict."""
    root = tmp_path_factory.mktemp("runs")
    place = f"paths.root={root}"
    for words in (
        ("pretrain", *SMALL, "data.render_count=620", "trainer.epochs=1", place),
        ("train", *SWEEP, place),
        ("compare", "pets", place),
    ):
        subprocess.run([sys.executable, "-m", "graft", *words], check=True, timeout=300, cwd=root)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "graft", "ui", f"port={port}", place]
    server = subprocess.Popen(command, cwd=root, process_group=0, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    try:
        address = f"http://127.0.0.1:{port}"
        _wait(address)
        yield Dashboard(address, read_parents(open_store(None, root), "pets")[0])
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait(address: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5).read()
        except OSError:
            time.sleep(0.5)
        else:
            return
    pytest.fail("the dashboard did not start")


def look(visit, dashboard: Dashboard, place: str, words: str) -> None:
    """Open a place of the dashboard, and wait until it shows some words."""
    visit.listen()
    visit.page.goto(f"{dashboard.address}/{place}", timeout=60_000)
    wait_for(visit, dashboard, words)


def wait_for(visit, dashboard: Dashboard, words: str) -> None:
    """Wait until a page shows some words, and see that it is quiet and asks no other host."""
    visit.page.get_by_text(words, exact=False).first.wait_for(timeout=60_000)
    assert [one for one in visit.asked if not one.startswith((dashboard.address, "data:", "blob:"))] == []
    assert [one for one in visit.complaints if not MLFLOWS_OWN.search(one)] == []


def test_the_parent_run_says_the_verdict_and_the_gains(visit, dashboard: Dashboard) -> None:
    look(visit, dashboard, link_parent(dashboard.parent), "The chosen runs, side by side")
    shown = visit.page.inner_text("body")
    assert "from scratch" in shown
    assert "points" in shown
    assert "Doubts" in shown
    for key in (f"linear_probe_{ARM}/2", f"linear_probe_{ARM}/2/low", f"fine-tune_frozen_to_3_{ARM}/2"):
        assert f"gain/{key}" in shown


def test_the_parent_run_shows_the_report(visit, dashboard: Dashboard) -> None:
    parent = dashboard.parent
    place = f"#/experiments/{parent.experiment_id}/runs/{parent.run_id}/artifacts/report/index.html"
    look(visit, dashboard, place, "index.html")
    frame = visit.page.frame_locator("iframe").first
    frame.locator("figure svg.plot").first.wait_for(timeout=60_000)


def test_one_link_shows_transfer_beside_from_scratch(visit, dashboard: Dashboard) -> None:
    look(visit, dashboard, link_parent(dashboard.parent), "The chosen runs, side by side")
    opening = visit.page.get_by_text("The chosen runs, side by side").first
    with visit.page.expect_popup() as opened:
        opening.get_by_role("link", name="2", exact=True).click()
    visit.page = opened.value
    wait_for(visit, dashboard, "test/accuracy")
    visit.page.get_by_text("matching runs").wait_for(timeout=60_000)
    shown = visit.page.inner_text("body")
    assert "6 matching runs" in " ".join(shown.split())
    for arm in ("from scratch", "linear probe", "fine-tune, frozen to 3"):
        assert arm in shown
