"""Take the pictures of the README anew: the report's first screen, and the dashboard.

    python docs/screenshots.py <paths.root> <experiment>

It opens the report that `graft compare` wrote and the MLflow dashboard in the system's Chromium (`make
test-browser` installs what drives it), and writes `docs/images/report.png` and `docs/images/dashboard.png`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

from graft.track.parents import read_parents
from graft.track.store import open_store

PORT = 5173
SIZE = {"width": 1200, "height": 950}


def main(root: Path, experiment: str) -> None:
    """Take both pictures."""
    images = Path(__file__).parent / "images"
    images.mkdir(exist_ok=True)
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    parent = read_parents(open_store(None, root), experiment)[0]
    command = [sys.executable, "-m", "graft", "ui", f"port={PORT}", f"paths.root={root}"]
    server = subprocess.Popen(command, process_group=0)
    try:
        _wait(f"http://127.0.0.1:{PORT}/health")
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=binary, args=["--no-sandbox"])
            page = browser.new_page(viewport=SIZE)
            page.goto((root / "reports" / experiment / "index.html").resolve().as_uri())
            page.screenshot(path=images / "report.png", timeout=120_000)
            page = browser.new_page(viewport=SIZE | {"width": 1500})
            address = f"#/experiments/{parent.experiment_id}/runs/{parent.run_id}"
            page.goto(f"http://127.0.0.1:{PORT}/{address}", timeout=120_000)
            page.get_by_text("The chosen runs, side by side").first.wait_for(timeout=120_000)
            page.get_by_text("The chosen runs, side by side").first.scroll_into_view_if_needed()
            page.wait_for_timeout(3000)
            page.screenshot(path=images / "dashboard.png", timeout=120_000)
            browser.close()
    finally:
        os.killpg(server.pid, signal.SIGKILL)


def _wait(address: str) -> None:
    deadline = time.monotonic() + 180
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).read()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
        else:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
