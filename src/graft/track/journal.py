"""What a run has to say while its store does not answer, kept on disk in order."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: A number of a run: key, value, milliseconds since 1970, step.
Point = tuple[str, float, int, int]

_NONE: Mapping[str, str] = {}


@dataclass(frozen=True)
class Message:
    """One thing to send. Sending it twice is the same as sending it once.

    Attributes:
        kind: ``batch``, ``files`` or ``end``.
        content: What it says, as plain values.
    """

    kind: str
    content: Mapping[str, Any]


def say_batch(
    points: Sequence[Point] = (),
    tags: Mapping[str, str] | None = None,
    params: Mapping[str, str] | None = None,
) -> Message:
    """Return numbers, tags and parameters as a message."""
    batch = {
        "points": [list(point) for point in points],
        "tags": dict(tags or {}),
        "params": dict(params or {}),
    }
    return Message("batch", batch)


def say_files(folder: Path, path: str | None) -> Message:
    """Return the files of a folder, to be stored under ``path``, as a message."""
    return Message("files", {"folder": str(folder), "path": path})


def say_end(status: str, milliseconds: int) -> Message:
    """Return the end of a run as a message: MLflow's status and when."""
    return Message("end", {"status": status, "time": milliseconds})


class Journal:
    """Messages on disk, each one there to stay before `append` returns.

    Args:
        folder: Where they are kept; made when the first one comes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lines = folder / "journal.jsonl"

    def append(self, message: Message) -> Message:
        """Keep ``message``, and return it as it can be sent later: its files are copies."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if message.kind == "files":
            message = self._copy_files(message)
        with self._lines.open("a") as file:
            file.write(json.dumps({"kind": message.kind, "content": dict(message.content)}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(self.folder)
        return message

    def read(self) -> list[Message]:
        """Return what is kept; a last line that was being written when its process died never counted."""
        if not self._lines.exists():
            return []
        text = self._lines.read_text()
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            os.truncate(self._lines, len(whole.encode()))
        return [Message(**json.loads(line)) for line in whole.splitlines()]

    def remove(self) -> None:
        """Forget everything."""
        # The lines first: without them files are leftovers, without files lines could not be sent.
        self._lines.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _copy_files(self, message: Message) -> Message:
        number = sum(1 for _ in self.folder.glob("files-*"))
        copied = self.folder / f"files-{number}"
        shutil.copytree(message.content["folder"], copied)
        for file in copied.rglob("*"):
            if file.is_file():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
        return say_files(copied, message.content["path"])


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
