from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graft.data.decode import decode_image
from graft.data.decoders import Decoders, serve, start_decoders

LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")


def save(path: Path, height: int = 9, width: int = 7, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def lives(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and waits to be noticed does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children() -> set[int]:
    """Return the processes whose parent is this one."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == os.getpid():
            found.add(int(folder.name))
    return found


def test_two_processes_decode_as_this_one_does(tmp_path: Path) -> None:
    files = [save(tmp_path / f"{index}.jpg", seed=index) for index in range(4)]
    with start_decoders(2) as decoders:
        for _ in range(3):
            for file, found in zip(files, decoders.decode(files), strict=True):
                assert found is not None
                assert np.array_equal(found, decode_image(file))


def test_what_is_broken_or_large_is_left_to_who_asks(tmp_path: Path) -> None:
    broken, large, good = tmp_path / "broken.png", tmp_path / "large.png", save(tmp_path / "good.png")
    broken.write_bytes(b"no image")
    Image.new("RGB", (600, 600)).save(large)
    answers = io.BytesIO()
    serve(io.BytesIO(pickle.dumps([str(broken), str(large), str(good), str(tmp_path / "gone")])), answers)
    found = pickle.loads(answers.getvalue())
    assert [image is None for image in found] == [True, True, False, True]
    assert np.array_equal(found[2], decode_image(good))


@pytest.mark.parametrize("last_words", ["b''", "pickle.dumps([None])[:-3]", "pickle.dumps([b'x' * 99])[:50]"])
def test_a_process_that_dies_leaves_its_work_to_who_asks(last_words: str, tmp_path: Path) -> None:
    program = f"import pickle, sys; sys.stdout.buffer.write({last_words})"
    file = save(tmp_path / "x.png")
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        decoders = Decoders([process])
        assert decoders.decode([file, file]) == [None, None]
        process.wait()
        assert decoders.decode([file]) == [None]
        with suppress(BrokenPipeError):  # the question that nobody read
            process.communicate()


@LINUX
def test_processes_end_with_the_block_also_by_an_error(tmp_path: Path) -> None:
    file, before, during = save(tmp_path / "x.png"), children(), set()

    def fail_inside() -> None:
        with start_decoders(2) as decoders:
            decoders.decode([file])
            during.update(children() - before)
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert len(during) == 2
    assert not any(lives(pid) for pid in during)


@LINUX
def test_processes_end_when_the_one_that_started_them_is_killed() -> None:
    program = (
        "import subprocess, time\n"
        "from graft.data import decoders\n"
        "started = []\n"
        "class Noting(subprocess.Popen):\n"
        "    def __init__(self, *args, **kwargs):\n"
        "        super().__init__(*args, **kwargs)\n"
        "        started.append(self.pid)\n"
        "decoders.subprocess.Popen = Noting\n"
        "with decoders.start_decoders(2) as pool:\n"
        "    pool.decode([])\n"
        "    print(*started, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(lives(pid) for pid in pids)
        parent.send_signal(signal.SIGKILL)
    until = time.monotonic() + 20
    while any(lives(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(lives(pid) for pid in pids)
