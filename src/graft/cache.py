"""What graft computed once and kept, and what of it may go: the verb ``graft cache``."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from graft.config.running import ReuseConfig
from graft.data.findings import say_count
from graft.errors import GraftError, expected_one_of
from graft.reuse.entries import count_rows, evict, is_damaged, list_entries, remove_entry
from graft.status import say_age

_PLACES = ("paths.root=", "reuse.disk_gb=")
_OPTIONS = ("--json", "--all", "--older-than=<age>")
_NAMES = ("backbone", "weights", "boundary", "data", "precision", "view", "computed_by")
_DAYS = {"h": 1 / 24, "d": 1.0, "w": 7.0}

#: What is unfinished is a leftover only after this long: another process may just have begun it.
_SECONDS_TO_BEGIN = 60.0


@dataclass(frozen=True)
class Asked:
    """What the command line asks for.

    Attributes:
        root: ``paths.root``.
        disk_gb: Budget of activations, in GB.
        prune: Whether to throw away, and not only to look.
        everything: Throw away all that no process holds.
        older_than: Throw away what was used longer ago, in days; None for no such thing.
        as_json: For programs.
    """

    root: Path = Path("./runs")
    disk_gb: float = ReuseConfig().disk_gb
    prune: bool = False
    everything: bool = False
    older_than: float | None = None
    as_json: bool = False


@dataclass(frozen=True)
class _Item:
    """Something that is kept: activations of one boundary, or the images of one set as a network sees them.

    Attributes:
        kind: ``activations`` or ``images``.
        path: Its folder or file.
        facts: What it is, for people and for programs.
        disk_bytes: What it takes.
        used: When it was used last, unix seconds.
        state: ``whole``, ``foreign`` or ``unfinished``.
    """

    kind: str
    path: Path
    facts: dict[str, Any]
    disk_bytes: int
    used: float
    state: str


def read_options(words: Sequence[str]) -> Asked:
    """Read the words after the verb.

    Raises:
        GraftError: For a word that is none of those it takes.
    """
    found: dict[str, Any] = {}
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if word == "--older-than" and waiting:
            word = f"{word}={waiting.pop(0)}"
        name, _, value = word.partition("=")
        if name == "--older-than":
            found["older_than"] = _read_age(word, value)
        elif word in ("--json", "--all", "prune"):
            found[{"--json": "as_json", "--all": "everything", "prune": "prune"}[word]] = True
        elif name == "paths.root" and value:
            found["root"] = Path(value).expanduser()
        elif name == "reuse.disk_gb":
            found["disk_gb"] = _read_budget(word, value)
        else:
            raise GraftError(expected_one_of("option", word, ("prune", *_OPTIONS, *_PLACES)))
    asked = Asked(**found)
    if not asked.prune and (asked.everything or asked.older_than is not None):
        raise GraftError("Expected `graft cache prune` with `--all` or `--older-than`, but got no `prune`.")
    return asked


def _read_age(word: str, value: str) -> float:
    matched = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", value)
    if matched is None:
        raise GraftError(f"Expected `--older-than=<age>`, such as 30d, 12h or 2w, but got {word!r}.")
    return float(matched[1]) * _DAYS[matched[2]]


def _read_budget(word: str, value: str) -> float:
    if not re.fullmatch(r"\d+(\.\d*)?", value):
        raise GraftError(f"Expected `reuse.disk_gb=<GB>`, at least 0, but got {word!r}.")
    return float(value)


def serve_cache(asked: Asked) -> int:
    """Show what is kept, or throw away what may go, and return the exit code."""
    cache = asked.root / "cache"
    if asked.prune:
        return _prune(cache, asked)
    items, other = list_items(cache), _count_other(cache)
    if asked.as_json:
        print(json.dumps(_describe(items, other, asked), indent=1))
    else:
        _show(cache, items, other, asked)
    return 0


def list_items(cache: Path) -> list[_Item]:
    """Return the activations and the decoded images under ``paths.root/cache``."""
    return [*_list_activations(cache / "activations"), *_list_images(cache / "pixels")]


def _list_activations(root: Path) -> list[_Item]:
    items = []
    for entry in list_entries(root):
        path, name = root / entry.digest, entry.about.get("name", {})
        facts = {key: name.get(key) for key in _NAMES} | {"stored_as": entry.about.get("dtype")}
        facts["rows"] = count_rows(path) if entry.state == "whole" else 0
        items.append(_Item("activations", path, facts, entry.disk_bytes, entry.used, entry.state))
    return items


def _list_images(root: Path) -> list[_Item]:
    items = []
    for path in sorted([*root.glob("*.npy"), *root.glob(".*.part")]):
        with contextlib.suppress(OSError):  # another process may be throwing it away
            state = path.stat()
            whole = path.suffix == ".npy" and path.with_suffix(".sha256").exists()
            used = max(state.st_mtime, state.st_atime)
            word = "whole" if whole else "unfinished"
            items.append(_Item("images", path, {}, state.st_size, used, word))
    return items


def _count_other(cache: Path) -> int:
    """Return the bytes of all else: rendered glyphs, hashes of files, results of checks."""
    kept = ("activations", "pixels")
    folders = [path for path in cache.glob("*") if path.name not in kept]
    files = [file for folder in folders for file in (folder, *folder.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file())


def _is_wrong(item: _Item) -> bool:
    """Read a whole item and say whether it is not what was written."""
    if item.kind == "activations":
        return is_damaged(item.path)
    import numpy as np

    try:
        pixels = np.load(item.path, mmap_mode="r", allow_pickle=False)
        return hashlib.sha256(pixels.data).hexdigest() != item.path.with_suffix(".sha256").read_text()
    except (OSError, ValueError, EOFError):
        return True


def _is_leftover(item: _Item) -> bool:
    """Say whether nobody can use an item; one that has just begun may still be filled."""
    begun = item.state == "unfinished" and time.time() - item.used < _SECONDS_TO_BEGIN
    return item.state != "whole" and not begun


def _remove(item: _Item) -> bool:
    """Throw an item away and say whether it is gone; what another process holds stays."""
    if item.kind == "activations":
        return remove_entry(item.path.parent, item.path.name)
    whose = item.path.name.lstrip(".").partition(".")[0]
    try:
        with FileLock(item.path.with_name(f"{whose}.lock")).acquire(timeout=0):
            if item.path.suffix == ".npy":
                item.path.with_suffix(".sha256").unlink(missing_ok=True)
            item.path.unlink(missing_ok=True)
    except (Timeout, OSError):
        return False
    return True


def _prune(cache: Path, asked: Asked) -> int:
    """Throw away what may go, say what went, and what could not."""
    gone: list[tuple[_Item, str]] = []
    held: list[_Item] = []
    for item in list_items(cache):
        reason = _find_reason(item, asked)
        if reason and _remove(item):
            gone.append((item, reason))
        elif reason:
            held.append(item)
    before = {item.path: item for item in list_items(cache)}
    evicted, left = evict(cache / "activations", int(asked.disk_gb * 1e9))
    gone += [(before[cache / "activations" / entry.digest], "over the budget") for entry in evicted]
    if asked.as_json:
        told = {
            "removed": [{**_say(item), "reason": reason} for item, reason in gone],
            "held": [_say(item) for item in held],
            "freed_bytes": sum(item.disk_bytes for item, _ in gone),
            "activation_bytes": left,
        }
        print(json.dumps(told, indent=1))
        return 0
    console = Console(soft_wrap=True, highlight=False)
    for item, reason in gone:
        console.print(
            f"{reason}: {item.kind} {item.path.name[:12]}, {_say_size(item.disk_bytes)}", markup=False
        )
    freed = _say_size(sum(item.disk_bytes for item, _ in gone))
    console.print(f"{freed} freed. Activations take {_say_size(left)} of {asked.disk_gb:g} GB.")
    if held:
        console.print(f"{say_count(len(held), 'item')} could not be removed: a process holds them.")
    return 0


def _find_reason(item: _Item, asked: Asked) -> str:
    """Say why an item goes, empty where it stays."""
    if asked.everything:
        return "all"
    if _is_leftover(item):
        return item.state
    if asked.older_than is not None and time.time() - item.used > asked.older_than * 86_400:
        return "unused"
    return "damaged" if item.state == "whole" and _is_wrong(item) else ""


def _show(cache: Path, items: Sequence[_Item], other: int, asked: Asked) -> None:
    console = Console(soft_wrap=True, highlight=False)
    entries = [item for item in items if item.kind == "activations"]
    images = [item for item in items if item.kind == "images"]
    if entries:
        headings = ("activations after", "weights", "data", "numbers", "images", "size", "last used")
        table = Table(*headings, box=SIMPLE)
        for item in sorted(entries, key=lambda item: -item.used):
            table.add_row(*_row(item), _say_size(item.disk_bytes), say_age(time.time() - item.used))
        console.print(table)
    total, budget = sum(item.disk_bytes for item in entries), asked.disk_gb * 1e9
    over = "; the least recently used make room when the next ones come" if total > budget else ""
    console.print(f"Activations: {_say_size(total)} of {asked.disk_gb:g} GB (`reuse.disk_gb`){over}.")
    decoded = sum(item.disk_bytes for item in images)
    console.print(f"Decoded images: {_say_size(decoded)} in {say_count(len(images), 'file')}.")
    console.print(f"All else: {_say_size(other)}. Together: {_say_size(total + decoded + other)}.")
    console.print(f"It lies under {cache} and can be deleted at any time.", markup=False)
    if any(_is_leftover(item) for item in items):
        console.print("Some of it is of no use any more: graft cache prune")


def _row(item: _Item) -> list[str]:
    facts = item.facts
    if item.state != "whole":
        return [f"({item.state})", "", "", "", ""]
    view = f", view {str(facts['view']).rpartition(':')[2]}" if facts["view"] else ""
    mixed = "" if facts["precision"] == "32" else f"{facts['precision']}, "
    cells = (
        f"{facts['backbone']}, stage {facts['boundary']}{view}", _shorten(facts["weights"]),
        facts["data"][:8], f"{mixed}{facts['stored_as']}", f"{facts['rows']:,}",
    )  # fmt: skip
    return [escape(str(cell)) for cell in cells]


def _shorten(weights: str) -> str:
    """Cut a sha256 to what a person compares.

    >>> _shorten("0123456789" * 6 + "abcd+seed=3")
    '01234567+seed=3'
    """
    name, sign, seed = weights.partition("+")
    return f"{name[:8]}{sign}{seed}"


def _describe(items: Sequence[_Item], other: int, asked: Asked) -> dict[str, Any]:
    return {
        "budget_bytes": int(asked.disk_gb * 1e9),
        "activations": [_say(item) for item in items if item.kind == "activations"],
        "images": [_say(item) for item in items if item.kind == "images"],
        "other_bytes": other,
        "total_bytes": sum(item.disk_bytes for item in items) + other,
    }


def _say(item: _Item) -> dict[str, Any]:
    return {
        "kind": item.kind,
        "path": str(item.path),
        **item.facts,
        "disk_bytes": item.disk_bytes,
        "used": item.used,
        "state": item.state,
    }


def _say_size(size: int) -> str:
    """Return bytes for people.

    >>> [_say_size(size) for size in (0, 2500, 3_400_000, 12_300_000_000)]
    ['0 kB', '2 kB', '3.4 MB', '12.3 GB']
    """
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
