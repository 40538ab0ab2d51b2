"""Activations on disk: what was written comes back, what is damaged or half written does not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graft.reuse import store as room
from graft.reuse.entries import EntryName, list_entries
from graft.reuse.store import ActivationStore

NAME = EntryName("d1", {"size": 16}, "small_cnn", "a" * 64, "5", "32")
SHAPE, COUNT = (3, 2), 50


def make(tmp_path, megabytes=100):
    return ActivationStore(tmp_path / "activations", megabytes << 20)


def values_of(rows, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(COUNT, *SHAPE, generator=generator)[torch.as_tensor(rows)].to(dtype)


def reopen(entry):
    """Open an entry as another process would: with nothing verified."""
    room._verified.clear()
    entry.refresh()
    return entry


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@given(parts=st.lists(st.sets(st.integers(0, COUNT - 1), min_size=1), min_size=1, max_size=4))
def test_what_was_written_comes_back(dtype, parts, tmp_path_factory):
    entry = make(tmp_path_factory.mktemp("store")).open(NAME, COUNT, SHAPE, dtype)
    for part in parts:
        rows = np.array(sorted(part))
        entry.write(rows, values_of(rows, dtype))
    reopen(entry)
    there = sorted(set().union(*parts))
    assert entry.missing(np.arange(COUNT)).tolist() == [row for row in range(COUNT) if row not in there]
    shuffled = np.random.default_rng(0).permutation(there)
    assert torch.equal(entry.read(shuffled), values_of(shuffled, dtype))
    assert entry.faults == []


def test_places_that_nobody_asked_for_cost_no_disk(tmp_path):
    store = make(tmp_path)
    entry = store.open(NAME, 10_000, (256, 8), torch.float32)
    entry.write(np.array([9_999]), torch.ones(1, 256, 8))
    assert (entry.folder / "rows.bin").stat().st_size == 10_000 * 256 * 8 * 4
    assert list_entries(store.root)[0].disk_bytes < 200_000


@pytest.mark.parametrize("changed", ["data", "backbone", "weights", "boundary", "precision", "view"])
def test_everything_in_the_name_counts(changed):
    assert replace(NAME, **{changed: "other"}).digest != NAME.digest
    assert replace(NAME, preprocessing={"size": 32}).digest != NAME.digest


def test_a_damaged_row_is_missing_again_and_named(tmp_path):
    entry = make(tmp_path).open(NAME, COUNT, SHAPE, torch.float32)
    entry.write(np.arange(10), values_of(range(10)))
    entry.write(np.arange(20, 30), values_of(range(20, 30)))
    with (entry.folder / "rows.bin").open("r+b") as file:
        file.seek(22 * entry.row_bytes + 3)
        file.write(b"\xff")
    reopen(entry)
    assert entry.missing(np.arange(30)).tolist() == list(range(10, 30))
    assert entry.faults == [f"10 activations in {entry.folder}"]


def test_a_damaged_part_is_found_but_once_even_if_it_comes_out_otherwise(tmp_path):
    store, rows = make(tmp_path), np.arange(10)
    entry = store.open(NAME, COUNT, SHAPE, torch.float32)
    entry.write(rows, values_of(rows))
    entry.write(rows + 20, values_of(rows + 20))
    with (entry.folder / "rows.bin").open("r+b") as file:
        file.write(b"\xff")
    room._verified.clear()
    found = store.open(NAME, COUNT, SHAPE, torch.float32)
    assert found.faults == [f"10 activations in {entry.folder}"]
    found.write(rows, values_of(rows) * (1 + 1e-6))
    room._verified.clear()
    again = store.open(NAME, COUNT, SHAPE, torch.float32)
    assert again.faults == []
    assert again.is_whole(np.concatenate([rows, rows + 20]))


@pytest.mark.parametrize("cut", [1, 5, 20, 60])
def test_a_line_that_was_not_finished_says_nothing(cut, tmp_path):
    entry = make(tmp_path).open(NAME, COUNT, SHAPE, torch.float32)
    entry.write(np.arange(10), values_of(range(10)))
    entry.write(np.arange(20, 30), values_of(range(20, 30)))
    journal = entry.folder / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[: -cut - 1])
    reopen(entry)
    assert entry.missing(np.arange(30)).tolist() == list(range(10, 30))
    entry.write(np.arange(40, 50), values_of(range(40, 50)))  # goes on behind the broken line
    reopen(entry)
    assert entry.missing(np.arange(40, 50)).tolist() == []


def test_what_is_stored_is_counted_past_what_is_damaged(tmp_path):
    store = make(tmp_path)
    assert store.count_stored(NAME, np.arange(COUNT)) == 0
    entry = store.open(NAME, COUNT, SHAPE, torch.float32)
    entry.write(np.arange(7), values_of(np.arange(7)))
    journal = entry.folder / "journal.jsonl"
    journal.write_text(journal.read_text() + '{"rows": [[0, 90000000000]], "sha256": "00"}\n')
    assert store.count_stored(NAME, np.arange(COUNT)) == 7


@pytest.mark.parametrize("content", [b"", b"{", b'{"count": 3, "shape": [1], "dtype": "float32"}'])
def test_an_entry_that_is_not_what_its_name_says_is_thrown_away(content, tmp_path):
    store = make(tmp_path)
    entry = store.open(NAME, COUNT, SHAPE, torch.float32)
    entry.write(np.arange(10), values_of(range(10)))
    (entry.folder / "about.json").write_bytes(content)
    again = store.open(NAME, COUNT, SHAPE, torch.float32)
    assert len(again.missing(np.arange(COUNT))) == COUNT


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": [3.0, 2]}, {"shape": [True, 2]}, {"shape": [-3, -2]}, {"shape": 6}, {"shape": ["3", 2]},
        {"shape": [10**30, 2]}, {"count": 50.0}, {"count": True}, {"count": 10**30}, {"count": -1},
        {"dtype": ["float32"]},
    ],
    ids=str,
)  # fmt: skip
def test_an_entry_with_a_wrong_number_in_its_description_is_thrown_away(wrong, tmp_path):
    store = make(tmp_path)
    entry = store.open(NAME, COUNT, SHAPE, torch.float32)
    entry.write(np.arange(10), values_of(range(10)))
    about = entry.folder / "about.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | wrong))
    assert store.find(NAME) is None
    again = store.open(NAME, COUNT, SHAPE, torch.float32)
    assert again.faults == [f"{entry.folder}, which held something else and was thrown away"]
    assert len(again.missing(np.arange(COUNT))) == COUNT
    assert store.open(NAME, COUNT, SHAPE, torch.float32).faults == []


FILES = ("about.json", "rows.bin", "journal.jsonl")


@pytest.mark.parametrize(
    ("kind", "name"),
    [("file", ""), ("link", ""), *((kind, name) for kind in ("folder", "link") for name in FILES)],
)
def test_something_else_in_the_place_of_an_entry_or_its_files_is_thrown_away(kind, name, tmp_path):
    store = make(tmp_path)
    place = store.root / NAME.digest / name
    place.parent.mkdir(parents=True)
    if kind == "folder":
        (place / "inside").mkdir(parents=True)
    elif kind == "link":
        place.symlink_to(tmp_path / "nowhere")
    else:
        place.write_text("?")
    assert store.find(NAME) is None
    assert store.count_stored(NAME, np.arange(COUNT)) == 0
    assert [entry.state for entry in list_entries(store.root)] == ["foreign"]
    entry = store.open(NAME, COUNT, SHAPE, torch.float32)
    assert entry.faults == [f"{entry.folder}, which held something else and was thrown away"]
    entry.write(np.arange(10), values_of(range(10)))
    assert store.open(NAME, COUNT, SHAPE, torch.float32).faults == []
    assert torch.equal(store.find(NAME).read(np.arange(10)), values_of(range(10)))


def test_a_foreign_file_in_an_entry_throws_it_away(tmp_path):
    store = make(tmp_path)
    (store.root / NAME.digest).mkdir(parents=True)
    (store.root / NAME.digest / "holiday.jpg").write_bytes(b"?")
    entry = store.open(NAME, COUNT, SHAPE, torch.float32)
    assert sorted(path.name for path in entry.folder.iterdir()) == ["about.json", "rows.bin"]
    assert entry.faults == [f"{entry.folder}, which held something else and was thrown away"]
    assert store.open(NAME, COUNT, SHAPE, torch.float32).faults == []


def test_the_least_recently_used_make_room(tmp_path):
    store = ActivationStore(tmp_path, 300_000)
    names = [replace(NAME, data=f"d{number}") for number in range(3)]
    for number, name in enumerate(names):
        store.open(name, 10, (2500,), torch.float32).write(np.arange(10), torch.ones(10, 2500))
        os.utime(tmp_path / name.digest, (number, number))
    assert not store.make_room(400_000)
    assert list_entries(store.root) == []
    for number, name in enumerate(names):
        store.open(name, 10, (2500,), torch.float32).write(np.arange(10), torch.ones(10, 2500))
        os.utime(tmp_path / name.digest, (number, number))
    assert store.make_room(60_000, keep=[names[0].digest])
    left = {entry.digest for entry in list_entries(store.root)}
    assert names[0].digest in left
    assert names[1].digest not in left


def test_what_another_process_holds_makes_no_room(tmp_path):
    store = make(tmp_path)
    store.open(NAME, COUNT, SHAPE, torch.float32).write(np.arange(10), values_of(range(10)))
    hold = (
        "import sys, filelock; (lock := filelock.FileLock(sys.argv[1])).acquire(); print(flush=True); input()"
    )
    lock = str(store.root / f"{NAME.digest}.lock")
    with subprocess.Popen(
        [sys.executable, "-c", hold, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        assert not store.make_room(10**12)
        assert len(list_entries(store.root)) == 1
        other.communicate(b"\n")
    assert not store.make_room(10**12)
    assert list_entries(store.root) == []


def test_a_journal_that_speaks_of_other_images_says_nothing(tmp_path):
    store = make(tmp_path)
    entry = store.open(NAME, COUNT, SHAPE, torch.float32)
    entry.write(np.arange(10), values_of(range(10)))
    with (entry.folder / "journal.jsonl").open("a") as journal:
        journal.write('{"rows": [[0, 1000000000000]], "sha256": "0"}\n{"rows": [[-5, 3]], "sha256": "0"}\n')
    assert len(reopen(entry).missing(np.arange(COUNT))) == COUNT - 10


def test_rounded_activations_are_another_entry_and_exact_ones_keep_their_name():
    assert NAME.digest == replace(NAME, dtype=None).digest == "fb1f61ce6e09d05b4fdd18b410ea7f3458316185"
    assert len({replace(NAME, dtype=dtype).digest for dtype in (None, "float16", "bfloat16")}) == 3


def test_an_entry_may_be_deleted_while_it_is_read(tmp_path):
    store = make(tmp_path)
    entry = store.open(NAME, COUNT, SHAPE, torch.float32)
    entry.write(np.arange(10), values_of(range(10)))
    assert not store.make_room(10**12)
    assert not entry.folder.exists()
    assert torch.equal(entry.read(np.arange(10)), values_of(range(10)))


def test_a_process_killed_while_it_writes_leaves_nothing_wrong(tmp_path):
    """Kill a writer again and again; what is seen afterwards is always what it should be."""
    script = textwrap.dedent("""
        import sys, numpy as np, torch
        from pathlib import Path
        from graft.reuse.entries import EntryName
        from graft.reuse.store import ActivationStore
        store = ActivationStore(Path(sys.argv[1]), 1 << 30)
        entry = store.open(EntryName("d", {}, "b", "w", "5", "32"), 2000, (1000,), torch.float32)
        print("ready", flush=True)
        for first in range(0, 2000, 20):
            rows = np.arange(first, first + 20)
            entry.write(rows, torch.from_numpy(rows)[:, None].float().expand(20, 1000))
        print("done", flush=True)
    """)
    name = EntryName("d", {}, "b", "w", "5", "32")
    for delay in (0.0, 0.02):
        process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        entry = reopen(ActivationStore(tmp_path, 1 << 30).open(name, 2000, (1000,), torch.float32))
        there = np.setdiff1d(np.arange(2000), entry.missing(np.arange(2000)))
        assert torch.equal(entry.read(there)[:, 7], torch.from_numpy(there).float())
        assert entry.faults == []


def test_the_journal_is_text_that_people_can_read(tmp_path):
    entry = make(tmp_path).open(NAME, COUNT, SHAPE, torch.float32)
    entry.write(np.array([1, 2, 3, 7]), values_of([1, 2, 3, 7]))
    line = json.loads((entry.folder / "journal.jsonl").read_text())
    assert line["rows"] == [[1, 4], [7, 8]]
