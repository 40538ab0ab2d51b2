"""What a check finds of copies reaches the runs: which test images does training hold?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_images

from graft.config.schema import DataConfig
from graft.data.catalog import open_images
from graft.data.check import check_source
from graft.data.copies import add_likenesses, find_copied, keep_likenesses
from graft.data.image_set import ImageSet, SourceFacts
from graft.data.preprocessing import Preprocessing
from graft.data.sound import open_sound_images
from graft.data.splits import Split

RGB = Preprocessing(3, 64, None, "bilinear", True, (0.5,) * 3, (0.3,) * 3)


def make_set(likenesses: list[int] | None) -> ImageSet:
    count = 12 if likenesses is None else len(likenesses)
    return ImageSet(
        name="toy",
        class_names=("a", "b"),
        labels=np.arange(count, dtype=np.int64) % 2,
        official=None,
        item_ids=tuple(map(str, range(count))),
        digest="d" * 64,
        channels=1,
        facts=SourceFacts("", "", ""),
        read=lambda index: np.full((2, 2, 1), index, np.uint8),
        likenesses=None if likenesses is None else np.array(likenesses, dtype=np.int64),
    )


def split_of(train: list[int], test: list[int]) -> Split:
    return Split(np.array(train, dtype=np.int64), np.arange(0), np.array(test, dtype=np.int64), "s")


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["train", "val", "test"])), max_size=30))
def test_copied_are_the_test_images_whose_picture_training_holds(drawn: list[tuple[int, str]]) -> None:
    parts = {
        name: [at for at, one in enumerate(drawn) if one[1] == name] for name in ("train", "val", "test")
    }
    held = {drawn[at][0] for at in parts["train"]}
    found = find_copied(make_set([one[0] for one in drawn]), split_of(parts["train"], parts["test"]))
    assert found is not None
    assert found.tolist() == [at for at in parts["test"] if drawn[at][0] in held]


def test_where_nobody_looked_nothing_is_known() -> None:
    assert find_copied(make_set(None), split_of([0, 1], [2, 3])) is None


def test_what_a_check_found_is_known_to_runs(tmp_path: Path) -> None:
    """A set that runs do not check; 8 x 8 px is too small for near copies, and some digits are exact ones."""
    config = DataConfig(name="digits")
    images = open_images(config, tmp_path)
    assert add_likenesses(images, tmp_path).likenesses is None
    report = check_source(config, tmp_path, lambda channels: RGB)
    known = add_likenesses(images, tmp_path)
    assert known.digest == images.digest
    assert known.likenesses is not None
    np.testing.assert_array_equal(known.likenesses, report.likenesses)
    pixels = [images.read(index).tobytes() for index in range(len(images))]
    assert len(set(pixels)) == len(np.unique(known.likenesses))


@pytest.mark.parametrize("content", [b"", b"no array", None])
def test_a_damaged_file_is_as_none(tmp_path: Path, content: bytes | None) -> None:
    images = make_set(None)
    keep_likenesses(images.digest, np.arange(7), tmp_path)  # of another number of images
    [file] = (tmp_path / "check").iterdir()
    if content is not None:
        file.write_bytes(content)
    assert add_likenesses(images, tmp_path).likenesses is None


def cut_pictures() -> list[Image.Image]:
    """Return parts of a photograph that do not overlap."""
    photograph = load_sample_images().images[0]
    corners = [(top, left) for top in range(100, 400, 96) for left in range(0, 576, 96)]
    return [Image.fromarray(photograph[top : top + 96, left : left + 96]) for top, left in corners]


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_near_copies_of_a_folder_are_known_and_its_digest_is_the_same(tmp_path: Path, on_error: str) -> None:
    """Exact copies are an error, left out or not; a near copy stays, and is known."""
    root, pictures = tmp_path / "mine", iter(cut_pictures())
    for split in ("train", "test"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for number in range(3):
                next(pictures).save(root / split / name / f"{number}.png")
    with Image.open(root / "test" / "a" / "1.png") as picture:
        picture.resize((80, 80), Image.Resampling.BICUBIC).save(root / "train" / "a" / "near.png")
    if on_error == "skip":
        (root / "train" / "b" / "copy.png").write_bytes((root / "test" / "b" / "2.png").read_bytes())
    config = DataConfig(name="folder", root=str(root), on_error=on_error)
    images, _, left_out = open_sound_images(config, tmp_path / "cache", lambda channels: RGB, tmp_path)
    assert left_out == (("train/b/copy.png",) if on_error == "skip" else ())
    train = [at for at, name in enumerate(images.item_ids) if name.startswith("train")]
    test = [at for at, name in enumerate(images.item_ids) if name.startswith("test")]
    copied = find_copied(images, split_of(train, test))
    assert copied is not None
    assert [images.item_ids[at] for at in copied] == ["test/a/1.png"]
    without = [at for at in train if not images.item_ids[at].endswith("near.png")]
    rest = find_copied(images, split_of(without, test))
    assert rest is not None
    assert rest.tolist() == []
    for name in left_out:
        (root / name).unlink()
    assert images.digest == open_images(replace(config, on_error="stop"), tmp_path / "cache").digest
