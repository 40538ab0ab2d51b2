"""The dashboard ends with the command that began it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from graft.track.store import open_store


@pytest.mark.parametrize("signum", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.full)])
def test_nothing_serves_on_when_the_command_has_ended(tmp_path: Path, signum: signal.Signals) -> None:
    open_store(None, tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "import signal, sys; from graft.cli import main; "]
    # A shell's background job ignores Ctrl-C, and hands that on to what it starts.
    command[-1] += "signal.signal(signal.SIGINT, signal.default_int_handler); sys.exit(main(sys.argv[1:]))"
    command += ["ui", f"port={port}", f"paths.root={tmp_path}"]
    program = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(port)
    finally:
        program.send_signal(signum)
    assert program.wait(60) == 0
    with socket.socket() as knock:
        assert knock.connect_ex(("127.0.0.1", port)) != 0


def _wait(port: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise TimeoutError(f"nothing serves at port {port}")
