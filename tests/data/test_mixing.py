from __future__ import annotations

import numpy as np
import pytest
import torch

from graft.data.mixing import mix_images
from graft.data.transforms import seed_generator


def draw(count: int = 64) -> torch.Tensor:
    """Images of one value each, so that a mixed one shows its shares."""
    return torch.arange(1, count + 1).float().view(-1, 1, 1, 1).expand(-1, 3, 12, 20).contiguous()


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.3, 0.3)])
def test_the_share_of_the_label_is_the_share_of_the_image(mixup: float, cutmix: float) -> None:
    images = draw()
    for step in range(8):
        mixed = mix_images(images, mixup, cutmix, seed_generator(0, step))
        mean = mixed.images.mean(dim=(1, 2, 3))
        own, other = images[:, 0, 0, 0], images[mixed.partner, 0, 0, 0]
        torch.testing.assert_close(mean, mixed.share * own + (1 - mixed.share) * other, rtol=1e-4, atol=1e-4)
        assert sorted(mixed.partner.tolist()) == list(range(64))
        assert ((mixed.share >= 0) & (mixed.share <= 1)).all()
        assert torch.equal(images, draw())


def test_cutmix_pastes_and_mixup_blends() -> None:
    images = draw()
    pasted = mix_images(images, 0.0, 1.0, seed_generator(1))
    either = (pasted.images == images) | (pasted.images == images[pasted.partner])
    assert either.all()
    blended = mix_images(images, 1.0, 0.0, seed_generator(1)).images
    assert all(len(image.unique()) == 1 for image in blended)


def test_both_take_turns_by_a_coin() -> None:
    kinds = {
        all(len(image.unique()) == 1 for image in mix_images(draw(), 1.0, 1.0, seed_generator(step)).images)
        for step in range(20)
    }
    assert kinds == {True, False}


def test_mixing_is_a_pure_function_of_the_generator() -> None:
    torch.rand(3)
    one, two, other = (mix_images(draw(), 0.5, 0.5, seed_generator(seed)) for seed in (4, 4, 5))
    assert torch.equal(one.images, two.images)
    assert torch.equal(one.share, two.share)
    assert not torch.equal(one.images, other.images)


def test_shares_follow_the_beta_distribution() -> None:
    shares = torch.cat(
        [mix_images(draw(500)[:, :1, :2, :2], 0.5, 0.0, seed_generator(s)).share for s in range(10)]
    )
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(shares.var()) == pytest.approx(0.125, abs=0.01)


def test_an_image_alone_stays_as_it_is() -> None:
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, 6, 6)).astype(np.float32))
    for mixup, cutmix in ((0.5, 0.0), (0.0, 0.5)):
        torch.testing.assert_close(mix_images(image, mixup, cutmix, seed_generator(0)).images, image)
