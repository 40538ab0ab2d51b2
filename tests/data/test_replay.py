"""An old split, replayed: the same images or an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graft.config.schema import DataConfig
from graft.data.catalog import open_images
from graft.data.divide import divide_images
from graft.data.replay import describe_split, replay_split
from graft.data.splits import hash_parts
from graft.errors import GraftError

LABELS = np.array([0, 1] * 10)


def write(path: Path, **changes: Any) -> Path:
    content: dict[str, Any] = {"train": [0, 1, 2], "val": [4, 5], "test": [7], "data": "d" * 64} | changes
    if "sha256" not in content:
        arrays = [np.array(content[part], dtype=np.int64) for part in ("train", "val", "test")]
        content["sha256"] = hash_parts(*arrays)
    path.write_text(json.dumps(content))
    return path


def test_a_split_comes_back_as_it_was(tmp_path: Path) -> None:
    config = DataConfig(name="digits", labels_per_class=5)
    images = open_images(config, tmp_path)
    made = divide_images(images, config, seed=3)
    path = tmp_path / "split.json"
    path.write_text(json.dumps(describe_split(made, images.digest)))
    again = divide_images(images, DataConfig(name="digits", split_file=str(path), split_seed=9), seed=8)
    assert again.digest == made.digest
    for part in ("train", "val", "test"):
        assert np.array_equal(getattr(again, part), getattr(made, part))


def test_another_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match=r"this data set \(eeeeeeeeeeee\), but .* another \(dddddddddddd\)"):
        replay_split(write(tmp_path / "split.json"), LABELS, "e" * 64)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sha256": "0" * 64}, ["sha256", "the file was changed"]),
        ({"train": [0, 1, 20]}, ["indices below 20"]),
        ({"train": [0, -1]}, ["indices below 20"]),
        ({"train": [0, 4]}, ["each in one part only"]),
        ({"val": []}, ["images to train and to validate"]),
        ({"train": [[0]], "sha256": ""}, ["does not", "split.json of a finished run"]),
        ({"train": [0.5], "sha256": ""}, ["train, val and test"]),
        ({"train": "all", "sha256": ""}, ["train, val and test"]),
    ],
)
def test_files_that_hold_no_such_split(changes: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    with pytest.raises(GraftError) as caught:
        replay_split(write(tmp_path / "split.json", **changes), LABELS, "d" * 64)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sha256": "x"}', "not json", "3"])
def test_files_that_are_no_split(content: str, tmp_path: Path) -> None:
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(GraftError, match=r"`data.split_file` to hold sha256, data, train, val and test"):
        replay_split(tmp_path / "split.json", LABELS, "d" * 64)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match=r"`data.split_file` .*No such file.*artifact"):
        replay_split(tmp_path / "gone.json", LABELS, "d" * 64)
