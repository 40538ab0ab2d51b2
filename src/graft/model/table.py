"""The table of stages: where each backbone is cut, and what each stage holds and costs.

``python -m graft.model.table resnet18 vit_b_16`` prints it as Markdown, for all backbones without a name;
``python -m graft.model.table --names`` prints the module `graft.config.torchvision_names`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from graft.config.names import OWN_BACKBONES
from graft.model.backbone import build_backbone, build_network, native_size, torchvision_names

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


def main(arguments: list[str]) -> None:
    """Print the table, or the module of names."""
    if arguments == ["--names"]:
        print(format_names())
        return
    print(_HEADER)
    for row in stage_table(arguments or [*OWN_BACKBONES, *torchvision_names()]):
        print(format_row(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
