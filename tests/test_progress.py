"""Progress of long work where there is no terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from graft import progress


def test_a_log_gets_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((0.0, 10.0, 61.0, 80.0, 130.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    log = io.StringIO()
    with progress.show_progress(Console(file=log), "training steps") as advance:
        for done in (10, 61, 80, 130):
            advance(done, 2000)
    assert log.getvalue().splitlines() == [
        "training steps: 61 of 2,000 after 61 s",
        "training steps: 130 of 2,000 after 130 s",
    ]
