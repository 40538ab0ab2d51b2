"""`graft check` as it is called: exit codes, what is printed, what is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graft.cli import main


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "mine" / split / name).mkdir(parents=True)
            for number in range(6):
                pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "mine" / split / name / f"{number}.png")
    return tmp_path / "mine"


def call(root: Path, *more: str) -> int:
    return main(["check", "data=folder", f"data.root={root}", f"paths.root={root.parent / 'runs'}", *more])


def test_warnings_alone_pass_and_errors_do_not(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(root) == 0
    assert "0 errors, 1 warning, 0 notes" in (out := capsys.readouterr().out)
    assert "below half of the network's 224 px" in " ".join(out.split())
    Image.open(root / "train/a/0.png").save(root / "test/a/copy.png")
    assert call(root) == 1
    assert "1 error," in capsys.readouterr().out
    reports = root.parent / "runs" / "reports" / "check-mine"
    assert {path.name for path in reports.iterdir()} == {"index.html", "findings.json", "leak.png"}
    (root / "test/a/copy.png").unlink()
    assert call(root, "data.image_size=32") == 0
    assert {path.name for path in reports.iterdir()} == {"index.html", "findings.json"}


def test_json_is_a_list_of_findings(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "train/a/cut.png").write_bytes(b"")
    assert call(root, "--json", "backbone=small_cnn", "data.image_size=32") == 1
    findings = json.loads(capsys.readouterr().out)
    assert [(one["kind"], one["severity"], one["paths"]) for one in findings] == [
        ("unreadable_image", "error", ["train/a/cut.png"])
    ]


def test_all_faults_of_a_table_at_once(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = root.parent / "list.csv"
    lines = [f"train/{name}/{number}.png,{name}" for name in "ab" for number in range(6)]
    lines[1], lines[4] = "gone.png,a", "train/a/4.png,"
    table.write_text("\n".join(["path,label", *lines]))
    words = ["check", "data=table", f"data.table={table}", f"data.root={root}", "data.image_size=32"]
    words.append(f"paths.root={root.parent / 'runs'}")
    assert main(words) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "Row 3: 'gone.png' does not exist under" in out
    assert "Row 6: the label is empty. Fill it in, or remove the row." in out
    assert "10 images in" in out
    assert "2 errors," in out
    table.write_text("file,class\n")
    assert main(words) == 2
    assert "lacks path and label. It has: 'file', 'class'" in capsys.readouterr().err


def test_the_home_folder(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No shell writes the home folder for a ~ inside a word, and people type it there."""
    monkeypatch.setenv("HOME", str(root.parent))
    assert main(["check", "data=folder", "data.root=~/mine", "paths.root=~/runs", "data.image_size=32"]) == 0
    assert f"{root.parent}/runs/reports/check-mine/index.html" in capsys.readouterr().out


def test_mistakes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(root / "gone") == 2
    assert "does not exist" in capsys.readouterr().err
    assert call(root, "-m") == 2
    assert "one data set to check" in capsys.readouterr().err
