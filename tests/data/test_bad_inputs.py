"""What people get wrong with their own images, as a run meets it: each is told with what to do about it."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graft.config.schema import DataConfig
from graft.data.divide import divide_images
from graft.data.preprocessing import Preprocessing
from graft.data.sound import open_sound_images
from graft.errors import GraftError

RGB = Preprocessing(3, 16, None, "bilinear", True, (0.5,) * 3, (0.3,) * 3)
Spoil = Callable[[Path], DataConfig]


def folder(root: Path, **knobs: object) -> DataConfig:
    return replace(DataConfig(name="folder", root=str(root)), **knobs)


def paint(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)


def flat(root: Path, cats: int = 10, dogs: int = 10) -> Path:
    for number in range(cats):
        paint(root / "cat" / f"{number}.png", number)
    for number in range(dogs):
        paint(root / "dog" / f"{number}.png", 100 + number)
    return root


def divided(root: Path) -> Path:
    for place, split in enumerate(("train", "val", "test")):
        for number in range(4):
            paint(root / split / "cat" / f"{number}.png", 1000 + 10 * place + number)
            paint(root / split / "dog" / f"{number}.png", 2000 + 10 * place + number)
    return root


def write(root: Path, name: str, content: bytes) -> DataConfig:
    (flat(root) / "cat" / name).write_bytes(content)
    return folder(root)


def missing_root(root: Path) -> DataConfig:
    return folder(root)


def root_is_a_file(root: Path) -> DataConfig:
    root.write_text("")
    return folder(root)


def empty_root(root: Path) -> DataConfig:
    root.mkdir()
    return folder(root)


def one_class(root: Path) -> DataConfig:
    return folder(flat(root, dogs=0))


def empty_class(root: Path) -> DataConfig:
    (flat(root) / "lynx").mkdir()
    return folder(root)


def class_missing_in_train(root: Path) -> DataConfig:
    shutil.rmtree(divided(root) / "train" / "dog")
    return folder(root)


def class_only_in_val(root: Path) -> DataConfig:
    paint(divided(root) / "val" / "wolf" / "0.png", 7)
    return folder(root)


def unreadable_file(root: Path) -> DataConfig:
    (flat(root) / "cat" / "bad.png").symlink_to("nowhere.png")
    return folder(root)


def truncated_jpeg(root: Path) -> DataConfig:
    Image.open(flat(root) / "cat" / "0.png").resize((64, 64)).save(root / "cat" / "bad.jpg", quality=95)
    return write(root, "bad.jpg", (root / "cat" / "bad.jpg").read_bytes()[:700])


def zero_byte_file(root: Path) -> DataConfig:
    return write(root, "bad.jpg", b"")


def text_file_named_jpg(root: Path) -> DataConfig:
    return write(root, "bad.jpg", b"Hello.")


def decompression_bomb(root: Path) -> DataConfig:
    content = bytearray((flat(root) / "cat" / "0.png").read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)  # what the header claims
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return write(root, "bad.png", bytes(content))


def table(root: Path, header: str, *rows: str) -> DataConfig:
    flat(root)
    lines = [f"cat/{number}.png,cat" for number in range(5)] + [
        f"dog/{number}.png,dog" for number in range(5)
    ]
    commas = "," * (header.count(",") - 1)
    (root / "table.csv").write_text("\n".join([header, *(line + commas for line in lines), *rows]))
    return DataConfig(name="table", table=str(root / "table.csv"))


def csv_without_the_columns(root: Path) -> DataConfig:
    return table(root, "file,class")


def csv_path_that_does_not_exist(root: Path) -> DataConfig:
    return table(root, "path,label", "cat/gone.png,cat")


def csv_path_that_leaves_the_root(root: Path) -> DataConfig:
    return table(root, "path,label", "../secret.png,cat")


def empty_label(root: Path) -> DataConfig:
    return table(root, "path,label", "cat/9.png,")


def nan_weight(root: Path) -> DataConfig:
    config = table(root, "path,label,weight", "cat/9.png,cat,nan")
    text = Path(config.table or "").read_text()
    Path(config.table or "").write_text(text.replace("cat,\n", "cat,1\n").replace("dog,\n", "dog,1\n"))
    return config


def contradictory_duplicates(root: Path) -> DataConfig:
    shutil.copy(flat(root) / "cat" / "3.png", root / "dog" / "same.png")
    return folder(root)


def k_larger_than_a_class(root: Path) -> DataConfig:
    return folder(flat(root, dogs=8), labels_per_class=7)


def a_group_so_large_that_a_split_becomes_empty(root: Path) -> DataConfig:
    config = table(root, "path,label,group")
    text = Path(config.table or "").read_text()
    Path(config.table or "").write_text(text.replace("cat,", "cat,clinic").replace("dog,", "dog,clinic"))
    return config


def fractions_that_do_not_add_up(root: Path) -> DataConfig:
    return folder(flat(root), test_size=0.6, val_size=0.5)


def a_fold_index_out_of_range(root: Path) -> DataConfig:
    return folder(flat(root), folds=5, fold=5)


REFUSED: list[tuple[Spoil, str]] = [
    (missing_root, r"mine does not exist\. Give the folder that holds a folder per class"),
    (root_is_a_file, r"mine is a file\. Give the folder that holds a folder per class.*data=table"),
    (empty_root, r"No image has a class\. Put the images into one folder per class"),
    (one_class, r"one class only: 'cat'\. Add images of at least a second class"),
    (empty_class, r"'lynx' has no sound image\. Add images of it, or remove the class"),
    (
        class_missing_in_train,
        r"'dog' has 4 images in val and none in train\. Add training images of this class",
    ),
    (class_only_in_val, r"'wolf' has 1 image in val and none in train\. Add training images.*or remove it"),
    (unreadable_file, r"cat/bad\.png to be a whole image.*No such file.*Remove it, or replace it"),
    (
        truncated_jpeg,
        r"cat/bad\.jpg to be a whole image.*truncated.*Remove it, or replace it with a whole copy",
    ),
    (zero_byte_file, r"cat/bad\.jpg to be an image, but it is empty \(0 bytes\)\. Remove it, or replace it"),
    (text_file_named_jpg, r"cat/bad\.jpg to be an image, but it is not one\. Remove it, or replace it"),
    (
        decompression_bomb,
        r"cat/bad\.png to have at most 178,956,970 pixels.*bomb\? Make it smaller, or remove",
    ),
    (csv_without_the_columns, r"lacks path and label\. It has: 'file', 'class'\. Rename or add columns"),
    (
        csv_path_that_does_not_exist,
        r"Row 12: 'cat/gone\.png' does not exist.*Correct the path, or give another",
    ),
    (csv_path_that_leaves_the_root, r"Row 12: '\.\./secret\.png' leads out of.*Move the image there"),
    (empty_label, r"Row 12: the label is empty\. Fill it in, or remove the row"),
    (nan_weight, r"Row 12: the weight is nan\. Give a number of at least 0"),
    (
        contradictory_duplicates,
        r"labelled 'cat' and 'dog': cat/3\.png and dog/same\.png\. Keep it under its right",
    ),
    (k_larger_than_a_class, r"`data\.labels_per_class` to be at most 5, but got 7: class 'dog' has 6 images"),
    (
        a_group_so_large_that_a_split_becomes_empty,
        r"`data\.test_size` can carve.*largest group, 'clinic', holds 10 images\. Give smaller groups",
    ),
    (
        fractions_that_do_not_add_up,
        r"`data\.test_size` and `data\.val_size` to add up to less than 1.*0\.6 \+ 0\.5",
    ),
    (a_fold_index_out_of_range, r"`data\.fold` between 0 and 4 with `data\.folds=5`, but got 5"),
]


def prepare(config: DataConfig, place: Path) -> None:
    """Open and divide the images of a run, as `graft train` does before its first step."""
    images, _, _ = open_sound_images(config, place / "cache", lambda channels: RGB, place / "reports")
    divide_images(images, config, seed=0)


@pytest.mark.parametrize(("spoil", "words"), REFUSED, ids=[spoil.__name__ for spoil, _ in REFUSED])
def test_told_with_what_to_do(spoil: Spoil, words: str, tmp_path: Path) -> None:
    config = spoil(tmp_path / "mine")
    with pytest.raises(GraftError, match=f"(?s){words}"):
        prepare(config, tmp_path)


def test_an_image_of_one_pixel_is_small_and_no_error(tmp_path: Path) -> None:
    paint(flat(tmp_path / "mine") / "cat" / "dot.png", 0)
    Image.new("RGB", (1, 1), "red").save(tmp_path / "mine" / "cat" / "dot.png")
    config = folder(tmp_path / "mine")
    prepare(config, tmp_path)
    report = open_sound_images(config, tmp_path / "cache", lambda channels: RGB, tmp_path / "reports")[1]
    small = next(finding for finding in report.findings if finding.kind == "small_images")
    assert small.paths == ("cat/dot.png",)
    assert "Choose a smaller data.image_size, or find the originals." in small.advice
