from __future__ import annotations

import errno
from pathlib import Path

import pytest

from graft.data.cache import write_whole
from graft.errors import GraftError


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    for content in (b"one", b"two"):
        write_whole(path, lambda file, content=content: file.write(content))
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("graft.data.cache.os.fsync", fail)
    with pytest.raises(GraftError, match=r"Expected to write .*file, but got: No space left.*`paths\.root`"):
        write_whole(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_the_writer_is_passed_on(tmp_path: Path) -> None:
    def fail(file: object) -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        write_whole(tmp_path / "file", fail)
    assert list(tmp_path.iterdir()) == []
