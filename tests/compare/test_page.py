"""The page: its parts, that it needs nothing from outside, and that it says what it is given."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from graft.compare.canvas import DEPTH_COLOURS, RANDOM_COLOUR
from graft.compare.evidence import Evidence, Portrait, Predictions, Sheet, read_sheet
from graft.compare.figures.worst import draw_worst
from graft.compare.report import compare_records, write_report
from graft.compare.runs import read_runs

GOLDEN = Path(__file__).parents[1] / "golden"

#: Elements without an end.
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Collects the elements of a page, and whether each that opens also closes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    records = read_runs(GOLDEN / "runs.csv")
    section = compare_records(records, experiment="demo", metric="accuracy").sections[0]
    rng = np.random.default_rng(0)
    two = [Predictions(rng.integers(0, 3, 60), rng.dirichlet([1, 1, 1], 60)) for _ in range(2)]
    portrait = Portrait("20", "fine-tune", "from scratch", ("a", "b", "<i>c</i>"), *two)
    picture = rng.integers(0, 255, (8, 8, 1), dtype=np.uint8)
    png = b"\x89PNG made by nobody"
    assert draw_worst([picture], ["a, taken for b (0.99)"], "Surest errors").axes
    sheet = Sheet("worst_errors-c0ffee", "digits: surest errors", ("a, taken for b (0.99)",), png)
    histories = dict.fromkeys(section.chosen, ((1, 0.1), (2, 0.3)))
    command = "graft train experiment=demo"
    return Evidence(histories, {section.condition: portrait}, {section.condition: sheet}, (command,))


@pytest.fixture(scope="module")
def folder(evidence: Evidence, tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = read_runs(GOLDEN / "runs.csv")
    comparison = compare_records(records, experiment="a <b> & c", metric="accuracy", question="Does 1 < 2?")
    path = tmp_path_factory.mktemp("report")
    write_report(comparison, path, evidence)
    return path


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return (folder / "index.html").read_text()


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_the_page_is_whole_and_small(folder: Path, page: Page) -> None:
    assert page.open == []
    assert 50_000 < (folder / "index.html").stat().st_size < 5_000_000


def test_nothing_is_loaded_from_outside(text: str, page: Page) -> None:
    loads = [value for _, one in page.elements for key, value in one.items() if key in ("src", "href")]
    assert all(value.startswith(("#", "data:", "figures/")) for value in loads)
    assert not re.search(r"@import|url\((?!#)", text)
    assert set(re.findall(r"https?://[^\s\"']+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    [policy] = [one["content"] for one in page.all("meta") if one.get("http-equiv")]
    assert "default-src 'none'" in policy


def test_the_first_screen_holds_question_answer_figure_and_doubts(text: str) -> None:
    places = [text.index(words) for words in ("Does 1 &lt; 2?", "Transfer helps at 2", "<svg", 'id="doubts"')]
    assert places == sorted(places)
    assert "<code>trainer.min_steps</code>" in text


def test_names_are_escaped(text: str) -> None:
    assert "<h1>a &lt;b&gt; &amp; c</h1>" in text
    assert "<i>c</i>" not in text


def test_readers_of_every_kind_are_served(text: str, page: Page) -> None:
    names = {tag for tag, _ in page.elements}
    assert {"header", "main", "nav", "footer", "h1", "figure", "figcaption", "details", "dialog"} <= names
    assert all(one.get("alt") for one in page.all("img"))
    assert all(one.get("aria-label") for one in page.all("svg"))
    assert all(one.get("scope") for one in page.all("th"))
    assert page.all("html") == [{"lang": "en"}]
    identities = [one["id"] for _, one in page.elements if "id" in one]
    assert len(identities) == len(set(identities))
    for words in ("prefers-color-scheme: dark", "@media print", "max-width: 40rem"):
        assert words in text


def luminance(colour: str) -> float:
    """Return the relative luminance of a colour.

    Source: Web Content Accessibility Guidelines 2.2, "relative luminance".
    """
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("place", [0, 1, 2], ids=["light", "dark", "print"])
def test_words_can_be_read_on_every_ground(text: str, place: int) -> None:
    """WCAG AA: 4.5 to 1 for text. Arms are told apart by markers, dashes and words too: less does."""
    themes = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", one)) for one in re.findall(r":root \{([^}]+)\}", text)
    ]
    assert len(themes) == 3
    theme = themes[place]
    for name in ("ink", "soft", "link", "good", "bad", "warn", "same", "scratch"):
        for ground in ("paper", "card"):
            pale, dark = sorted((luminance(theme[name]), luminance(theme[ground])), reverse=True)
            assert (pale + 0.05) / (dark + 0.05) >= 4.5, (name, ground)
    for colour in (*DEPTH_COLOURS, RANDOM_COLOUR):
        pale, dark = sorted((luminance(colour), luminance(theme["paper"])), reverse=True)
        assert (pale + 0.05) / (dark + 0.05) >= 1.5, colour


def test_every_figure_is_there_with_words_and_numbers(folder: Path, text: str, page: Page) -> None:
    names = {path.stem for path in (folder / "figures").glob("*.png")}
    assert names == {
        "accuracy_by_labels", "accuracy_pairs", "accuracy_by_rate", "accuracy_by_cost", "learning_curves",
        "confusion", "calibration", "worst_errors-c0ffee",
    }  # fmt: skip
    assert {one["id"] for one in page.all("figure")} == {f"fig-{name}" for name in names}
    assert len(page.all("details")) == len(names)
    said = [one["data-say"] for one in page.all("use") if "data-say" in one]
    assert "linear probe, 2 labels per class: 0.800 [0.784, 0.816]" in said
    assert "fine-tune, seed 3: 0.973" not in said
    assert len(said) > 100
    assert "#1a1a1a" not in "".join(one.get("style", "") for one in page.all("text"))


def test_how_it_was_done(text: str) -> None:
    assert "<code>graft train experiment=demo</code>" in text
    assert "90 finished, 1 failed" in text
    assert "the test metrics of 30 runs were read" in text


def test_an_oracle_is_stamped_on_every_page(tmp_path) -> None:
    comparison = compare_records(read_runs(GOLDEN / "runs.csv"), experiment="demo", metric="accuracy")
    write_report(replace(comparison, selection="oracle"), tmp_path)
    for name in ("index.html", "report.md", "table.tex"):
        assert "Oracle selection: test itself chose" in (tmp_path / name).read_text(), name


@pytest.mark.full
def test_figures_that_do_not_fit_are_linked(evidence: Evidence, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("graft.compare.page._FIGURE_BYTES", 40_000)
    comparison = compare_records(read_runs(GOLDEN / "runs.csv"), experiment="demo", metric="accuracy")
    write_report(comparison, tmp_path, evidence)
    text = (tmp_path / "index.html").read_text()
    assert 'This figure is too large for the page: <a href="figures/' in text
    assert len(text) < 100_000


def test_figures_of_an_earlier_report_go(tmp_path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "confusion-old.png").write_text("")
    comparison = compare_records(read_runs(GOLDEN / "runs.csv"), experiment="demo", metric="accuracy")
    write_report(comparison, tmp_path)
    assert not (tmp_path / "figures" / "confusion-old.png").exists()


def test_the_sheet_of_an_earlier_report_is_read_back(folder: Path, evidence: Evidence) -> None:
    [sheet] = evidence.sheets.values()
    assert read_sheet(folder, sheet.name, sheet.caption) == sheet
    assert read_sheet(folder, "worst_errors-other", "") is None
