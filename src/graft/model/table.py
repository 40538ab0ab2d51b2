"""The table of stages: where each backbone is cut, and what each stage holds and costs.

``python -m graft.model.table resnet18 vit_b_16`` prints it as Markdown, for all backbones without a name.
What other files are made from it and from torchvision's own metadata, each is printed to be redirected:

- ``python -m graft.model.table --names`` prints ``src/graft/config/torchvision_names.py``;
- ``python -m graft.model.table --models`` prints ``src/graft/config/torchvision_models.json``;
- ``python -m graft.model.table --docs`` prints ``docs/stages.md``.

``python -m graft.model.table --cuts resnet18`` prints the nodes that ``transfer.freeze_until`` takes.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from graft.config.names import OWN_BACKBONES
from graft.model.backbone import build_backbone, build_network, native_size, torchvision_names
from graft.model.boundaries import place_node

_OWN_SIZE = 32
_HEADER = (
    "| backbone | input | stage | ends after | parameters | GFLOPs | activation | values |\n"
    "|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class StageRow:
    """One stage of one backbone.

    Attributes:
        backbone: Name of the backbone.
        image_size: Side of the images, in px.
        stage: Number of the stage, from 1.
        boundary: Last node of the stage.
        parameters: Numbers that training can move.
        flops: Floating-point operations of one image's forward pass, a multiply-add counted as two;
            ``None`` where torch does not know them (recurrences).
        activation: Shape of one image's activation after the stage.
        is_empty: Whether the backbone has fewer layers than stages, and this stage does nothing.
    """

    backbone: str
    image_size: int
    stage: int
    boundary: str
    parameters: int
    flops: int | None
    activation: tuple[int, ...]
    is_empty: bool


def stage_table(names: Iterable[str]) -> Iterator[StageRow]:
    """Cut each backbone at its native image size and describe its stages; nothing is computed.

    Args:
        names: Backbones; graft's own are described for images of 32 px in 3 channels.
    """
    for name in names:
        side = native_size(name) or _OWN_SIZE
        network = build_network(name, num_classes=10, image_size=side, channels=3)
        backbone = build_backbone(network, name, side, 3).eval()
        with FakeTensorMode(allow_non_fake_inputs=True):
            # With gradients: without them attention takes a fused path that the counter does not know.
            x = torch.empty(1, 3, side, side)
            for number, boundary in enumerate(backbone.plan.boundaries, start=1):
                stage = backbone.stage(number)
                with FlopCounterMode(display=False) as counter:
                    x = stage(x)
                parameters = sum(parameter.numel() for parameter in stage.parameters())
                flops = counter.get_total_flops()
                yield StageRow(
                    backbone=name,
                    image_size=side,
                    stage=number,
                    boundary=boundary,
                    parameters=parameters,
                    flops=flops if flops or not parameters else None,
                    activation=tuple(x.shape[1:]),
                    is_empty=number > 1 and boundary == backbone.plan.boundaries[number - 2],
                )


def format_row(row: StageRow) -> str:
    """Format a row of the Markdown table."""
    shape = " x ".join(str(side) for side in row.activation)
    first = (f"`{row.backbone}`", f"{row.image_size} px") if row.stage == 1 else ("", "")
    boundary = "(empty)" if row.is_empty else f"`{row.boundary}`"
    cells = (
        *first,
        str(row.stage),
        boundary,
        f"{row.parameters:,}",
        "?" if row.flops is None else f"{row.flops / 1e9:.3g}",
        shape,
        f"{math.prod(row.activation):,}",
    )
    return f"| {' | '.join(cells)} |"


def format_names() -> str:
    """Format the module that lists torchvision's networks for the configuration, which imports no torch."""
    listed = "\n".join(f'    "{name}",' for name in torchvision_names())
    command = "``python -m graft.model.table --names``"
    source = f'"""Names of torchvision\'s classification networks; made by {command}."""'
    return f"{source}\n\nTORCHVISION_BACKBONES = (\n{listed}\n)"


def describe_models() -> list[dict[str, Any]]:
    """Return what torchvision publishes of its networks, as the listing of ``graft models`` reads it.

    Returns:
        By name: parameters and GFLOPs (torchvision counts a multiply-add as one) at the native side in px,
        all three of the default weights; and for each of the published weights, the default first, its name,
        its file, and its top-1 accuracy on ImageNet's validation images, a fraction.
    """
    described = []
    for name in torchvision_names():
        entries = torchvision.models.get_model_weights(name)
        best = entries.DEFAULT
        weights = [
            {
                "name": entry.name,
                "file": entry.url.rsplit("/", 1)[-1],
                "imagenet_accuracy": round(entry.meta["_metrics"]["ImageNet-1K"]["acc@1"] / 100, 5),
            }
            for entry in sorted(entries, key=lambda entry: (entry is not best, entry.name))
        ]
        described.append(
            {
                "name": name,
                "parameters": best.meta["num_params"],
                "gflops": best.meta["_ops"],
                "native_px": native_size(name),
                "weights": weights,
            }
        )
    return described


def format_models() -> str:
    """Format the JSON file of `describe_models`, a network per line."""
    return "[\n" + ",\n".join(json.dumps(model) for model in describe_models()) + "\n]"


def smallest_of_families() -> list[str]:
    """Return the member with the fewest parameters of every family, which is a module of torchvision."""
    smallest: dict[str, tuple[int, str]] = {}
    for model in describe_models():
        family = torchvision.models.get_model_builder(model["name"]).__module__
        member = (model["parameters"], model["name"])
        smallest[family] = min(member, smallest.get(family, member))
    return sorted(name for _, name in smallest.values())


def measure_cut(name: str) -> float:
    """Return the seconds that tracing a network and cutting it into five takes, at its native size.

    A network that this process has cut before is cut from memory, and takes none.
    """
    side = native_size(name) or _OWN_SIZE
    network = build_network(name, num_classes=10, image_size=side, channels=3)
    started = time.perf_counter()
    build_backbone(network, name, side, 3)
    return time.perf_counter() - started


def format_docs() -> str:
    """Format the page of stages: the smallest member of every family, and what one cut takes."""
    names = [*OWN_BACKBONES, *smallest_of_families()]
    seconds = "\n".join(f"| `{name}` | {measure_cut(name):.2f} |" for name in names)
    rows = "\n".join(format_row(row) for row in stage_table(names))
    return _PAGE.format(table=f"{_HEADER}\n{rows}", seconds=seconds)


_PAGE = """# The five stages of every backbone

Made by `python -m graft.model.table --docs > docs/stages.md`; do not edit it by hand.
`python -m graft.model.table resnet50 vit_l_16` prints the same for backbones of your choice, and for all of \
them without a name.

`transfer.freeze_depth` counts these stages: 0 = all train, 3 = the first three stay as pretrained, 5 = only \
the head trains. `graft extract stage=3` writes the activation after stage 3. A network is cut only where a \
single tensor is alive, so the five stages, one after the other, are the network itself, to the bit. \
Boundaries lie where the resolution changes, never inside a block; networks of one resolution (transformers) \
are split into equal groups of blocks. How the boundaries are chosen stands at the top of \
`src/graft/model/boundaries.py`.

## Smallest member of every family

- **input**: side of the square image: what the default weights expect, 32 px for graft's own.
- **ends after**: the last node of the stage, by the names of `torch.fx`.
- **parameters**: of the stage; the classifier is no stage.
- **GFLOPs**: of one image's forward pass, a multiply-add counted as two (torchvision's own figure, which \
`graft models` shows, counts it as one); `?` where torch cannot count them (recurrences).
- **activation**, **values**: shape and size of one image's activation after the stage: what freezing up to \
there lets graft keep on disk.
- **(empty)**: a network with fewer than five layers has stages at its end that do nothing.

{table}

## What one cut takes

Seconds to trace a network and cut it, on one core of a two-core machine without a GPU; once per process and \
network.

| backbone | seconds |
|---|---|
{seconds}"""

#: What makes each generated file.
_FORMATS: dict[str, Callable[[], str]] = {
    "--names": format_names,
    "--models": format_models,
    "--docs": format_docs,
}


def list_cuts(name: str) -> Iterator[str]:
    """List the nodes that ``transfer.freeze_until`` takes, in order, and the depth of natural boundaries."""
    side = native_size(name) or _OWN_SIZE
    network = build_network(name, num_classes=10, image_size=side, channels=3)
    plan = build_backbone(network, name, side, 3).plan
    for node in plan.cuts:
        depth, is_natural = place_node(plan.boundaries, plan.cuts, node)
        yield f"{node}  (freeze_depth={depth})" if is_natural else node


def main(arguments: list[str]) -> None:
    """Print the table, the nodes of one backbone, or a generated file."""
    if len(arguments) == 2 and arguments[0] == "--cuts":
        print("\n".join(list_cuts(arguments[1])))
        return
    if len(arguments) == 1 and arguments[0] in _FORMATS:
        print(_FORMATS[arguments[0]]())
        return
    print(_HEADER)
    for row in stage_table(arguments or [*OWN_BACKBONES, *torchvision_names()]):
        print(format_row(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
