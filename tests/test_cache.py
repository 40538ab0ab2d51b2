"""`graft cache`: what is kept is shown, and only what may go goes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from graft.cli import main
from graft.reuse.entries import EntryName
from graft.reuse.store import ActivationStore

DAY = 86_400.0


def add_activations(root: Path, data: str, rows: int = 10, days: float = 0.0) -> Path:
    """Store 100 kB for each ten images, used so many days ago."""
    name = EntryName(data, {"size": 16}, "small_cnn", "a" * 64, "5", "32")
    entry = ActivationStore(root / "cache" / "activations", 10**9).open(name, 100, (2500,), torch.float32)
    entry.write(np.arange(rows), torch.ones(rows, 2500))
    used = time.time() - days * DAY
    os.utime(entry.folder, (used, used))
    return entry.folder


def add_images(root: Path, name: str, days: float = 0.0) -> Path:
    path = root / "cache" / "pixels" / f"{name}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((10, 1, 100, 100), dtype=np.uint8)
    np.save(path, pixels)
    path.with_suffix(".sha256").write_text(hashlib.sha256(pixels.data).hexdigest())
    used = time.time() - days * DAY
    os.utime(path, (used, used))
    return path


def ask(capsys: pytest.CaptureFixture[str], root: Path, *words: str) -> str:
    assert main(["cache", *words, f"paths.root={root}"]) == 0
    return capsys.readouterr().out


def ask_json(capsys: pytest.CaptureFixture[str], root: Path, *words: str) -> dict:
    return json.loads(ask(capsys, root, *words, "--json"))


def reasons(told: dict) -> dict[str, str]:
    return {Path(item["path"]).name: item["reason"] for item in told["removed"]}


def test_what_is_kept_is_shown(tmp_path, capsys):
    add_activations(tmp_path, "d1")
    add_images(tmp_path, "p1")
    (tmp_path / "cache" / "glyphs").mkdir()
    (tmp_path / "cache" / "glyphs" / "v1.npz").write_bytes(b"x" * 5000)
    shown = ask(capsys, tmp_path)
    for words in (
        "small_cnn, stage 5",
        "aaaaaaaa",
        "float32",
        "d1",
        "10",
        "0 s ago",
        "of 20 GB",
        "All else: 5 kB",
    ):
        assert words in shown
    told = ask_json(capsys, tmp_path)
    (entry,), (image,) = told["activations"], told["images"]
    assert (entry["rows"], entry["boundary"], entry["state"]) == (10, "5", "whole")
    assert 100_000 <= entry["disk_bytes"] < 130_000
    assert image["disk_bytes"] > 100_000
    assert told["total_bytes"] == entry["disk_bytes"] + image["disk_bytes"] + 5000
    assert told["budget_bytes"] == 20_000_000_000


def test_nothing_kept_is_no_mistake(tmp_path, capsys):
    assert "Activations: 0 kB of 20 GB" in ask(capsys, tmp_path)
    assert "0 kB freed" in ask(capsys, tmp_path, "prune")


def test_what_is_sound_and_within_the_budget_stays(tmp_path, capsys):
    kept = [add_activations(tmp_path, "d1", days=99), add_images(tmp_path, "p1", days=99)]
    assert ask_json(capsys, tmp_path, "prune")["removed"] == []
    assert all(path.exists() for path in kept)


def test_damaged_foreign_and_unfinished_items_go(tmp_path, capsys):
    sound, damaged, about = (add_activations(tmp_path, name) for name in ("sound", "damaged", "about"))
    with (damaged / "rows.bin").open("r+b") as file:
        file.write(b"\xff" * 4)
    (about / "about.json").write_text("{")
    moved = add_activations(tmp_path, "moved")
    moved.rename(moved.with_name("0" * 40))  # not what its name says
    empty = add_activations(tmp_path, "empty")
    (empty / "journal.jsonl").write_text("")
    os.utime(empty, (0, 0))
    image, half = add_images(tmp_path, "p1"), add_images(tmp_path, "p2", days=1)
    image.write_bytes(image.read_bytes()[:-1] + b"\1")
    half.with_suffix(".sha256").unlink()
    told = reasons(ask_json(capsys, tmp_path, "prune"))
    assert told == {
        damaged.name: "damaged", about.name: "foreign", "0" * 40: "foreign", empty.name: "unfinished",
        "p1.npy": "damaged", "p2.npy": "unfinished",
    }  # fmt: skip
    left = [path.name for path in (tmp_path / "cache" / "activations").iterdir() if path.is_dir()]
    assert left == [sound.name]


def test_what_is_no_entry_at_all_is_foreign_and_goes(tmp_path, capsys):
    sound, odd = add_activations(tmp_path, "sound"), add_activations(tmp_path, "odd")
    (odd / "rows.bin").unlink()
    (odd / "rows.bin").mkdir()
    stray, link = sound.with_name("f" * 40), sound.with_name("holiday.jpg")
    stray.write_bytes(b"?" * 5000)
    link.symlink_to(tmp_path / "nowhere")
    states = {Path(item["path"]).name: item["state"] for item in ask_json(capsys, tmp_path)["activations"]}
    foreign = dict.fromkeys((odd.name, stray.name, link.name), "foreign")
    assert states == foreign | {sound.name: "whole"}
    assert "graft cache prune" in ask(capsys, tmp_path)
    assert reasons(ask_json(capsys, tmp_path, "prune")) == foreign
    assert [item["state"] for item in ask_json(capsys, tmp_path)["activations"]] == ["whole"]


def test_what_another_process_has_just_begun_stays(tmp_path, capsys):
    folder = add_activations(tmp_path, "d1")
    (folder / "journal.jsonl").unlink()
    part = add_images(tmp_path, "p1").rename(tmp_path / "cache" / "pixels" / ".p1.npy.x7.part")
    assert ask_json(capsys, tmp_path, "prune")["removed"] == []
    os.utime(part, (0, 0))
    assert reasons(ask_json(capsys, tmp_path, "prune")) == {part.name: "unfinished"}


def test_the_least_recently_used_goes_over_the_budget(tmp_path, capsys):
    old, new = add_activations(tmp_path, "old", days=2), add_activations(tmp_path, "new", days=1)
    told = ask_json(capsys, tmp_path, "prune", "reuse.disk_gb=0.00015")
    assert reasons(told) == {old.name: "over the budget"}
    assert new.exists()
    assert told["activation_bytes"] < 150_000
    ask(capsys, tmp_path, "prune", "reuse.disk_gb=0")
    assert not new.exists()


@pytest.mark.parametrize("words", [["--older-than=30d"], ["--older-than", "4w"], ["--older-than=720h"]])
def test_what_nobody_used_for_long_goes_when_asked(words, tmp_path, capsys):
    old, new = add_activations(tmp_path, "old", days=40), add_activations(tmp_path, "new", days=20)
    image = add_images(tmp_path, "p1", days=40)
    assert set(reasons(ask_json(capsys, tmp_path, "prune", *words))) == {old.name, image.name}
    assert new.exists()
    assert not old.exists()
    assert not image.exists()
    assert not image.with_suffix(".sha256").exists()


def test_everything_goes_but_what_a_live_process_holds(tmp_path, capsys):
    held, free = add_activations(tmp_path, "held"), add_activations(tmp_path, "free")
    image = add_images(tmp_path, "p1")
    locks = [str(held.with_name(f"{held.name}.lock")), str(image.with_suffix(".lock"))]
    hold = (
        "import sys, filelock; locks = [filelock.FileLock(path) for path in sys.argv[1:]]; "
        "[lock.acquire() for lock in locks]; print(flush=True); input()"
    )
    command = [sys.executable, "-c", hold, *locks]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        told = ask_json(capsys, tmp_path, "prune", "--all")
        assert reasons(told) == {free.name: "all"}
        assert {Path(item["path"]).name for item in told["held"]} == {held.name, "p1.npy"}
        assert "2 items could not be removed: a process holds them." in ask(
            capsys, tmp_path, "prune", "--all"
        )
        other.communicate(b"\n")
    assert held.exists()
    assert image.exists()
    ask(capsys, tmp_path, "prune", "--all")
    assert not held.exists()
    assert not image.exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["purge"], "Expected `option` to be one of: prune,"),
        (["prune", "--older-than=month"], "such as 30d, 12h or 2w, but got '--older-than=month'"),
        (["prune", "--older-than"], "such as 30d, 12h or 2w, but got '--older-than'"),
        (["--all"], "Expected `graft cache prune` with `--all`"),
        (
            ["prune", "reuse.disk_gb=-1"],
            "Expected `reuse.disk_gb=<GB>`, at least 0, but got 'reuse.disk_gb=-1'",
        ),
    ],
)
def test_mistakes_are_told(words, told, capsys):
    assert main(["cache", *words]) == 2
    assert told in capsys.readouterr().err


def test_it_starts_without_torch(tmp_path):
    add_activations(tmp_path, "d1")
    script = (
        "import sys; from graft.cli import main; main(['cache', f'paths.root={sys.argv[1]}']); "
        "main(['cache', 'prune', f'paths.root={sys.argv[1]}']); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, capture_output=True)
