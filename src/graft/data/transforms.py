"""From an image to the network's input, and the random changes of training images.

The deterministic part is torchvision's own code on PIL images, as its ``ImageClassification`` preset runs it.
Augmentation works on whole batches with randomness per image. Its numbers are drawn on the CPU from the
generator it is given, whatever device the images are on, so that a batch is a pure function of the
generator's seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, RandAugment, TrivialAugmentWide
from torchvision.transforms.v2 import functional as vision

from graft.data.image_set import UInt8Array
from graft.data.preprocessing import Preprocessing
from graft.errors import GraftError, expected_one_of

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
"""From uint8 ``(N, C, H, W)`` to uint8 of the same shape."""

#: Keeps the numbers of views apart from those of (seed, step, part).
_VIEWS = 2**31

MODES = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
}


def to_input(image: UInt8Array, preprocessing: Preprocessing) -> Tensor:
    """Resize and crop one image; values stay uint8.

    Args:
        image: ``(H, W, 1)`` or ``(H, W, 3)``.
        preprocessing: What the network expects.

    Returns:
        uint8 ``(C, size, size)``: gray repeated, or colour turned into luma, where the network's channels
        differ.
    """
    side, gray = preprocessing.size, image.shape[2] == 1
    if image.shape == (side, side, preprocessing.channels) and preprocessing.resize in (None, side):
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)  # resize and crop would return it as it is
    picture = Image.fromarray(image[:, :, 0] if gray else image)
    if not gray and preprocessing.channels == 1:
        picture = picture.convert("L")
    target = [preprocessing.size] * 2 if preprocessing.resize is None else [preprocessing.resize]
    picture = vision.resize(
        picture, target, interpolation=MODES[preprocessing.interpolation], antialias=preprocessing.antialias
    )
    if preprocessing.resize is not None:
        picture = vision.center_crop(picture, [preprocessing.size] * 2)
    pixels: Tensor = vision.pil_to_tensor(picture)
    return pixels.expand(preprocessing.channels, -1, -1)


def normalise(batch: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Turn uint8 ``(N, C, H, W)`` into float32 of the same shape: [0, 1], less the mean, over the std."""
    mean = torch.tensor(preprocessing.mean, device=batch.device).view(-1, 1, 1)
    std = torch.tensor(preprocessing.std, device=batch.device).view(-1, 1, 1)
    return batch.float().div_(255).sub_(mean).div_(std)


def build_augmentation(name: str) -> Augmentation:
    """Return the augmentation called ``name``.

    Raises:
        GraftError: There is none of that name.
    """
    if name not in AUGMENTATIONS:
        raise GraftError(expected_one_of("augment.name", name, AUGMENTATIONS))
    return AUGMENTATIONS[name]


def keep_images(images: Tensor, generator: torch.Generator) -> Tensor:
    """Change nothing, and draw nothing."""
    return images


def flip_and_crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Crop at random from the image padded by 1/8 of its side with black, and flip half left to right.

    Source: the CIFAR recipe of He et al., "Deep Residual Learning for Image Recognition", 2016, section 4.2.
    """
    count, channels, height, width = images.shape
    margins = (height // 8, width // 8)
    top, left = (
        torch.randint(0, 2 * margin + 1, (count, 1), generator=generator).to(images.device)
        for margin in margins
    )
    flip = (torch.rand((count, 1), generator=generator) < 0.5).to(images.device)
    rows = top + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(count, width)
    columns = left + torch.where(flip, columns.flip(1), columns)
    padded = F.pad(images, (margins[1], margins[1], margins[0], margins[0]))
    places = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
    places = places.view(count, 1, -1).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, places).view_as(images)


def shear_zoom_and_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shear by up to 0.2 (tangent), zoom by up to 20 %, flip half left to right; borders are continued."""
    count = len(images)
    draws = torch.rand((count, 3), generator=generator)
    shear = (draws[:, 0] - 0.5) * 0.4
    zoom = 1.0 + (draws[:, 1] - 0.5) * 0.4
    side = torch.where(draws[:, 2] < 0.5, -1.0, 1.0)
    matrices = torch.zeros((count, 2, 3))
    matrices[:, 0, 0] = side * zoom
    matrices[:, 0, 1] = shear
    matrices[:, 1, 1] = zoom
    grid = F.affine_grid(matrices.to(images.device), list(images.shape), align_corners=False)
    moved = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved.round_().clamp_(0, 255).to(torch.uint8)


def augment_trivially(images: Tensor, generator: torch.Generator) -> Tensor:
    """Change each image by one operation of torchvision's ``TrivialAugmentWide``, of any strength; no flips.

    Source: Müller & Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation", 2021.
    """
    return _apply_each(TrivialAugmentWide(), images, generator)


def augment_at_random(images: Tensor, generator: torch.Generator) -> Tensor:
    """Change each image by two operations of torchvision's ``RandAugment`` with its magnitude 9; no flips.

    Source: Cubuk et al., "RandAugment: Practical Automated Data Augmentation with a Reduced Search Space",
    2020.
    """
    return _apply_each(RandAugment(), images, generator)


def _apply_each(transform: torch.nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
    """Apply a transform that draws from torch's global generator to one image after the other.

    The global generator of the CPU, the one that it draws from on any device, is put back as it was.
    """
    seed = int(torch.randint(0, 2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.stack([transform(image) for image in images])


def augment_views(
    augment: Augmentation, images: Tensor, indices: Sequence[int], view: int, seed: int
) -> Tensor:
    """Return view number ``view`` of each image: it depends on seed, index and number, on nothing else.

    Args:
        augment: The augmentation.
        images: uint8 ``(N, C, H, W)``.
        indices: Position of each image in the data set, ``(N,)``.
        view: Number of the view, from 0.
        seed: Seed of the run.
    """
    return torch.cat([
        augment(images[place : place + 1], seed_generator(seed, index, view, _VIEWS))
        for place, index in enumerate(indices)
    ])  # fmt: skip


def seed_generator(*seeds: int) -> torch.Generator:
    """Return a CPU generator whose state depends on all of ``seeds``, well mixed."""
    state = int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state >> 1)


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": keep_images,
    "flip_crop": flip_and_crop,
    "shear_zoom_flip": shear_zoom_and_flip,
    "trivial": augment_trivially,
    "randaugment": augment_at_random,
}
