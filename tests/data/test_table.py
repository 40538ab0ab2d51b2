"""The table source: what it gives, and every row that it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from graft.config.schema import DataConfig
from graft.data.catalog import open_images
from graft.data.divide import divide_images
from graft.data.image_set import TEST, TRAIN, VAL, ImageSet
from graft.errors import GraftError


def save(path: Path, seed: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def make_rows(root: Path, count: int = 6, **columns: list[Any]) -> dict[str, list[Any]]:
    for number in range(count):
        save(root / f"{number}.png", number)
    rows = {
        "path": [f"{n}.png" for n in range(count)],
        "label": [("cat", "dog")[n % 2] for n in range(count)],
    }
    return rows | columns


def write(path: Path, rows: dict[str, list[Any]]) -> Path:
    frame = pd.DataFrame(rows)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    return path


def open_rows(place: Path, rows: dict[str, list[Any]], name: str = "table.csv", **options: Any) -> ImageSet:
    table = write(place / name, rows)
    return open_images(DataConfig(name="table", table=str(table), **options), place / "cache")


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
def test_every_column(tmp_path: Path, name: str) -> None:
    rows = make_rows(
        tmp_path,
        split=["train", "train", "valid", "VAL", "test", "test"],
        group=["a", "b", "c", "c", "", "e"],
        weight=[1, 2.5, 1, 0, 1, 1],
        remark=["not read"] * 6,
    )
    images = open_rows(tmp_path, rows, name)
    assert images.class_names == ("cat", "dog")
    assert images.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert images.official is not None
    assert images.official.tolist() == [TRAIN, TRAIN, VAL, VAL, TEST, TEST]
    assert images.groups is not None
    assert images.groups.tolist()[:4] == ["a", "b", "c", "c"]
    assert len(set(images.groups.tolist())) == 5
    assert images.weights is not None
    assert images.weights.tolist() == [1, 2.5, 1, 0, 1, 1]
    assert images.item_ids == tuple(rows["path"])
    assert np.array_equal(images.read(3), np.asarray(Image.open(tmp_path / "3.png")))


def test_two_columns_are_enough(tmp_path: Path) -> None:
    images = open_rows(tmp_path, make_rows(tmp_path))
    assert (images.official, images.groups, images.weights, images.channels) == (None, None, None, 3)
    # A column that is empty everywhere says nothing.
    empty = open_rows(tmp_path, make_rows(tmp_path, split=[""] * 6, group=[""] * 6, weight=[""] * 6))
    assert empty.digest == images.digest


def test_labels_may_be_numbers(tmp_path: Path) -> None:
    rows = make_rows(tmp_path) | {"label": [3, 7, 3, 7, 3, 7]}
    assert open_rows(tmp_path, rows, "t.parquet").class_names == ("3", "7")
    assert open_rows(tmp_path, rows).class_names == ("3", "7")


def test_gray_images_have_one_channel(tmp_path: Path) -> None:
    rows = make_rows(tmp_path)
    for number in range(6):
        save(tmp_path / f"{number}.png", number, mode="L")
    assert open_rows(tmp_path, rows).channels == 1


def test_the_digest_is_of_content_and_not_of_order_or_place(tmp_path: Path) -> None:
    rows = make_rows(tmp_path / "here", group=list("aabbcc"))
    digest = open_rows(tmp_path / "here", rows).digest
    turned = {name: column[::-1] for name, column in rows.items()}
    make_rows(tmp_path / "there")
    assert open_rows(tmp_path / "there", turned).digest == digest
    for name, column in (("group", list("aabbcd")), ("weight", [2] * 6), ("label", list("xyxyxy"))):
        assert open_rows(tmp_path / "here", rows | {name: column}).digest != digest
    save(tmp_path / "here" / "3.png", seed=99)
    assert open_rows(tmp_path / "here", rows).digest != digest


def test_the_root_may_be_elsewhere_and_paths_absolute_inside_it(tmp_path: Path) -> None:
    rows = make_rows(tmp_path / "images")
    images = open_rows(tmp_path, rows, root=str(tmp_path / "images"))
    rows["path"] = [str(tmp_path / "images" / "." / name) for name in rows["path"]]
    assert open_rows(tmp_path, rows, root=str(tmp_path / "images")).digest == images.digest


def test_groups_are_not_divided(tmp_path: Path) -> None:
    images = open_rows(tmp_path, make_rows(tmp_path, 24, group=[n // 2 for n in range(24)]))
    split = divide_images(images, DataConfig(name="table"), seed=0)
    assert images.groups is not None
    parts = [set(images.groups[part]) for part in (split.train, split.val, split.test)]
    assert all(parts)
    assert sum(map(len, parts)) == len(set.union(*parts)) == 12


FAULTS: dict[str, tuple[dict[str, list[Any]], list[str]]] = {
    "no path": ({"path": ["1.png", "", "0.png"]}, ["'path'", "row 2", "the path is empty"]),
    "missing": ({"path": ["0.png", "1.png", "no.png"]}, ["row 3", "'no.png' does not exist", "`data.root`"]),
    "folder": ({"path": ["0.png", "1.png", "cache"]}, ["row 3", "'cache' is a folder"]),
    "leaves": ({"path": ["0.png", "1.png", "a/../../x.png"]}, ["row 3", "leads out of", "`data.root`"]),
    "absolute": ({"path": ["0.png", "1.png", "/etc/hosts"]}, ["row 3", "'/etc/hosts' leads out of"]),
    "link": (
        {"path": ["0.png", "1.png", "out.png"]},
        ["row 3", "is a link that leads out of", "Copy"],
    ),
    "linked folder": ({"path": ["0.png", "1.png", "away/5.png"]}, ["row 3", "a link that leads out of"]),
    "label": ({"label": ["cat", " ", ""]}, ["'label'", "row 2", "the label is empty", "in 1 other rows"]),
    "weight": ({"weight": [1, "nan", 1]}, ["'weight'", "row 2", "the weight is nan", "Give 1"]),
    "negative": ({"weight": [1, 1, -1]}, ["at least 0", "row 3", "the weight is -1"]),
    "infinite": ({"weight": ["inf", 1, 1]}, ["row 1", "the weight is inf"]),
    "no number": ({"weight": [1, "much", 1]}, ["row 2", "the weight is much"]),
    "hole": ({"weight": [1, None, 1]}, ["row 2", "the weight is empty"]),
    "zeros": ({"weight": [0, 0, 0]}, ["weight above 0 among the training images"]),
    "split": (
        {"split": ["train", "trian", "train"]},
        ["'split'", "row 2", "'trian'", "train, val, valid"],
    ),
    "no split": ({"split": ["train", "", "train"]}, ["row 2", "it is ''"]),
    "no train": ({"split": ["val", "test", "test"]}, ["never says train"]),
    "twice": ({"path": ["0.png", "1.png", "0.png"]}, ["rows 1 and 3 both list '0.png'. Remove"]),
    "contradiction": (
        {"path": ["0.png", "0.png", "1.png"]},
        ["rows 1 and 2 both list '0.png', once as 'cat' and once as 'dog'"],
    ),
    "one class": ({"label": ["cat", "cat", "cat"]}, ["at least 2 classes", "'cat'"]),
    "only in val": (
        {"label": ["cat", "dog", "dogs"], "split": ["train", "train", "val"]},
        ["label", "dog, cat", "'dogs'", "training rows"],
    ),
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_rows_that_cannot_be_used(fault: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    changes, words = FAULTS[fault]
    rows = make_rows(root, 3) | changes
    (root / "cache").mkdir()
    save(tmp_path / "away" / "5.png", 5)
    (root / "out.png").symlink_to(tmp_path / "away" / "5.png")
    (root / "away").symlink_to(tmp_path / "away")
    with pytest.raises(GraftError) as caught:
        open_rows(root, rows)
    for word in words:
        assert word in str(caught.value)


def test_missing_columns(tmp_path: Path) -> None:
    rows = make_rows(tmp_path)
    with pytest.raises(GraftError, match=r"it lacks label\. It has: 'path', 'Label'"):
        open_rows(tmp_path, {"path": rows["path"], "Label": rows["label"]})
    with pytest.raises(GraftError, match=r"it lacks path and label"):
        open_rows(tmp_path, {"file": rows["path"]})
    with pytest.raises(GraftError, match="it has no row"):
        open_rows(tmp_path, {"path": [], "label": []})


def test_tables_that_cannot_be_read(tmp_path: Path) -> None:
    def refuse(name: str, content: bytes | None) -> str:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(GraftError) as caught:
            open_images(DataConfig(name="table", table=str(tmp_path / name)), tmp_path / "cache")
        return str(caught.value)

    assert "No such file" in refuse("gone.csv", None)
    assert "empty" in refuse("empty.csv", b"")
    assert "readable table" in refuse("broken.parquet", b"PAR1 and nothing more")
    assert "readable table" in refuse("bytes.csv", b"path,label\n\xff\xfe,cat\n")
    assert "readable table" in refuse("ragged.csv", b"path,label\na.png,cat\nb.png,dog,1,2\n")
    assert "one of: .csv, .parquet" in refuse("table.cvs", b"")
    with pytest.raises(GraftError, match=r"`data.table`.*say data=table data\.table="):
        open_images(DataConfig(name="table"), tmp_path)


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    make_rows(tmp_path)
    (tmp_path / "t.csv").write_text("\ufeffpath,label\n0.png,cat\n1.png,dog\n", encoding="utf-8")
    assert len(open_images(DataConfig(name="table", table=str(tmp_path / "t.csv")), tmp_path / "c")) == 2
