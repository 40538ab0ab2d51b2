"""Processes that decode small image files side by side.

Threads do that for large images, where Pillow works long without Python's lock. A small one is mostly Python,
and that only processes can share. They are started as plain commands: a process that has threads must not be
forked, and `multiprocessing` would run the caller's main module again in each of them.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import IO

from graft.data.decode import decode_image
from graft.data.image_set import UInt8Array

LARGEST_SENT = 1_000_000
"""Bytes; a larger image is decoded by who asks: it would take long to hand over, and much memory."""


class Decoders:
    """Processes that wait for files to decode; any number of threads may ask."""

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        for process in processes:
            self._idle.put(process)

    def decode(self, files: Sequence[Path]) -> list[UInt8Array | None]:
        """Decode files in the next process that is idle.

        Args:
            files: The files.

        Returns:
            Each as `decode_image` would return it, or ``None``: decode it yourself, to get the image or the
            error that it raises.
        """
        process = self._idle.get()
        try:
            assert process.stdin is not None  # both are pipes
            assert process.stdout is not None
            pickle.dump([str(file) for file in files], process.stdin)
            process.stdin.flush()
            decoded: list[UInt8Array | None] = pickle.load(process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):  # it has died
            return [None] * len(files)
        finally:
            self._idle.put(process)
        return decoded


@contextmanager
def start_decoders(count: int) -> Iterator[Decoders]:
    """Start ``count`` processes, and end them with the block; they also end when this process does."""
    processes: list[subprocess.Popen[bytes]] = []
    # Not from the working folder (-P), and in groups of their own: Ctrl-C is for who waits for them.
    command = [sys.executable, "-P", "-m", "graft.data.decoders"]
    try:
        for _ in range(count):
            processes.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)
            )
        yield Decoders(processes)
    finally:
        for process in processes:
            process.kill()  # nothing that they do outlives the answer
        for process in processes:
            with suppress(OSError):  # what was on its way to a dead process
                process.communicate()


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Decode lists of files until there are no more."""
    while True:
        try:
            files = pickle.load(requests)
        except EOFError:
            return
        pickle.dump([_decode(Path(file)) for file in files], answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()


def _decode(file: Path) -> UInt8Array | None:
    try:
        image = decode_image(file)
    except Exception:  # who asks decodes it again, and says what is wrong
        return None
    return image if image.nbytes <= LARGEST_SENT else None


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
