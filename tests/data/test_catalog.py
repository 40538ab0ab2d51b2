from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from graft.config.names import DATA_SETS
from graft.config.schema import DataConfig
from graft.data.catalog import SOURCES, open_images
from graft.data.image_set import NO_SPLIT, TEST, TRAIN, VAL, ImageSet
from graft.errors import GraftError


def save(path: Path, seed: int = 0, mode: str = "RGB", size: tuple[int, int] = (6, 5)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def make_flat(root: Path, classes: tuple[str, ...] = ("cat", "dog"), per_class: int = 2) -> Path:
    for label, name in enumerate(classes):
        for number in range(per_class):
            save(root / name / f"{number}.png", seed=10 * label + number)
    return root


def open_folder(root: Path, cache: Path, progress: Any = None) -> ImageSet:
    return open_images(DataConfig(name="folder", root=str(root)), cache, progress)


def test_registry_has_the_names_of_the_config() -> None:
    assert set(SOURCES) == set(DATA_SETS)


def test_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(
        GraftError, match=r"`data.name` to be one of: digits.*but got 'digit'. Did you mean 'digits'"
    ):
        open_images(DataConfig(name="digit"), tmp_path)


def test_digits_contract(tmp_path: Path) -> None:
    images = open_images(DataConfig(name="digits"), tmp_path)
    assert len(images) == 1797
    assert images.class_names == tuple("0123456789")
    assert np.bincount(images.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert images.official is None
    assert images.channels == 1
    assert images.item_ids[17] == "digits/17"
    pixels = images.read(17)
    assert (pixels.shape, pixels.dtype, pixels.max()) == ((8, 8, 1), np.uint8, 255)
    assert images.digest == open_images(DataConfig(name="digits"), tmp_path).digest


def test_glyphs_contract(tmp_path: Path) -> None:
    images = open_images(DataConfig(name="glyphs", render_count=124), tmp_path)
    assert len(images) == 124
    assert len(images.class_names) == 62
    assert np.bincount(images.labels).tolist() == [2] * 62
    assert images.read(5).shape == (8, 8, 1)
    other = open_images(DataConfig(name="glyphs", render_count=124, render_seed=1), tmp_path)
    assert other.digest != images.digest


def test_folder_of_one_level(tmp_path: Path) -> None:
    root = make_flat(tmp_path / "images", ("dog", "cat"))
    (root / "cat" / "notes.txt").write_text("not an image")
    (root / "cat" / ".hidden.png").write_bytes(b"")
    save(root / "cat" / "deeper" / "9.PNG", seed=9)
    images = open_folder(root, tmp_path / "cache")
    assert images.class_names == ("cat", "dog")
    assert images.item_ids == ("cat/0.png", "cat/1.png", "cat/deeper/9.PNG", "dog/0.png", "dog/1.png")
    assert images.labels.tolist() == [0, 0, 0, 1, 1]
    assert images.official is None
    assert images.channels == 3
    assert np.array_equal(images.read(2), np.asarray(Image.open(root / "cat" / "deeper" / "9.PNG")))


@pytest.mark.parametrize("val", ["val", "validation", "valid"])
def test_folder_with_splits(tmp_path: Path, val: str) -> None:
    for split, classes in (("train", ("a", "b", "c")), (val, ("b", "c")), ("test", ("c",))):
        make_flat(tmp_path / "images" / split, classes, per_class=1)
    images = open_folder(tmp_path / "images", tmp_path / "cache")
    # A class that validation lacks does not shift the labels of those after it.
    assert images.class_names == ("a", "b", "c")
    assert images.official is not None
    assert NO_SPLIT not in images.official
    pairs = list(zip(images.official.tolist(), images.labels.tolist(), strict=True))
    assert pairs == [(TRAIN, 0), (TRAIN, 1), (TRAIN, 2), (VAL, 1), (VAL, 2), (TEST, 2)]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    images = open_folder(make_flat(tmp_path / "images", ("bus", "train")), tmp_path / "cache")
    assert images.class_names == ("bus", "train")


def test_digest_is_of_the_content_not_of_the_place(tmp_path: Path) -> None:
    one = make_flat(tmp_path / "one")
    two = make_flat(tmp_path / "elsewhere" / "two")
    digest = open_folder(one, tmp_path / "cache").digest
    assert open_folder(two, tmp_path / "cache").digest == digest
    save(two / "cat" / "0.png", seed=99)
    assert open_folder(two, tmp_path / "cache").digest != digest
    (one / "dog").rename(one / "wolf")
    assert open_folder(one, tmp_path / "cache").digest != digest


def test_files_are_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, cache = make_flat(tmp_path / "images"), tmp_path / "cache"
    seen: list[tuple[int, int]] = []
    first = open_folder(root, cache, lambda done, total: seen.append((done, total)))
    assert seen == [(4, 4)]
    with monkeypatch.context() as patch:
        patch.setattr("graft.data.folder.read_content", lambda path: pytest.fail(f"opened {path}"))
        assert open_folder(root, cache).digest == first.digest
    (index,) = (cache / "folders").iterdir()
    for damaged in ("", "[]", "{", '{"cat/0.png": {}}', '{"cat/0.png": 3}'):
        index.write_text(damaged)
        assert open_folder(root, cache).digest == first.digest


def test_gray_folder_has_one_channel(tmp_path: Path) -> None:
    root = tmp_path / "images"
    save(root / "a" / "0.png", mode="L")
    save(root / "b" / "0.png", mode="1")
    images = open_folder(root, tmp_path / "cache")
    assert images.channels == 1
    assert images.read(1).shape == (5, 6, 1)
    save(root / "b" / "1.png")
    assert open_folder(root, tmp_path / "cache").channels == 3


def test_bad_roots(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(GraftError, match=r"`data.root`.*got nothing: say data=folder data.root="):
        open_images(DataConfig(name="folder"), cache)
    with pytest.raises(GraftError, match=r"`data.root`.*nowhere does not exist"):
        open_folder(tmp_path / "nowhere", cache)
    (tmp_path / "file").write_text("")
    with pytest.raises(GraftError, match=r"`data.root`.*file is a file"):
        open_folder(tmp_path / "file", cache)
    (tmp_path / "empty").mkdir()
    with pytest.raises(GraftError, match=r"folder per class.*empty holds no folder"):
        open_folder(tmp_path / "empty", cache)


def test_bad_classes(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(GraftError, match=r"at least 2 classes, but .*one holds one: 'cat'"):
        open_folder(make_flat(tmp_path / "one", ("cat",)), cache)
    root = make_flat(tmp_path / "empty")
    (root / "lynx").mkdir()
    with pytest.raises(GraftError, match=r"image in every class, but .*lynx holds none.*\.jpeg"):
        open_folder(root, cache)


def test_bad_splits(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    root = tmp_path / "extra"
    make_flat(root / "train")
    make_flat(root / "val", ("cat", "dogs"))
    with pytest.raises(
        GraftError, match=r"a class in .*val` to be one of: dog, cat; but got 'dogs'.*no training image"
    ):
        open_folder(root, cache)
    make_flat(tmp_path / "two" / "train")
    make_flat(tmp_path / "two" / "val")
    make_flat(tmp_path / "two" / "valid")
    with pytest.raises(GraftError, match=r"one folder per split in .*both val and valid"):
        open_folder(tmp_path / "two", cache)
    make_flat(tmp_path / "no_train" / "test")
    with pytest.raises(GraftError, match=r"to hold a folder train, but got only test"):
        open_folder(tmp_path / "no_train", cache)
    make_flat(tmp_path / "mixed" / "train")
    make_flat(tmp_path / "mixed", ("cat",))
    with pytest.raises(GraftError, match=r"either splits or classes.*the splits train, and cat"):
        open_folder(tmp_path / "mixed", cache)
    make_flat(tmp_path / "hollow" / "train")
    (tmp_path / "hollow" / "test" / "cat").mkdir(parents=True)
    with pytest.raises(GraftError, match=r"images in .*test, but its class folders hold none"):
        open_folder(tmp_path / "hollow", cache)


def test_files_that_are_no_images(tmp_path: Path) -> None:
    root, cache = make_flat(tmp_path / "images"), tmp_path / "cache"
    bad = root / "cat" / "bad.jpg"
    bad.write_bytes(b"")
    with pytest.raises(GraftError, match=r"bad\.jpg to be an image, but it is empty"):
        open_folder(root, cache)
    bad.write_text("just text")
    with pytest.raises(GraftError, match=r"bad\.jpg to be an image, but it is not one"):
        open_folder(root, cache)


def test_links(tmp_path: Path) -> None:
    root, cache = make_flat(tmp_path / "images"), tmp_path / "cache"
    (root / "cat" / "loop").symlink_to(root)
    assert len(open_folder(root, cache)) == 4
    (root / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(GraftError, match=r"gone\.png to be an image.*No such file.*a link to nowhere"):
        open_folder(root, cache)


def test_unreadable_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, cache = make_flat(tmp_path / "images"), tmp_path / "cache"
    denied = PermissionError(13, "Permission denied", "/private")
    with monkeypatch.context() as patch:
        patch.setattr("graft.data.folder.os.walk", lambda folder, onerror: onerror(denied))
        with pytest.raises(GraftError, match="read the folder /private, but got: Permission denied"):
            open_folder(root, cache)

    def refuse(self: Path) -> None:
        raise denied

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(GraftError, match=r"read the folder .*images, but got: Permission denied"):
        open_folder(root, cache)


def test_unwritable_cache(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(GraftError, match=r"Expected to write .*`paths\.root`"):
        open_folder(make_flat(tmp_path / "images"), tmp_path / "cache")
