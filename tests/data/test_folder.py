from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graft.data.check_walk import list_folder
from graft.data.folder import scan_folder


def make(root: Path) -> Path:
    """Write two classes with names that sort, nest and end in every odd way."""
    rng = np.random.default_rng(0)
    names = (
        "b/2.png",
        "b/10.PNG",
        "b/deep er/1.jpg",
        "a/x.JPeG",
        "a/x.y.bmp",
        "a/.hidden.png",
        "a/notes.txt",
    )
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix != ".txt":
            Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)).save(file)
        else:
            file.write_text("no image")
    return root


def test_the_digest_is_made_of_these_words_and_stays_so(tmp_path: Path) -> None:
    """Keys of finished runs have it in them: what is written here may never change."""
    root = make(tmp_path / "images")
    expected = ["a/x.JPeG", "a/x.y.bmp", "b/10.PNG", "b/2.png", "b/deep er/1.jpg"]
    digest = hashlib.sha256(json.dumps(["a", "b"]).encode())
    for name in expected:
        content = (root / name).read_bytes()
        words = [name, 0 if name.startswith("a") else 1, len(content), hashlib.sha256(content).hexdigest()]
        digest.update(json.dumps(words).encode())
    scan = scan_folder(root, tmp_path / "cache")
    assert scan.item_ids == tuple(expected)
    assert scan.digest == digest.hexdigest()
    assert scan.labels.tolist() == [0, 0, 1, 1, 1]
    assert scan.ignored == 1
    assert scan_folder(root, tmp_path / "cache").digest == scan.digest


@pytest.mark.parametrize("word", [".", "../images", "./"])
def test_a_relative_root_names_the_same_images(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absolute = scan_folder(make(tmp_path / "images"), tmp_path / "cache")
    monkeypatch.chdir(tmp_path / "images")
    scan = scan_folder(Path(word), tmp_path / "cache")
    assert (scan.item_ids, scan.digest) == (absolute.item_ids, absolute.digest)


def test_each_new_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, opened = make(tmp_path / "images"), []
    read = Path.read_bytes

    def note(path: Path) -> bytes:
        opened.append(path.name)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", note)
    images = ["10.PNG", "2.png", "1.jpg", "x.JPeG", "x.y.bmp"]
    scan_folder(root, tmp_path / "cache")
    assert sorted(name for name in opened if not name.endswith(".json")) == sorted(images)
    opened.clear()
    os.utime(root / "b" / "2.png", (1, 1))
    scan_folder(root, tmp_path / "cache")
    assert [name for name in opened if not name.endswith(".json")] == ["2.png"]


def test_a_pipe_that_is_called_like_an_image_is_passed_over(tmp_path):
    """Reading it would wait for ever."""
    for name in ("ant", "bee"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(2):
            pixels = np.full((4, 4, 3), 40 * number, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    os.mkfifo(tmp_path / "images" / "ant" / "pipe.png")
    assert len(scan_folder(tmp_path / "images", tmp_path / "cache").item_ids) == 4
    listing = list_folder(tmp_path / "images")
    assert [item.name for item in listing.items] == ["ant/0.png", "ant/1.png", "bee/0.png", "bee/1.png"]
    assert [(found.kind, found.paths) for found in listing.findings] == [("stray_file", ("ant/pipe.png",))]
