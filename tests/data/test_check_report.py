from __future__ import annotations

import io
import json
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from graft.data.check import CheckReport
from graft.data.check_report import SHOWN_FINDINGS, SHOWN_IMAGES, draw_pairs, render_summary, write_check
from graft.data.check_rules import ColourStatistics
from graft.data.check_walk import Item
from graft.data.findings import KINDS, find, sort_findings
from graft.data.image_set import TEST, TRAIN
from graft.data.preprocessing import Preprocessing
from graft.errors import GraftError

VOID = {"meta", "img", "br", "wbr"}


class Page(HTMLParser):
    """Collects tags and text, and insists that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.links: list[str] = []
        self.words: list[str] = []
        self.names: list[str] = []
        self.anchors: list[str] = []
        self.headings: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        found = {name: str(value) for name, value in attributes}
        self.links += [found[name] for name in ("src", "href") if name in found]
        self.names += [found[name] for name in ("alt", "aria-label") if name in found]
        self.anchors += [found[name] for name in ("id",) if name in found]
        self.headings += [tag] if tag in ("h1", "h2", "h3") else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(index: int) -> np.ndarray:
    if index == 2:
        raise GraftError("cut")
    return np.full((30, 20, 3 if index else 1), 10 * (index % 20), dtype=np.uint8)


@pytest.fixture
def report() -> CheckReport:
    names = ["train/a/<b>.png", "test/a/1.png", "train/a/cut.png", *(f"train/a/{n}.png" for n in range(30))]
    items = tuple(Item(name, TEST if name.startswith("test") else TRAIN, "a & b") for name in names)
    findings = [
        find("near_leak", "A pair: <b>.", names[:3], leave_out=names[:1]),
        find("unreadable_image", "Cut.", [names[2]], leave_out=[names[2]]),
        find("duplicates", "Many.", names[3:]),
        *(find("similar_names", f"Like {n}.", [f"x{n}", f"X{n}"]) for n in range(SHOWN_FINDINGS + 5)),
        find("stray_file", "Files.", [f"{n}.txt" for n in range(200)], whole_set=True),
    ]
    return CheckReport(
        name="mine",
        findings=sort_findings(findings),
        items=items,
        classes={TRAIN: ("a & b",), TEST: ("a & b",)},
        counts={TRAIN: Counter({"a & b": 31}), TEST: Counter({"a & b": 1})},
        colours=ColourStatistics((0.1, 0.2, 0.3), (0.1, 0.1, 0.1)),
        expected=Preprocessing(3, 32, None, "bilinear", True, (0.5,) * 3, (0.2,) * 3),
        read=read,
        seconds=1.5,
        likenesses=np.arange(len(items)),
    )


def test_the_page_stands_alone(tmp_path: Path, report: CheckReport) -> None:
    path = write_check(report, tmp_path / "check-mine")
    page = Page()
    page.feed(path.read_text())
    assert page.open == []
    assert page.tags["img"] == 2 + SHOWN_IMAGES
    inside = [link.removeprefix("#") for link in page.links if link.startswith("#")]
    assert set(inside) == {finding.kind for finding in report.findings}
    assert set(inside) <= set(page.anchors)
    images = [link for link in page.links if not link.startswith("#")]
    assert all(link.startswith("data:image/webp;base64,") for link in images)
    assert "train/a/<b>.png, labelled a & b" in page.names
    assert page.headings == ["h1", *["h2"] * (len(inside) + 1)]
    assert (page.tags["main"], page.tags["nav"]) == (1, 1)
    text = " ".join("".join(page.words).split())
    assert "http" not in path.read_text()
    assert "train/a/<b>.png" in text
    assert "no picture" in text
    assert "and 22 more" in text
    assert "5 more of this kind are in findings.json" in text
    assert "and 188 more" in text


def test_json_holds_everything(tmp_path: Path, report: CheckReport) -> None:
    write_check(report, tmp_path)
    findings = json.loads((tmp_path / "findings.json").read_text())
    assert [one["kind"] for one in findings] == [finding.kind for finding in report.findings]
    assert findings[0]["severity"] == "error"
    assert {"kind", "severity", "message", "advice", "paths", "count", "leave_out"} == set(findings[0])
    stray = findings[-1]
    assert (stray["count"], len(stray["paths"])) == (200, 100)
    assert [one["paths"] for one in findings if one["kind"] == "duplicates"] == [
        [f"train/a/{n}.png" for n in range(30)]
    ]


def test_nothing_found(tmp_path: Path, report: CheckReport) -> None:
    empty = CheckReport("mine", (), (), {}, {}, None, report.expected, read, 0.0, np.arange(0))
    assert "Nothing was found" in write_check(empty, tmp_path).read_text()
    assert json.loads((tmp_path / "findings.json").read_text()) == []


def test_the_table_has_a_row_per_kind(report: CheckReport) -> None:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(render_summary(report))
    text = console.export_text()
    for kind in ("near_leak", "unreadable_image", "duplicates", "similar_names", "stray_file"):
        assert KINDS[kind].title in text
    assert "A pair: <b>." in text


def test_pairs_are_drawn_side_by_side(tmp_path: Path, report: CheckReport) -> None:
    assert draw_pairs(report, "near_leak", tmp_path / "sheet.png") == 1
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet[40, 40].tolist() == [0, 0, 0]
    assert sheet[40, 8 + 64 + 32].tolist() == [10, 10, 10]
