"""A sign of life while a run is under way, from a thread that costs training nothing."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

#: Seconds between two signs of life.
_BEAT_SECONDS = 20.0


class Heartbeat:
    """Calls ``beat`` every 20 s until it is stopped. What goes wrong in a beat is left to the next one.

    Args:
        beat: Gives the sign.
    """

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat = beat
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="graft-heartbeat", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; a beat that is under way is not waited for."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(_BEAT_SECONDS):
            with contextlib.suppress(Exception):
                self._beat()
