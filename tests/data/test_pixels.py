from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graft.data import pixels as pixels_module
from graft.data.decode import FileReader
from graft.data.image_set import ImageSet, SourceFacts, UInt8Array
from graft.data.pixels import hash_geometry, prepare_pixels
from graft.data.preprocessing import Preprocessing
from graft.data.transforms import to_input
from graft.errors import GraftError

COLOUR = Preprocessing(3, 12, 14, "bilinear", True, (0.5,) * 3, (0.5,) * 3)


def make_set(count: int = 5) -> tuple[ImageSet, list[int]]:
    """Return images of many shapes, and the list of indices that have been read."""
    rng = np.random.default_rng(0)
    shapes = [(int(rng.integers(5, 40)), int(rng.integers(5, 40)), 1 + 2 * (i % 2)) for i in range(count)]
    images = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
    reads: list[int] = []

    def read(index: int) -> UInt8Array:
        reads.append(index)
        return images[index]

    ids = tuple(str(index) for index in range(count))
    facts = SourceFacts("none", "none", "random")
    labels = np.zeros(count, dtype=np.int64)
    return ImageSet("random", ("a", "b"), labels, None, ids, "d" * 64, 3, facts, read), reads


@pytest.mark.parametrize(
    "preprocessing",
    [COLOUR, replace(COLOUR, resize=None), Preprocessing(1, 9, 9, "bicubic", True, (0.5,), (0.5,))],
)
def test_equals_the_plain_path_to_the_bit(tmp_path: Path, preprocessing: Preprocessing) -> None:
    images, _ = make_set()
    progress: list[tuple[int, int]] = []
    pixels = prepare_pixels(
        images, preprocessing, tmp_path, lambda done, total: progress.append((done, total))
    )
    assert pixels.shape == (5, preprocessing.channels, preprocessing.size, preprocessing.size)
    assert pixels.dtype == np.uint8
    assert not pixels.flags.writeable
    for index in range(5):
        assert np.array_equal(pixels[index], to_input(images.read(index), preprocessing).numpy())
    assert progress == [(5, 5)]


def test_images_are_decoded_once(tmp_path: Path) -> None:
    images, reads = make_set()
    first = prepare_pixels(images, COLOUR, tmp_path)
    again = prepare_pixels(images, replace(COLOUR, mean=(0.1,) * 3), tmp_path)
    assert reads == list(range(5))
    assert np.array_equal(first, again)
    prepare_pixels(images, replace(COLOUR, interpolation="nearest"), tmp_path)
    assert reads == [*range(5), *range(5)]


def test_threads_decode_the_same_in_the_same_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, _ = make_set(90)
    filters = list(warnings.filters)
    one = np.array(prepare_pixels(images, COLOUR, tmp_path / "one"))
    monkeypatch.setattr(pixels_module, "_WORTH_VALUES", 0)
    monkeypatch.setattr(pixels_module, "_count_cores", lambda: 3)
    assert np.array_equal(prepare_pixels(images, COLOUR, tmp_path / "three"), one)
    assert warnings.filters == filters

    def fail(index: int) -> UInt8Array:
        if index == 40:
            raise GraftError("image 40 is broken")
        return images.read(index)

    with pytest.raises(GraftError, match="image 40 is broken"):
        prepare_pixels(replace(images, read=fail, digest="e" * 64), COLOUR, tmp_path)
    assert {file.suffix for file in (tmp_path / "pixels").iterdir()} <= {".lock"}


def test_processes_decode_the_same_in_the_same_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files, a large one that is not handed over, and gray among colour."""
    rng, files = np.random.default_rng(0), []
    for index in range(40):
        side, shape = (700 if index == 20 else int(rng.integers(5, 40))), (3,) if index % 3 else ()
        files.append(tmp_path / f"{index}.{'png' if index % 2 else 'jpg'}")
        Image.fromarray(rng.integers(0, 256, (side, side, *shape), dtype=np.uint8)).save(files[-1])
    images = replace(make_set(40)[0], read=FileReader(tuple(files)))
    one = np.array(prepare_pixels(images, COLOUR, tmp_path / "one"))
    monkeypatch.setattr(pixels_module, "_WORTH_PROCESSES", 1)
    monkeypatch.setattr(pixels_module, "_count_cores", lambda: 2)
    filters = list(warnings.filters)
    started: list[int] = []
    start = pixels_module.start_decoders
    monkeypatch.setattr(pixels_module, "start_decoders", lambda count: started.append(count) or start(count))
    progress: list[tuple[int, int]] = []
    two = prepare_pixels(images, COLOUR, tmp_path / "two", lambda *seen: progress.append(seen))
    assert np.array_equal(two, one)
    assert (started, progress) == ([2], [(40, 40)])
    assert warnings.filters == filters
    files[33].write_bytes(b"no image")
    with pytest.raises(GraftError, match=r"33\.png to be an image, but it is not one"):
        prepare_pixels(images, COLOUR, tmp_path / "three")
    assert {file.suffix for file in (tmp_path / "three" / "pixels").iterdir()} <= {".lock"}


def test_name_holds_all_that_changes_pixels() -> None:
    one = Preprocessing(1, 12, 14, "bilinear", True, (0.5,), (0.5,))
    changed = [
        replace(COLOUR, size=13),
        replace(COLOUR, resize=None),
        replace(COLOUR, interpolation="bicubic"),
        replace(COLOUR, antialias=False),
        one,
        COLOUR,
    ]
    names = {hash_geometry("a", preprocessing) for preprocessing in changed} | {hash_geometry("b", COLOUR)}
    assert len(names) == 7
    assert hash_geometry("a", COLOUR) == hash_geometry("a", replace(COLOUR, std=(0.1,) * 3))


def test_damaged_pixels_are_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, reads = make_set()
    expected = np.array(prepare_pixels(images, COLOUR, tmp_path))
    (path,) = (tmp_path / "pixels").glob("*.npy")
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-7] ^= 1
    for damaged in (b"", whole[:-10], bytes(flipped)):
        monkeypatch.setattr(pixels_module, "_verified", set())
        path.unlink()
        path.write_bytes(damaged)
        reads.clear()
        assert np.array_equal(prepare_pixels(images, COLOUR, tmp_path), expected)
        assert reads == list(range(5))
    path.with_suffix(".sha256").unlink()
    reads.clear()
    prepare_pixels(images, COLOUR, tmp_path)
    assert reads == list(range(5))
    assert {file.suffix for file in path.parent.iterdir()} <= {".npy", ".sha256", ".lock"}


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    images, _ = make_set()

    def fail(index: int) -> UInt8Array:
        raise GraftError(f"image {index} is broken")

    with pytest.raises(GraftError, match="image 0 is broken"):
        prepare_pixels(replace(images, read=fail), COLOUR, tmp_path)
    assert {file.suffix for file in (tmp_path / "pixels").iterdir()} <= {".lock"}


def test_unwritable_cache(tmp_path: Path) -> None:
    (tmp_path / "pixels").write_text("a file where the folder should be")
    with pytest.raises(GraftError, match=r"Expected to write into .*`paths\.root`"):
        prepare_pixels(make_set()[0], COLOUR, tmp_path)
