"""Take the pictures of the README anew: the report, and the dashboard's verdict and chosen runs.

    python docs/screenshots.py <paths.root> <experiment>

It opens the report that `graft compare` wrote, and the MLflow dashboard, in the system's Chromium (`make
test-browser` installs what drives it), and writes `report.png`, `dashboard.png` and `runs.png`
to `docs/images`.
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
from typing import Any

from playwright.sync_api import sync_playwright

from graft.track.parents import link_parent, read_parents
from graft.track.store import open_store

PORT = 5173
IMAGES = Path(__file__).parent / "images"
PATIENCE = 60_000
#: MLflow opens a chat window beside whatever is shown first.
NO_CHAT = "for (const [key, value] of [['panelOpen', 'false'], ['fab.autoOpenedOnFirstLoad', 'true']])"
NO_CHAT += " localStorage.setItem(`mlflow.assistant.${key}_v1`, value)"


def main(root: Path, experiment: str) -> None:
    """Take the pictures."""
    IMAGES.mkdir(exist_ok=True)
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    parent = read_parents(open_store(None, root), experiment)[0]
    address = f"http://127.0.0.1:{PORT}"
    command = [sys.executable, "-m", "graft", "ui", f"port={PORT}", f"paths.root={root}"]
    server = subprocess.Popen(command, process_group=0)
    try:
        _wait(f"{address}/health")
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=binary, args=["--no-sandbox"])
            _take_report(_open(browser, 1200, 1000), root / "reports" / experiment / "index.html")
            page = _open(browser, 1360, 1150)
            page.add_init_script(NO_CHAT)
            _take_dashboard(page, f"{address}/{link_parent(parent)}")
            browser.close()
    finally:
        os.killpg(server.pid, signal.SIGKILL)


def _open(browser: Any, width: int, height: int) -> Any:
    page = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=1.5)
    page.set_default_timeout(PATIENCE)
    return page


def _take_report(page: Any, file: Path) -> None:
    """Take the report from its title to the end of its first figure."""
    page.goto(file.resolve().as_uri())
    box = page.locator("#answer figure").first.bounding_box()
    height = box["y"] + box["height"] + 20
    page.screenshot(path=IMAGES / "report.png", clip={"x": 60, "y": 0, "width": 1080, "height": height})


def _take_dashboard(page: Any, address: str) -> None:
    """Take the verdict on the parent run, and the chosen runs to which its first link leads."""
    page.goto(address)
    opening = page.get_by_text("The chosen runs, side by side").first
    opening.wait_for()
    page.get_by_text("Show more", exact=True).first.click()
    page.get_by_text("Description", exact=True).first.evaluate("one => one.scrollIntoView({block: 'start'})")
    page.wait_for_timeout(2000)
    page.screenshot(path=IMAGES / "dashboard.png")
    page.set_viewport_size({"width": 1360, "height": 1220})
    page.goto(opening.get_by_role("link").first.evaluate("one => one.href"))
    page.get_by_text("matching runs").wait_for()
    page.get_by_label("Hide banner").click()
    page.wait_for_timeout(2000)
    page.screenshot(path=IMAGES / "runs.png")


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
