"""The report in a real browser: quiet, alone, and usable with a mouse, a keyboard, a finger and a printer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graft.compare.canvas import render_figure
from graft.compare.evidence import Evidence, Portrait, Predictions, Sheet
from graft.compare.figures.worst import draw_worst
from graft.compare.report import compare_records, write_report
from graft.compare.runs import read_runs

pytestmark = pytest.mark.browser

GOLDEN = Path(__file__).parents[1] / "golden"
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a page with every kind of figure."""
    records = read_runs(GOLDEN / "runs.csv")
    comparison = compare_records(records, experiment="demo", metric="accuracy", question="Does it pay?")
    [section] = comparison.sections
    rng = np.random.default_rng(0)
    names = tuple(f"class {number}" for number in range(10))
    two = [Predictions(rng.integers(0, 10, 200), rng.dirichlet(np.ones(10) / 5, 200)) for _ in range(2)]
    portrait = Portrait("20", "fine-tune", "from scratch", names, *two)
    pictures = [rng.integers(0, 255, (8, 8, 1), dtype=np.uint8) for _ in range(7)]
    captions = tuple(f"{number}, taken for 3 (0.99)" for number in range(7))
    png = render_figure(draw_worst(pictures, captions, "Surest errors"), "png")
    sheet = Sheet("worst_errors", "digits: surest errors", captions, png)
    histories = {run_id: tuple((step, 1 - 1 / step) for step in range(1, 40, 4)) for run_id in section.chosen}
    evidence = Evidence(
        histories,
        {section.condition: portrait},
        {section.condition: sheet},
        (f"graft train experiment=demo paths.root=/{'without/a/space/' * 9}",),
    )
    folder = tmp_path_factory.mktemp("report")
    return write_report(comparison, folder, evidence)[0]


LOOKS = [
    pytest.param({"size": size, "look": {"color_scheme": scheme}}, id=f"{name}-{scheme}")
    for name, size in (("desk", {"width": 1200, "height": 900}), ("phone", PHONE))
    for scheme in ("light", "dark")
]


@pytest.mark.parametrize("visit", LOOKS, indirect=True)
def test_the_page_is_quiet_alone_and_fits(visit, report) -> None:
    visit.open(report)
    assert visit.complaints == []
    assert visit.asked == [report.as_uri()]
    assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    figures = visit.page.locator("figure svg.plot, figure img")
    assert figures.count() == 8
    for number in range(figures.count()):
        box = figures.nth(number).bounding_box()
        assert box["width"] > 250
        assert box["height"] > 100


def test_question_answer_and_figure_are_on_the_first_screen(visit, report) -> None:
    visit.open(report)
    for selector in ("h1", ".question", ".answer", "#answer svg"):
        box = visit.page.locator(selector).first.bounding_box()
        assert box["y"] + box["height"] <= 900, selector


def test_hover_says_arm_value_and_interval(visit, report) -> None:
    visit.open(report)
    tip = visit.page.locator("#tip")
    assert tip.is_hidden()
    mark = visit.page.locator("#answer use[data-say^='linear probe, 2 labels per class: 0']").first
    said = mark.get_attribute("data-say")
    box = mark.bounding_box()
    visit.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert tip.is_visible()
    assert tip.inner_text() == said == "linear probe, 2 labels per class: 0.800 [0.784, 0.816]"
    visit.page.mouse.move(2, 2)
    assert tip.is_hidden()


def test_every_point_of_a_figure_is_reached_by_keyboard(visit, report) -> None:
    visit.open(report)
    frame = visit.page.locator("#answer .frame").first
    frame.focus()
    wanted = {mark.get_attribute("data-say") for mark in frame.locator("[data-say]").all()}
    heard = set()
    for _ in range(frame.locator("[data-say]").count()):
        visit.page.keyboard.press("ArrowRight")
        heard.add(visit.page.locator("#tip").inner_text())
    assert heard == wanted
    visit.page.keyboard.press("Escape")
    assert visit.page.locator("#tip").is_hidden()


def test_a_figure_is_enlarged_and_put_back(visit, report) -> None:
    visit.open(report)
    frame = visit.page.locator("#answer .frame").first
    small = frame.locator("svg").bounding_box()["width"]
    for open_it in (frame.click, lambda: (frame.focus(), visit.page.keyboard.press("Enter"))):
        open_it()
        assert visit.page.locator("dialog").is_visible()
        assert visit.page.locator("#stage svg").bounding_box()["width"] > small
        mark = visit.page.locator("#stage [data-say]").first
        mark.hover(force=True)
        assert visit.page.locator("#tip").is_visible()
        visit.page.keyboard.press("Escape")
        assert visit.page.locator("dialog").is_hidden()
    assert visit.complaints == []


def test_the_numbers_behind_a_figure_open(visit, report) -> None:
    visit.open(report)
    details = visit.page.locator("#answer details").first
    assert details.locator("table").is_hidden()
    details.locator("summary").click()
    assert details.locator("tbody tr").count() >= 6
    assert details.locator("table").is_visible()


def test_it_prints(visit, report) -> None:
    visit.open(report)
    pdf = visit.page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 50_000
    visit.page.emulate_media(media="print")
    assert visit.page.locator("nav").is_hidden()
    assert visit.page.locator(".zoom").first.is_hidden()


@pytest.mark.parametrize("visit", [pytest.param({"look": {"java_script_enabled": False}})], indirect=True)
def test_without_scripts_everything_is_there(visit, report) -> None:
    visit.open(report)
    assert visit.page.locator("#answer svg").first.is_visible()
    assert visit.page.locator(".zoom").first.is_hidden()
