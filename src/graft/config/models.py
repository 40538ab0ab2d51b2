"""``graft models``: the backbones there are, from a table made of torchvision's metadata, without torch.

``torchvision_models.json`` is made by ``python -m graft.model.table --models`` and pinned by a test.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from graft.config.names import OWN_BACKBONES, entry_point_backbones
from graft.errors import GraftError, expected_one_of

_TABLE = Path(__file__).with_name("torchvision_models.json")
_COLUMNS = ("name", "parameters", "GFLOPs", "px", "weights", "cached", "ImageNet")
#: Columns of text; the others hold numbers and are aligned to the right.
_TEXT = frozenset({"name", "weights", "cached"})
_LEGEND = (
    "The first of several weights is `default`. px: side of the images they expect; GFLOPs: of one image, a\n"
    "multiply-add counted as one; ImageNet: top-1 accuracy as published; bundle: made by `graft pretrain`."
)


@dataclass(frozen=True)
class PublishedWeights:
    """Weights that torchvision publishes.

    Attributes:
        name: What ``backbone.weights`` takes.
        file: Name of the file.
        imagenet_accuracy: Top-1 on ImageNet's validation images, a fraction.
        cached: Whether the file is in torch's cache; it is checked when it is used.
    """

    name: str
    file: str
    imagenet_accuracy: float
    cached: bool


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a backbone before it is built.

    Attributes:
        name: What ``backbone.name`` takes.
        origin: ``torchvision``, ``graft`` or ``entry point``.
        parameters: Of the whole network; ``None`` where it depends on the images.
        gflops: Of one image at the native size, a multiply-add counted as one.
        native_px: Side of the images that its default weights expect.
        weights: Published weights, the default first; others come from ``graft pretrain``.
    """

    name: str
    origin: str
    parameters: int | None = None
    gflops: float | None = None
    native_px: int | None = None
    weights: tuple[PublishedWeights, ...] = ()


def weights_cache() -> Path:
    """Return the folder where torch keeps downloaded weights, by its own rules."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", f"{cache}/torch")
    return Path(home).expanduser() / "hub" / "checkpoints"


def list_models(pattern: str = "") -> list[ModelFacts]:
    """List the backbones whose name contains ``pattern``, or matches it where it has ``*``, ``?`` or ``[``.

    Raises:
        GraftError: There is none.
    """
    models = _read_models()
    names = [model.name for model in models]
    wanted = pattern.lower()
    is_glob = any(sign in wanted for sign in "*?[")
    found = [
        model
        for model in models
        if (fnmatchcase(model.name.lower(), wanted) if is_glob else wanted in model.name.lower())
    ]
    if not found:
        raise GraftError(expected_one_of("pattern", pattern, names))
    return found


def _read_models() -> list[ModelFacts]:
    folder = weights_cache()
    cached = {path.name for path in folder.glob("*")}
    published = [
        ModelFacts(
            name=model["name"],
            origin="torchvision",
            parameters=model["parameters"],
            gflops=model["gflops"],
            native_px=model["native_px"],
            weights=tuple(
                PublishedWeights(**entry, cached=entry["file"] in cached) for entry in model["weights"]
            ),
        )
        for model in json.loads(_TABLE.read_text())
    ]
    own = [ModelFacts(name, "graft") for name in OWN_BACKBONES]
    return [*own, *published, *(ModelFacts(name, "entry point") for name in entry_point_backbones())]


def show_models(words: Sequence[str]) -> int:
    """Print the backbones that match, as a table or as JSON.

    Args:
        words: At most one pattern, and ``--json``.

    Raises:
        GraftError: The words are others, or nothing matches.
    """
    patterns = [word for word in words if word != "--json"]
    options = [word for word in patterns if word.startswith("-") or "=" in word]
    if options:
        raise GraftError(expected_one_of("option", options[0], ["--json"]))
    if len(patterns) > 1:
        raise GraftError(
            f"Expected at most one pattern and `--json`, but got {' '.join(words)!r}. "
            "A pattern is a part of a name, or has stars: graft models 'resnet*'"
        )
    models = list_models(patterns[0] if patterns else "")
    if "--json" in words:
        print(json.dumps([asdict(model) for model in models], indent=2))
    else:
        print(f"{format_models(models)}\n\n{_LEGEND}")
    return 0


def format_models(models: Iterable[ModelFacts]) -> str:
    """Format a table, one line per weights; a line that goes on with the model above names only those."""
    rows: list[tuple[str, ...]] = [_COLUMNS]
    for model in models:
        facts = (
            model.name,
            "-" if model.parameters is None else f"{model.parameters / 1e6:.1f} M",
            "-" if model.gflops is None else f"{model.gflops:.2f}",
            "any" if model.native_px is None else str(model.native_px),
        )
        if not model.weights:
            rows.append((*facts, "bundle", "-", "-"))
        for position, entry in enumerate(model.weights):
            first = facts if position == 0 else ("",) * len(facts)
            accuracy = f"{entry.imagenet_accuracy:.1%}"
            rows.append((*first, entry.name, "yes" if entry.cached else "no", accuracy))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_align(row, widths) for row in rows)


def _align(row: tuple[str, ...], widths: Sequence[int]) -> str:
    cells = (
        f"{cell:<{width}}" if column in _TEXT else f"{cell:>{width}}"
        for column, cell, width in zip(_COLUMNS, row, widths, strict=True)
    )
    return "  ".join(cells).rstrip()
