"""Show what a check found: a table for the terminal, JSON for programs, a page with thumbnails for people."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from graft.data.cache import write_whole
from graft.data.check import CheckReport
from graft.data.findings import ERROR, INFO, KINDS, SPLIT_WORDS, WARNING, Finding

SHOWN_FINDINGS = 40
"""Findings of a kind that the page shows; the JSON holds all."""
SUMMED_FINDINGS = 5
"""Findings of a kind that the terminal shows."""
SHOWN_IMAGES = 8
"""Thumbnails of a finding."""
THUMBNAIL_SIDE = 144
"""px."""

SEVERITY_WORDS = {ERROR: "error", WARNING: "warning", INFO: "note"}
"""What people read."""

_STYLES = {ERROR: "bold red", WARNING: "yellow", INFO: "blue"}


@dataclass(frozen=True)
class Picture:
    """A thumbnail: where the image is, how it is labelled, and its pixels as a data URI, if any."""

    name: str
    label: str
    split: str
    source: str


@dataclass(frozen=True)
class Shown:
    """A finding as the page shows it."""

    finding: Finding
    pictures: tuple[Picture, ...]
    more: int


@dataclass(frozen=True)
class Chapter:
    """All findings of a kind as the page shows them."""

    kind: str
    title: str
    severity: str
    advice: str
    total: int
    shown: tuple[Shown, ...]


def write_check(report: CheckReport, folder: Path) -> Path:
    """Write ``index.html``, ``findings.json`` and a sheet of each kind of leak; return the page.

    Raises:
        GraftError: The folder cannot be written.
    """
    page = folder / "index.html"
    text = json.dumps([finding.to_dict() for finding in report.findings], indent=1, ensure_ascii=False)
    write_whole(folder / "findings.json", lambda file: file.write(text.encode("utf-8", "replace")))
    html = render_page(report)
    write_whole(page, lambda file: file.write(html.encode("utf-8", "replace")))
    for kind in ("leak", "near_leak"):
        sheet = folder / f"{kind}.png"
        sheet.unlink(missing_ok=True)
        if any(finding.kind == kind for finding in report.findings):
            draw_pairs(report, kind, sheet)
    return page


def render_page(report: CheckReport) -> str:
    """Render the page: one file, no network, light and dark as the reader's system is."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("check.html.j2").render(
        report=report,
        chapters=_make_chapters(report),
        words=SEVERITY_WORDS,
        severities=[(severity, report.count(severity)) for severity in (ERROR, WARNING, INFO)],
        classes=_tabulate_classes(report),
        splits=[SPLIT_WORDS[split] for split in sorted(report.counts)],
        total=sum(counter.total() for counter in report.counts.values()),
    )


def render_summary(report: CheckReport) -> Table:
    """Return a table with a row for each kind that was found: its first findings, and what to do."""
    table = Table(
        box=box.SIMPLE, title=f"graft check: {escape(report.name)}", title_justify="left", show_header=False
    )
    table.add_column("severity", no_wrap=True)
    table.add_column("what", overflow="fold")
    for kind, findings in _by_kind(report.findings).items():
        severity = KINDS[kind].severity
        counted = f" ({len(findings):,})" if len(findings) > 1 else ""
        lines = [f"[bold]{KINDS[kind].title}{counted}[/]"]
        lines += [escape(finding.message) for finding in findings[:SUMMED_FINDINGS]]
        if len(findings) > SUMMED_FINDINGS:
            lines.append(f"... and {len(findings) - SUMMED_FINDINGS:,} more")
        table.add_row(
            f"[{_STYLES[severity]}]{SEVERITY_WORDS[severity]}[/]",
            "\n".join([*lines, f"[dim]{KINDS[kind].advice}[/]"]),
        )
    return table


def draw_pairs(report: CheckReport, kind: str, path: Path, limit: int = 300) -> int:
    """Draw the first pairs of a kind side by side into a PNG, and return how many there are on it.

    Args:
        report: What was found.
        kind: A kind of several images, such as ``near_leak``.
        path: The PNG.
        limit: Pairs at most.
    """
    from PIL import Image

    findings = [finding for finding in report.findings if finding.kind == kind][:limit]
    at = {item.name: index for index, item in enumerate(report.items)}
    columns, side, gap = 10, 64, 8
    rows = max(1, -(-len(findings) // columns))
    sheet = Image.new("RGB", (columns * (2 * side + gap) + gap, rows * (side + gap) + gap), "white")
    for place, finding in enumerate(findings):
        x = gap + (place % columns) * (2 * side + gap)
        y = gap + (place // columns) * (side + gap)
        for offset, name in enumerate(_choose_pair(report, finding, at)):
            image = Image.fromarray(_as_colour(report.read(at[name]))).resize((side, side))
            sheet.paste(image, (x + offset * side, y))
    content = io.BytesIO()
    sheet.save(content, "PNG")
    write_whole(path, lambda file: file.write(content.getvalue()))
    return len(findings)


def _choose_pair(report: CheckReport, finding: Finding, at: dict[str, int]) -> tuple[str, str]:
    """Return two images of a finding that differ in split or, failing that, in label."""
    items = [report.items[at[name]] for name in finding.paths]
    first = items[0]
    other = next(
        (item for item in items if item.split != first.split),
        next((item for item in items if item.label != first.label), items[1]),
    )
    return first.name, other.name


def _by_kind(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    grouped: dict[str, list[Finding]] = {}
    for finding in findings:
        grouped.setdefault(finding.kind, []).append(finding)
    return grouped


def _make_chapters(report: CheckReport) -> list[Chapter]:
    at = {item.name: index for index, item in enumerate(report.items)}
    chapters = []
    for kind, findings in _by_kind(report.findings).items():
        shown = [_show(report, finding, at) for finding in findings[:SHOWN_FINDINGS]]
        about = KINDS[kind]
        chapters.append(Chapter(kind, about.title, about.severity, about.advice, len(findings), tuple(shown)))
    return chapters


def _show(report: CheckReport, finding: Finding, at: dict[str, int]) -> Shown:
    """Choose the thumbnails of a finding, so that each of its splits is among them."""
    indices = [at[name] for name in finding.paths if name in at]
    firsts = {report.items[index].split: index for index in reversed(indices)}
    chosen = [*firsts.values(), *(index for index in indices if index not in firsts.values())]
    kept = sorted(chosen[:SHOWN_IMAGES], key=lambda index: (report.items[index].split, index))
    pictures = tuple(_picture(report, index) for index in kept)
    return Shown(finding, pictures, max(finding.count, len(indices)) - len(pictures) if pictures else 0)


def _picture(report: CheckReport, index: int) -> Picture:
    from PIL import Image

    item = report.items[index]
    try:
        image = Image.fromarray(_as_colour(report.read(index)))
    except Exception:  # the very image may be what the finding is about: whatever its decoder raises
        return Picture(item.name, item.label, SPLIT_WORDS[item.split], "")
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    content = io.BytesIO()
    image.save(content, "WEBP", quality=80)
    encoded = base64.b64encode(content.getvalue()).decode()
    return Picture(item.name, item.label, SPLIT_WORDS[item.split], f"data:image/webp;base64,{encoded}")


def _as_colour(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _tabulate_classes(report: CheckReport) -> list[tuple[str, list[int]]]:
    """Return each class, those without an image included, with its numbers of images per split."""
    names = {name for part in (*report.classes.values(), *report.counts.values()) for name in part}
    return [(name, [report.counts[split][name] for split in sorted(report.counts)]) for name in sorted(names)]
