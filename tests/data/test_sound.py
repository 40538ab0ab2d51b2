from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graft.config.schema import DataConfig
from graft.data.catalog import open_images
from graft.data.preprocessing import Preprocessing
from graft.data.sound import open_sound_images
from graft.errors import GraftError

RGB = Preprocessing(3, 32, None, "bilinear", True, (0.5,) * 3, (0.3,) * 3)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a cut image and a leak."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("b", "a"):
            (tmp_path / "mine" / split / name).mkdir(parents=True)
            for number in range(6):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "mine" / split / name / f"{number}.png")
    (tmp_path / "mine/train/a/0.png").write_bytes((tmp_path / "mine/train/a/0.png").read_bytes()[:200])
    shutil.copy(tmp_path / "mine/test/b/1.png", tmp_path / "mine/train/b/copy.png")
    return tmp_path / "mine"


def table_of(root: Path) -> Path:
    paths = sorted(root.rglob("*.png"))
    lines = [f"{path.relative_to(root)},{path.parent.name},{path.parent.parent.name}" for path in paths]
    table = root.parent / "table.csv"
    table.write_text("\n".join(["path,label,split", *lines]))
    return table


def test_errors_stop(root: Path, tmp_path: Path) -> None:
    config = DataConfig(name="folder", root=str(root))
    with pytest.raises(GraftError, match=r"(?s)found 2:.*train/a/0\.png.*in train and test.*on_error=skip"):
        open_sound_images(config, tmp_path / "cache", lambda channels: RGB, tmp_path / "reports")


def test_a_folder_without_its_bad_images_is_the_folder_after_they_were_deleted(
    root: Path, tmp_path: Path
) -> None:
    config = DataConfig(name="folder", root=str(root), on_error="skip")
    images, report, left_out = open_sound_images(
        config, tmp_path / "cache", lambda channels: RGB, tmp_path / "reports"
    )
    assert left_out == ("train/a/0.png", "train/b/copy.png")
    assert report.has_errors
    assert not (tmp_path / "reports").exists()
    for name in left_out:
        (root / name).unlink()
    cleaned = open_images(config, tmp_path / "cache")
    assert (images.digest, images.item_ids) == (cleaned.digest, cleaned.item_ids)
    assert images.class_names == cleaned.class_names == ("a", "b")
    assert np.array_equal(images.labels, cleaned.labels)
    assert images.official is not None
    assert np.array_equal(images.official, cleaned.official)
    assert all(np.array_equal(images.read(index), cleaned.read(index)) for index in range(len(cleaned)))
    again, report, left_out = open_sound_images(
        replace(config, on_error="stop"), tmp_path / "cache", lambda channels: RGB, tmp_path / "reports"
    )
    assert (again.digest, report.findings, left_out) == (cleaned.digest, (), ())


def test_a_table_without_its_bad_images(root: Path, tmp_path: Path) -> None:
    config = DataConfig(name="table", table=str(table_of(root)), root=str(root), on_error="quarantine-list")
    images, report, left_out = open_sound_images(
        config, tmp_path / "cache", lambda channels: RGB, tmp_path / "reports"
    )
    assert left_out == ("train/a/0.png", "train/b/copy.png")
    assert (tmp_path / "reports/check-table/quarantine.txt").read_text().splitlines() == list(left_out)
    whole = open_images(config, tmp_path / "cache")
    assert set(images.item_ids) == set(whole.item_ids) - set(left_out)
    assert images.digest != whole.digest
    for index, name in enumerate(images.item_ids):
        before = whole.item_ids.index(name)
        assert images.labels[index] == whole.labels[before]
        assert np.array_equal(images.read(index), whole.read(before))
    assert {finding.kind for finding in report.findings} == {"unreadable_image", "leak"}


def test_folders_inside_a_class_count_whatever_they_are_called(tmp_path: Path) -> None:
    """The check reads what a run trains on; beside the classes an archive's own folder is none."""
    rng = np.random.default_rng(1)
    for name in ("a", "b", "b/__resized"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "mine" / name / f"{number}.png")
    (tmp_path / "mine" / "__MACOSX").mkdir()
    config = DataConfig(name="folder", root=str(tmp_path / "mine"))
    images, report, _ = open_sound_images(config, tmp_path / "cache", lambda channels: RGB, tmp_path)
    assert len(images) == len(report.items) == 12
    assert images.class_names == ("a", "b")
    assert images.likenesses is not None
