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
from graft.data.check import CheckReport, check_source
from graft.data.divide import divide_images
from graft.data.image_set import TEST, TRAIN, VAL, ImageSet
from graft.data.preprocessing import Preprocessing
from graft.data.sound import describe_findings, open_sound_images
from graft.errors import GraftError

RGB = Preprocessing(3, 8, None, "bilinear", True, (0.5,) * 3, (0.3,) * 3)


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


FAULTS: dict[str, tuple[dict[str, list[Any]], str, list[str]]] = {
    "no path": ({"path": ["1.png", "", "0.png"]}, "bad_row", ["Row 3: the path is empty. Fill it in"]),
    "missing": (
        {"path": ["0.png", "1.png", "no.png"]},
        "bad_row",
        ["Row 4: 'no.png' does not exist under", "Correct the path, or give another `data.root`"],
    ),
    "folder": ({"path": ["0.png", "1.png", "cache"]}, "bad_row", ["Row 4: 'cache' is a folder"]),
    "leaves": (
        {"path": ["0.png", "1.png", "a/../../x.png"]},
        "bad_row",
        ["Row 4", "leads out of", "Move the image there, or give another `data.root`"],
    ),
    "absolute": ({"path": ["0.png", "1.png", "/etc/hosts"]}, "bad_row", ["Row 4: '/etc/hosts' leads out of"]),
    "link": (
        {"path": ["0.png", "1.png", "out.png"]},
        "bad_row",
        ["Row 4", "is a link that leads out of", "Copy the image"],
    ),
    "linked folder": (
        {"path": ["0.png", "1.png", "away/5.png"]},
        "bad_row",
        ["Row 4", "a link that leads out of"],
    ),
    "label": (
        {"label": ["cat", " ", ""]},
        "bad_row",
        ["Row 3: the label is empty. Fill it in, or remove the row.", "Row 4: the label is empty"],
    ),
    "weight": ({"weight": [1, "nan", 1]}, "bad_row", ["Row 3: the weight is nan. Give a number"]),
    "negative": ({"weight": [1, 1, -1]}, "bad_row", ["Row 4: the weight is -1", "at least 0"]),
    "infinite": ({"weight": ["inf", 1, 1]}, "bad_row", ["Row 2: the weight is inf"]),
    "no number": ({"weight": [1, "much", 1]}, "bad_row", ["Row 3: the weight is much"]),
    "hole": ({"weight": [1, None, 1]}, "bad_row", ["Row 3: the weight is empty"]),
    "zeros": ({"weight": [0, 0, 0]}, "zero_weights", ["weight of every training image is 0", "above 0"]),
    "split": (
        {"split": ["train", "trian", "train"]},
        "bad_row",
        ["Row 3: the split is 'trian'. Known are train, val, validation, valid, test"],
    ),
    "no split": ({"split": ["train", "", "train"]}, "bad_row", ["Row 3: the split is empty. Known are"]),
    "no train": ({"split": ["val", "test", "test"]}, "no_training", ["never says train", "Write train"]),
    "several": (
        {"path": ["0.png", "no.png", "2.png"], "label": ["cat", "", "dog"], "weight": [1, 1, "x"]},
        "bad_row",
        ["Row 3: 'no.png' does not exist", "the label is empty", "Row 4: the weight is x"],
    ),
    "twice": (
        {"path": ["0.png", "1.png", "0.png"], "label": ["cat", "dog", "cat"]},
        "repeated_row",
        ["Rows 2 and 4 list the image '0.png'. Keep one row"],
    ),
    "contradiction": (
        {"path": ["0.png", "0.png", "1.png"]},
        "repeated_row",
        ["Rows 2 and 3 list the image '0.png', as 'cat' and 'dog'."],
    ),
    "two splits": (
        {"path": ["0.png", "0.png", "1.png"], "label": ["cat"] * 3, "split": ["train", "test", "train"]},
        "repeated_row",
        ["Rows 2 and 3 list the image '0.png', in train and test."],
    ),
    "group": (
        {"split": ["train", "train", "test"], "group": ["p7", "p8", "p7"]},
        "divided_group",
        ["Group 'p7' is in 2 splits: 0.png (train) and 2.png (test).", "leave the splits out"],
    ),
    "one class": ({"label": ["cat", "cat", "cat"]}, "one_class", ["one class only: 'cat'", "second class"]),
    "only in val": (
        {"label": ["cat", "dog", "dogs"], "split": ["train", "train", "val"]},
        "class_only_in_evaluation",
        ["Class 'dogs' has 1 image in val and none in train", "Add training images"],
    ),
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_rows_that_cannot_be_used(fault: str, tmp_path: Path) -> None:
    """The check tells of each fault what it is, where, and what to do; and nothing opens the table."""
    root = tmp_path / "root"
    changes, kind, words = FAULTS[fault]
    rows = make_rows(root, 3) | changes
    (root / "cache").mkdir()
    save(tmp_path / "away" / "5.png", 5)
    (root / "out.png").symlink_to(tmp_path / "away" / "5.png")
    (root / "away").symlink_to(tmp_path / "away")
    report = check_rows(root, rows)
    found = [finding for finding in report.findings if finding.kind == kind]
    told = " ".join(f"{finding.message} {finding.advice}" for finding in found)
    for word in words:
        assert word in told
    assert {finding.severity for finding in found} == {"error"}
    with pytest.raises(GraftError):
        open_rows(root, rows)


def check_rows(place: Path, rows: dict[str, list[Any]], **options: Any) -> CheckReport:
    config = DataConfig(name="table", table=str(write(place / "table.csv", rows)), **options)
    return check_source(config, place / "cache", lambda channels: RGB)


def test_all_faults_of_a_table_at_once_with_the_rows_of_a_spreadsheet(tmp_path: Path) -> None:
    rows = make_rows(tmp_path, 30)
    rows["path"][3:15] = [f"gone{number}.png" for number in range(12)]
    rows["label"][20] = ""
    with pytest.raises(GraftError) as caught:
        open_rows(tmp_path, rows)
    assert "no faults, but found 13:" in str(caught.value)
    assert "Row 5: 'gone0.png' does not exist" in str(caught.value)
    assert "... and 3 more" in str(caught.value)
    found = [finding for finding in check_rows(tmp_path, rows).findings if finding.kind == "bad_row"]
    rows_told = [int(finding.message.split(":")[0].removeprefix("Row ")) for finding in found]
    assert rows_told == [*range(5, 17), 22]


def test_blank_lines_keep_the_numbers_of_rows(tmp_path: Path) -> None:
    make_rows(tmp_path)
    lines = ["path,label,remark", "0.png,cat,", "", ",,", "1.png,dog,", "no.png,dog,", ",,alone", ""]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    report = check_source(
        DataConfig(name="table", table=str(tmp_path / "t.csv")), tmp_path / "cache", lambda channels: RGB
    )
    messages = [finding.message for finding in report.findings if finding.kind == "bad_row"]
    assert [message.split(":")[0] for message in messages] == ["Row 6", "Row 7"]
    assert [item.name for item in report.items] == ["0.png", "1.png"]


def test_a_class_whose_rows_are_all_bad_does_not_vanish(tmp_path: Path) -> None:
    rows = make_rows(tmp_path) | {"label": ["cat", "dog", "cat", "dog", "cat", "lynx"]}
    rows["path"][5] = "gone.png"
    report = check_rows(tmp_path, rows)
    assert [finding.message for finding in report.findings if finding.kind == "empty_class"] == [
        "Class 'lynx' has no sound image."
    ]


def test_rows_are_left_out_by_name_when_asked(tmp_path: Path) -> None:
    rows = make_rows(tmp_path, 12, split=["train"] * 8 + ["test"] * 4, group=list("abcdefghiajk"))
    rows["path"][2], rows["label"][3] = "gone.png", ""
    (tmp_path / "4.png").write_text("no image")
    rows = {name: [*column, column[5]] for name, column in rows.items()}  # row 14 says what row 7 says
    config = DataConfig(name="table", table=str(write(tmp_path / "table.csv", rows)), on_error="skip")
    images, report, left_out = open_sound_images(
        config, tmp_path / "cache", lambda channels: RGB, tmp_path / "reports"
    )
    assert report.has_errors
    assert left_out == ("0.png", "4.png", "row 14 (5.png)", "row 4 (gone.png)", "row 5 (3.png)")
    assert sorted(images.item_ids) == sorted(["1.png", *(f"{n}.png" for n in range(5, 12))])
    assert describe_findings(report, left_out)[-1].endswith("allows: 5 images: " + ", ".join(left_out))
    kept = [index for index in range(12) if index not in (0, 2, 3, 4)]
    clean = {name: [column[index] for index in kept] for name, column in rows.items()}
    assert open_rows(tmp_path, clean).digest == images.digest


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
