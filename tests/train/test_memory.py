"""Free memory is that of the machine or of its container, whichever is less."""

from __future__ import annotations

import pytest

import graft.train.memory as room
from graft.train.memory import find_free_memory


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Make a machine with so much available memory, in kB, and a group with a limit, in bytes."""

    def make(available=None, limit=None, used=0, files=0):
        if available is not None:
            (tmp_path / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {available} kB\n")
        if limit is not None:
            (tmp_path / "memory.max").write_text(f"{limit}\n")
            (tmp_path / "memory.current").write_text(f"{used}\n")
            (tmp_path / "memory.stat").write_text(f"anon 7\ninactive_file {files}\n")
        monkeypatch.setattr(room, "_MEMINFO", tmp_path / "meminfo")
        monkeypatch.setattr(room, "_GROUP", tmp_path)

    return make


def test_this_machine_says_something_sensible():
    assert 1 << 20 < find_free_memory() < 1 << 50


@pytest.mark.parametrize(
    ("facts", "free"),
    [
        ({"available": 1000}, 1000 << 10),
        ({"available": 1000, "limit": "max"}, 1000 << 10),
        ({"available": 1000, "limit": 5000, "used": 3000, "files": 500}, 2500),
        ({"available": 1, "limit": 5000}, 1024),
        ({"available": 1000, "limit": 10, "used": 30}, 0),
    ],
)
def test_the_lesser_of_machine_and_container_counts(facts, free, machine):
    machine(**facts)
    assert find_free_memory() == free


def test_a_system_that_lists_nothing_has_what_is_built_into_it(machine, monkeypatch):
    machine()
    monkeypatch.setattr(room.os, "sysconf", lambda name: {"SC_PHYS_PAGES": 100, "SC_PAGE_SIZE": 4096}[name])
    assert find_free_memory() == 409_600
    monkeypatch.delattr(room.os, "sysconf")
    assert find_free_memory() is None
