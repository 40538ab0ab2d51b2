"""An SVG of matplotlib as a part of a page: theme colours, words on its points, no id that another has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree import ElementTree

from graft.compare.canvas import FAINT_INK, FROM_SCRATCH_COLOUR, GRID, INK, LINE, SOFT_INK

_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"

#: Colours that a dark page shows otherwise, and the names of the page's own.
THEME = {
    "#ffffff": "paper",
    INK: "ink",
    SOFT_INK: "ink",
    FAINT_INK: "soft",
    "#000000": "ink",
    FROM_SCRATCH_COLOUR: "scratch",
    LINE: "line",
    "#b3b3b3": "line",
    GRID: "grid",
}


def inline_svg(svg: bytes, name: str, label: str, words: Mapping[str, tuple[str, ...]]) -> str:
    """Return an SVG file as the element of a page.

    Args:
        svg: The file, as matplotlib writes it.
        name: Put before its ids, which no other figure of the page may have.
        label: What a screen reader says of it.
        words: What is said of the markers of an element, by its id.
    """
    root = ElementTree.fromstring(svg)
    for kind in ("metadata", "style"):
        for parent in root.iter():
            for child in parent.findall(f"{{{_SVG}}}{kind}"):
                if kind == "metadata":
                    parent.remove(child)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", label)
    root.set("class", "plot")
    _say_words(root, words)
    _rename(root, name)
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    text = ElementTree.tostring(root, encoding="unicode")
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"\s*\n\s*", " ", text)
    return re.sub(r"#[0-9a-f]{6}\b(?=[;\"])", _take_theme, text)


def _say_words(root: ElementTree.Element, words: Mapping[str, tuple[str, ...]]) -> None:
    """Put its words on each marker of the elements that have some."""
    for group in root.iter(f"{{{_SVG}}}g"):
        said = words.get(group.get("id", ""), ())
        for marker, text in zip(group.iter(f"{{{_SVG}}}use"), said, strict=False):
            marker.set("data-say", text)


def _rename(root: ElementTree.Element, name: str) -> None:
    """Keep the ids that something refers to, under a name of their own; drop the others."""
    used = set()
    for element in root.iter():
        for value in element.attrib.values():
            used |= set(re.findall(r"url\(#([^)]+)\)", value))
        used.add(element.get(_LINK, "").removeprefix("#"))
    for element in root.iter():
        identity = element.attrib.pop("id", None)
        if identity in used:
            element.set("id", f"{name}-{identity}")
        for key, value in element.attrib.items():
            if key == _LINK and value.startswith("#"):
                element.set(key, f"#{name}-{value[1:]}")
            elif "url(#" in value:
                element.set(key, value.replace("url(#", f"url(#{name}-"))


def _take_theme(found: re.Match[str]) -> str:
    colour = found.group()
    return f"var(--{THEME[colour]})" if colour in THEME else colour
