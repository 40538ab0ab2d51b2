from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

BINARIES = ("chromium", "chromium-browser", "google-chrome")


@dataclass
class Visit:
    """A page in a browser, and everything that it asked for or complained of.

    Attributes:
        page: The page, as playwright drives it.
        asked: Addresses that were asked for.
        complaints: Errors and warnings of the console, and uncaught exceptions.
    """

    page: Any
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def open(self, path: Path) -> None:
        self.listen()
        self.page.goto(path.as_uri())

    def listen(self) -> None:
        """Hear the page, and the tabs that it opens."""
        context = self.page.context
        context.on("request", lambda request: self.asked.append(request.url))
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        context.on("console", self._listen)

    def _listen(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium of the system, headless."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[browser]'")
    binary = next(filter(None, map(shutil.which, BINARIES)), None)
    if binary is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """Open a page of the size and the colours that a test is marked with, or those of a desk."""
    asked = getattr(request, "param", {})
    page = browser.new_page(
        viewport=asked.get("size", {"width": 1200, "height": 900}), **asked.get("look", {})
    )
    yield Visit(page)
    page.close()
