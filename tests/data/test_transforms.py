from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from graft.config.names import AUGMENTATIONS as AUGMENTATION_NAMES
from graft.data.preprocessing import Preprocessing
from graft.data.transforms import (
    AUGMENTATIONS,
    augment_views,
    build_augmentation,
    normalise,
    seed_generator,
    to_input,
)
from graft.errors import GraftError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("shape", [(37, 50), (80, 41), (20, 20), (24, 24)])
@pytest.mark.parametrize("resize", [28, 24])
def test_equals_the_preset_of_torchvision_to_the_bit(
    interpolation: str, shape: tuple[int, int], resize: int
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    preprocessing = Preprocessing(3, 24, resize, interpolation, True, MEAN, STD)
    preset = ImageClassification(
        crop_size=24, resize_size=resize, mean=MEAN, std=STD, interpolation=InterpolationMode(interpolation)
    )
    ours = normalise(to_input(image, preprocessing)[None], preprocessing)[0]
    assert torch.equal(ours, preset(Image.fromarray(image)))


def test_channels_follow_the_network() -> None:
    rng = np.random.default_rng(0)
    gray = rng.integers(0, 256, (8, 8, 1), dtype=np.uint8)
    colour = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    three = Preprocessing(3, 16, None, "bilinear", True, MEAN, STD)
    one = Preprocessing(1, 16, None, "bilinear", True, (0.5,), (0.5,))
    repeated = to_input(gray, three)
    assert repeated.shape == (3, 16, 16)
    assert repeated.dtype == torch.uint8
    assert torch.equal(repeated[0], repeated[2])
    assert torch.equal(repeated[:1], to_input(gray, one))
    luma = np.asarray(Image.fromarray(colour).convert("L"))[:, :, None]
    assert torch.equal(to_input(colour, one), to_input(luma, one))


def test_without_resize_the_whole_image_is_kept() -> None:
    image = np.zeros((10, 30, 1), dtype=np.uint8)
    image[:, :15] = 255
    pixels = to_input(image, Preprocessing(1, 10, None, "nearest", True, (0.5,), (0.5,)))
    assert pixels[0, :, :5].float().mean() == 255
    assert pixels[0, :, 5:].float().mean() == 0


def test_registry_has_the_names_of_the_config() -> None:
    assert set(AUGMENTATIONS) == set(AUGMENTATION_NAMES)


def test_unknown_augmentation() -> None:
    with pytest.raises(GraftError, match=r"`augment.name`.*but got 'flipcrop'. Did you mean 'flip_crop'\?"):
        build_augmentation("flipcrop")


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_augmentation_is_a_pure_function_of_the_generator(name: str) -> None:
    images = torch.randint(0, 256, (16, 3, 16, 24), dtype=torch.uint8)
    kept = images.clone()
    augment = build_augmentation(name)
    once, again = (augment(images, seed_generator(1, 2, 3)) for _ in range(2))
    assert torch.equal(once, again)
    assert torch.equal(images, kept)
    assert once.shape == images.shape
    assert once.dtype == torch.uint8
    assert torch.equal(augment(images, seed_generator(1, 2, 4)), once) == (name == "none")


def test_flip_crop_gives_a_window_of_the_padded_image() -> None:
    image = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8)
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1))[0, 0]
    windows = [padded[y : y + 8, x : x + 8] for y in range(3) for x in range(3)]
    allowed = {tuple(w.flatten().tolist()) for window in windows for w in (window, window.flip(1))}
    moved = build_augmentation("flip_crop")(image.expand(400, -1, -1, -1), seed_generator(0))
    assert {tuple(one.flatten().tolist()) for one in moved} == allowed


def test_shear_zoom_flip_stays_near_the_image_and_differs_per_image() -> None:
    image = torch.zeros((1, 1, 32, 32), dtype=torch.uint8)
    image[:, :, 8:24, 8:24] = 200
    moved = build_augmentation("shear_zoom_flip")(image.expand(64, -1, -1, -1), seed_generator(0))
    assert (moved[:, 0, 14:18, 14:18] == 200).all()
    areas = (moved > 100).sum((1, 2, 3)).double() / 256
    assert 0.6 < areas.min() < 0.85
    assert 1.2 < areas.max() < 1.7
    assert len({tuple(one.flatten().tolist()) for one in moved}) == 64


@pytest.mark.parametrize("name", ["trivial", "randaugment"])
@pytest.mark.parametrize("channels", [1, 3])
def test_operations_differ_per_image_and_leave_the_global_generator_alone(name: str, channels: int) -> None:
    image = torch.randint(0, 256, (1, channels, 16, 16), dtype=torch.uint8)
    state = torch.get_rng_state()
    moved = build_augmentation(name)(image.expand(32, -1, -1, -1), seed_generator(0))
    assert torch.equal(torch.get_rng_state(), state)
    assert len({tuple(one.flatten().tolist()) for one in moved}) > 16
    torch.manual_seed(5)
    again = build_augmentation(name)(image.expand(32, -1, -1, -1), seed_generator(0))
    assert torch.equal(again, moved)


@pytest.mark.parametrize("name", sorted(set(AUGMENTATIONS) - {"none"}))
def test_a_view_depends_on_seed_index_and_number_only(name: str) -> None:
    augment = build_augmentation(name)
    images = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8)
    indices = [40, 41, 42, 43, 44, 45]
    views = [augment_views(augment, images, indices, view, 7) for view in range(3)]
    order = [3, 0, 5]
    part = augment_views(augment, images[order], [indices[place] for place in order], 1, 7)
    assert torch.equal(part, views[1][order]), "not on the batch around it"
    assert not torch.equal(views[0], views[1])
    assert not torch.equal(augment_views(augment, images, indices, 0, 8), views[0])


def test_generators_of_neighbouring_steps_differ() -> None:
    draws = {
        float(torch.rand(1, generator=seed_generator(0, step, part)))
        for step in range(20)
        for part in range(3)
    }
    assert len(draws) == 60
