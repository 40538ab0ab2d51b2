from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.data.near_duplicates import (
    SKETCH_BYTES,
    find_near_duplicates,
    join_groups,
    score_pairs,
    sketch_image,
)


def test_a_sketch_of_gray_is_that_of_its_colour_copy() -> None:
    gray = np.random.default_rng(0).integers(0, 256, (40, 50, 1), dtype=np.uint8)
    sketch = sketch_image(gray)
    assert sketch.shape == (SKETCH_BYTES,)
    coloured = sketch_image(np.repeat(gray, 3, axis=2))
    assert np.abs(sketch.astype(int) - coloured).max() <= 1  # luma is rounded


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 900, 1), (2000, 3, 3)])
def test_any_shape_has_a_sketch(shape: tuple[int, int, int]) -> None:
    assert sketch_image(np.full(shape, 9, dtype=np.uint8)).shape == (SKETCH_BYTES,)


def test_blank_images_are_no_pair() -> None:
    rng = np.random.default_rng(1)
    blank = (128 + rng.normal(0, 1, (20, 64, 64, 3))).astype(np.uint8)
    assert len(find_near_duplicates(np.stack([sketch_image(image) for image in blank]))) == 0


def test_noise_is_no_pair_and_no_image_is_none() -> None:
    noise = np.random.default_rng(2).integers(0, 256, (50, 64, 64, 1), dtype=np.uint8)
    assert len(find_near_duplicates(np.stack([sketch_image(image) for image in noise]))) == 0
    assert find_near_duplicates(np.empty((0, SKETCH_BYTES), dtype=np.uint8)).shape == (0, 2)


def test_pairs_are_found_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.data.near_duplicates._ROWS", 7)
    monkeypatch.setattr("graft.data.near_duplicates._COLUMNS", 5)
    noise = np.random.default_rng(3).integers(0, 256, (20, 32, 32, 1), dtype=np.uint8)
    sketches = np.stack([sketch_image(image) for image in noise[[*range(20), 3, 19, 0]]])
    seen: list[tuple[int, int]] = []
    pairs = find_near_duplicates(sketches, lambda done, total: seen.append((done, total)))
    assert pairs.tolist() == [[0, 22], [3, 20], [19, 21]]
    assert seen[-1] == (23, 23)


def test_alignment_undoes_a_shift_and_refuses_a_long_way() -> None:
    place = np.arange(40)
    wave = np.sin(place[:, None] / 3) + np.cos(place[None, :] / 4) + np.sin((place[:, None] + place) / 5)
    image = (wave * 40 + 128).astype(np.float32)
    fixed = image[None, 4:36, 4:36]
    assert score_pairs(fixed, image[None, 5:37, 3:35])[0] > 0.99
    assert score_pairs(fixed, image[None, 5:37, 3:35] * 0.8 + 20)[0] > 0.99
    assert score_pairs(fixed, image[None, :32, 8:40])[0] < 0.9


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_groups_are_connected_components(pairs: list[tuple[int, int]]) -> None:
    groups = join_groups(np.array(pairs, dtype=np.int64).reshape(-1, 2), 20)
    sets = [{index} for index in range(20)]
    for first, second in pairs:
        joined = sets[first] | sets[second]
        for index in joined:
            sets[index] = joined
    assert groups.tolist() == [min(group) for group in sets]
