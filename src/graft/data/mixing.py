"""Images blended with others of their batch: mixup and cutmix.

A mixed image counts as two labels at once: ``share`` of its own, the rest of its partner's. Its loss is the
mean of both labels' losses with these shares. That is the loss of the soft target ``share * own + (1 - share)
* partner`` exactly where the loss is linear in the target (cross-entropy with or without smoothing, binary
cross-entropy), for the squared error up to a constant without a gradient, and the natural extension of the
focal loss, ``sum_c t_c (1 - p_c)^gamma * -log p_c``. Class weights stay those of the labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixed:
    """Images after mixing.

    Attributes:
        images: ``(N, C, H, W)``.
        partner: Whose label is the other one, as a place in the batch, ``(N,)``.
        share: How much of each image is its own, ``(N,)``, in [0, 1].
    """

    images: Tensor
    partner: Tensor
    share: Tensor


def mix_images(images: Tensor, mixup: float, cutmix: float, generator: torch.Generator) -> Mixed:
    """Mix every image with another one of the batch, each with a share of its own.

    Args:
        images: Normalised images ``(N, C, H, W)``.
        mixup: Parameter of the Beta distribution of the shares; 0 for no mixup.
        cutmix: The same for cutmix. Where both are above 0, a coin decides for the batch.
        generator: Draws everything, on the CPU.

    Source: Zhang et al. 2018, mixup, equation 2; Yun et al. 2019, CutMix, equations 1 and 2.
    """
    count = len(images)
    seed, coin = torch.randint(0, 2**62, (2,), generator=generator).tolist()
    rng = np.random.default_rng(seed)
    partner = torch.from_numpy(rng.permutation(count)).to(images.device)
    blends = mixup > 0 and (cutmix == 0 or coin % 2 == 0)
    alpha = mixup if blends else cutmix
    share = torch.from_numpy(rng.beta(alpha, alpha, count).astype(np.float32))
    if blends:
        own = share.to(images.device)
        mixed = torch.lerp(images[partner], images, own.view(-1, 1, 1, 1))
        return Mixed(mixed, partner, own)
    inside = _draw_boxes(share.numpy(), images.shape[2], images.shape[3], rng)
    own = torch.from_numpy(1 - inside.mean(axis=(1, 2), dtype=np.float32)).to(images.device)
    mask = torch.from_numpy(inside).to(images.device)[:, None]
    return Mixed(torch.where(mask, images[partner], images), partner, own)


def _draw_boxes(
    share: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    height: int,
    width: int,
    rng: np.random.Generator,
) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Return which pixels lie in the box of each image, ``(N, H, W)``; boxes are cut at the border."""
    sides = []
    for length in (height, width):
        half = np.sqrt(1 - share)[:, None] * length / 2
        centre = rng.uniform(0, length, (len(share), 1))
        place = np.arange(length) + 0.5
        sides.append((place >= centre - half) & (place < centre + half))
    return np.asarray(sides[0][:, :, None] & sides[1][:, None, :])
