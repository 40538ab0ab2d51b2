"""Features of any stage, batch by batch, with nothing trained and nothing drawn."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from graft.config.names import STAGES
from graft.config.schema import TrainerConfig
from graft.data.image_set import UInt8Array
from graft.data.preprocessing import Preprocessing
from graft.data.transforms import normalise
from graft.errors import GraftError, expected_one_of
from graft.model.backbone import Backbone

Float32Array = npt.NDArray[np.float32]

#: Images that go through frozen stages at once, where features are to be the same whoever computes them; a
#: larger number is hardly faster.
EXTRACTION_BATCH = 64

#: What ``trainer.precision`` computes in.
ARITHMETIC = {"32": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def choose_device(trainer: TrainerConfig) -> torch.device:
    """Return the one device that ``trainer.accelerator`` means here.

    Raises:
        GraftError: A GPU is asked for where there is none, or several devices are.
    """
    if trainer.devices * trainer.num_nodes > 1:
        raise GraftError(
            f"Expected one device, but got `trainer.devices={trainer.devices}` and "
            f"`trainer.num_nodes={trainer.num_nodes}`: features are extracted by one process."
        )
    found = torch.accelerator.current_accelerator(check_available=True)
    if trainer.accelerator == "gpu" and found is None:
        raise GraftError("Expected a GPU for `trainer.accelerator=gpu`, but torch finds none here.")
    return found if found is not None and trainer.accelerator != "cpu" else torch.device("cpu")


def extract_features(
    backbone: Backbone,
    pixels: UInt8Array,
    preprocessing: Preprocessing,
    *,
    stage: int,
    batch_size: int,
    device: torch.device,
    precision: str,
) -> Iterator[Float32Array]:
    """Send images through the leading stages of a backbone, as an evaluation of a run would.

    Args:
        backbone: Set to eval mode and moved to ``device``.
        pixels: The network's inputs, uint8 ``(N, C, H, W)``.
        preprocessing: For mean and std.
        stage: The last stage that computes, 1 to 5.
        batch_size: Images at once; another one moves the result in its last digits.
        device: Where to compute.
        precision: ``32``, ``bf16-mixed`` or ``16-mixed``.

    Yields:
        The activation after the stage, float32 ``(n, ...)``; after stage 5 it is ``(n, feature_dim)``.

    Raises:
        GraftError: There is no such stage, or the precision is none of these.
    """
    if not 1 <= stage <= STAGES:
        raise GraftError(f"Expected `stage` between 1 and {STAGES}, but got {stage}.")
    if precision not in ARITHMETIC:
        raise GraftError(expected_one_of("trainer.precision", precision, ARITHMETIC))
    mixed = (
        contextlib.nullcontext()
        if precision == "32"
        else torch.autocast(device.type, dtype=ARITHMETIC[precision])
    )
    backbone.eval().to(device)
    for start in range(0, len(pixels), batch_size):
        images = torch.from_numpy(np.array(pixels[start : start + batch_size])).to(device)
        with torch.no_grad(), mixed:
            x: Tensor = normalise(images, preprocessing)
            for number in range(1, stage + 1):
                x = backbone.stage(number)(x)
        yield x.float().cpu().numpy()
