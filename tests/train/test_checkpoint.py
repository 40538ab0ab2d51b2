from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graft.errors import GraftError
from graft.train.checkpoint import Checkpoints, State


def make_state(step: int, size: int = 4) -> State:
    values = {"rates": [0.1, 1 / 3], "best": None, "worst": float("inf")}
    return State(
        step, "training", step / 7, values, {"a": torch.full((size,), step / 3), "b": torch.arange(3)}
    )


def same(one: State | None, other: State) -> bool:
    return (
        one is not None
        and (one.step, one.phase, one.seconds, one.values)
        == (other.step, other.phase, other.seconds, other.values)
        and one.tensors.keys() == other.tensors.keys()
        and all(torch.equal(value, other.tensors[name]) for name, value in one.tensors.items())
    )


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "resume" / "key", "key")


def files(checkpoints: Checkpoints) -> list[Path]:
    return sorted(checkpoints.folder.iterdir())


def test_what_was_written_is_read(checkpoints: Checkpoints) -> None:
    assert checkpoints.newest() is None
    for step in (3, 11, 200):
        checkpoints.write(make_state(step))
        assert same(Checkpoints(checkpoints.folder, "key").newest(), make_state(step))
    assert len(files(checkpoints)) == 2, "the newest, and one to fall back on"
    assert checkpoints.notes == []
    checkpoints.delete()
    assert not checkpoints.folder.exists()
    checkpoints.delete()


def test_the_newest_is_the_last_written_and_not_the_furthest(checkpoints: Checkpoints) -> None:
    for step in (12, 12, 4):
        checkpoints.write(make_state(step))
    assert same(checkpoints.newest(), make_state(4))


@pytest.mark.parametrize("keep", [1, 3])
def test_as_many_are_kept_as_asked_for(tmp_path: Path, keep: int) -> None:
    checkpoints = Checkpoints(tmp_path, "key", keep_last=keep)
    (tmp_path / ".000001-step1-left.safetensors.4711").touch()  # of a process that was killed while writing
    for step in range(6):
        checkpoints.write(make_state(step))
    assert len(files(checkpoints)) == keep


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip, empty])
def test_a_damaged_one_is_named_and_the_one_before_it_is_used(
    checkpoints: Checkpoints, damage: Callable[[Path], None]
) -> None:
    for step in (5, 6):
        checkpoints.write(make_state(step))
    older, newer = files(checkpoints)
    damage(newer)
    again = Checkpoints(checkpoints.folder, "key")
    assert same(again.newest(), make_state(5))
    assert len(again.notes) == 1
    assert f"The checkpoint {newer} was not used: its" in again.notes[0]
    assert "do not have the sha256 in its name" in again.notes[0]
    again.write(make_state(7))
    assert older in files(again), "what is damaged takes nobody's place"
    damage(older)
    damage(files(again)[-1])
    assert again.newest() is None
    assert len(again.notes) == 3


@given(st.integers(0, 10**6), st.integers(0, 255))
def test_no_changed_byte_passes(tmp_path_factory: pytest.TempPathFactory, place: int, value: int) -> None:
    checkpoints = Checkpoints(tmp_path_factory.mktemp("damaged"), "key")
    checkpoints.write(make_state(5))
    path = files(checkpoints)[0]
    content = bytearray(path.read_bytes())
    before = content[place % len(content)]
    content[place % len(content)] = value
    path.write_bytes(content)
    assert (checkpoints.newest() is None) == (value != before)


def test_one_of_another_run_is_refused_by_name(checkpoints: Checkpoints) -> None:
    checkpoints.write(make_state(5))
    with pytest.raises(
        GraftError, match=r"to belong to the run other, but it is of the run key\."
    ) as refused:
        Checkpoints(checkpoints.folder, "other").newest()
    assert str(files(checkpoints)[0]) in str(refused.value)
    assert files(checkpoints), "it is not ours to delete"


def test_one_of_another_format_is_not_read(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.train.checkpoint._FORMAT", 0)
    checkpoints.write(make_state(5))
    monkeypatch.undo()
    assert checkpoints.newest() is None
    assert "it has format 0, and this version of graft reads 1" in checkpoints.notes[0]


# Disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk can only be mounted by root on Linux")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_leaves_the_last_good_state(small_disk: Path) -> None:
    checkpoints = Checkpoints(small_disk / "key", "key")
    checkpoints.write(make_state(1, size=20_000))
    before = files(checkpoints)
    for _ in range(3):
        with pytest.raises(
            GraftError, match=r"Expected to write .*, but could not: No space left on device\."
        ):
            checkpoints.write(make_state(2, size=60_000))
        assert files(checkpoints) == before, "no part of a file is left"
    assert same(checkpoints.newest(), make_state(1, size=20_000))
    checkpoints.write(make_state(3))
    assert same(checkpoints.newest(), make_state(3))


def test_a_read_only_disk_leaves_the_last_good_state(small_disk: Path) -> None:
    checkpoints = Checkpoints(small_disk / "key", "key")
    checkpoints.write(make_state(1))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(GraftError, match=r"Expected to write .*, but could not: Read-only file system\."):
        checkpoints.write(make_state(2))
    assert same(checkpoints.newest(), make_state(1))
    kept = files(checkpoints)
    checkpoints.delete()
    assert files(checkpoints) == kept


def test_a_limit_on_files_is_said(checkpoints: Checkpoints) -> None:
    """As a quota does it, for who is not root: the kernel refuses the write in its middle."""
    checkpoints.write(make_state(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(GraftError, match=r"could not: File too large\."):
            checkpoints.write(make_state(2, size=50_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(files(checkpoints)) == 1
    assert same(checkpoints.newest(), make_state(1))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_said(checkpoints: Checkpoints) -> None:
    checkpoints.write(make_state(1))
    checkpoints.folder.chmod(0o500)
    with pytest.raises(GraftError, match="could not: Permission denied"):
        checkpoints.write(make_state(2))
    assert same(checkpoints.newest(), make_state(1))
