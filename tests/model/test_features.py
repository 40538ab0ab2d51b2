"""Features of any stage equal the backbone run by hand, and a file of them is whole or absent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from graft.config.schema import TrainerConfig
from graft.data.preprocessing import Preprocessing
from graft.data.transforms import normalise
from graft.errors import GraftError
from graft.model.classifier import Classifier
from graft.model.feature_files import FeatureTable, open_beside, require_known_ending, write_features
from graft.model.features import Float32Array, choose_device, extract_features

PREPROCESSING = Preprocessing(
    channels=3,
    size=32,
    resize=None,
    interpolation="bilinear",
    antialias=True,
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.3, 0.4),
)
BATCH = 4


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (10, 3, 32, 32), dtype=np.uint8)


def extract(classifier: Classifier, pixels: np.ndarray, stage: int, precision: str = "32") -> np.ndarray:
    batches = extract_features(
        classifier.backbone,
        pixels,
        PREPROCESSING,
        stage=stage,
        batch_size=BATCH,
        device=torch.device("cpu"),
        precision=precision,
    )
    return np.concatenate(list(batches))


@pytest.mark.parametrize("name", ["small_cnn", "cnn2", "row_lstm", "resnet18", "mobilenet_v3_small"])
def test_every_stage_equals_the_backbone_by_hand(built, name: str, pixels: np.ndarray) -> None:
    classifier = built(name)
    classifier.train()
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    by_hand: list[list[torch.Tensor]] = [[] for _ in range(5)]
    whole = []
    for start in range(0, len(pixels), BATCH):
        x = normalise(torch.from_numpy(pixels[start : start + BATCH]), PREPROCESSING)
        classifier.eval()
        with torch.no_grad():
            whole.append(classifier.features(x))
            for index, stage in enumerate(classifier.backbone.stages):
                x = stage(x)
                by_hand[index].append(x)
    classifier.train()
    for number in range(1, 6):
        got = extract(classifier, pixels, number)
        assert got.dtype == np.float32
        assert np.array_equal(got, torch.cat(by_hand[number - 1]).numpy())
    assert np.array_equal(got, torch.cat(whole).numpy())
    assert not classifier.backbone.training
    classifier.train()
    assert all(torch.equal(value, before[key]) for key, value in classifier.state_dict().items())


def test_mixed_precision_is_near_and_comes_as_float32(built, pixels: np.ndarray) -> None:
    exact, mixed = (extract(built("small_cnn"), pixels, 5, precision) for precision in ("32", "bf16-mixed"))
    built("small_cnn").train()
    assert mixed.dtype == np.float32
    assert 0 < np.abs(exact - mixed).max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize(
    ("stage", "precision", "message"),
    [
        (0, "32", "`stage` between 1 and 5, but got 0"),
        (6, "32", "`stage` between 1 and 5, but got 6"),
        (5, "auto", "Expected `trainer.precision` to be one of: .*but got 'auto'"),
    ],
)
def test_what_cannot_be_extracted_is_refused(built, pixels, stage, precision, message) -> None:
    with pytest.raises(GraftError, match=message):
        extract(built("small_cnn"), pixels, stage, precision)


def test_one_process_on_a_device_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device(TrainerConfig(accelerator="cpu")) == torch.device("cpu")
    with pytest.raises(GraftError, match=r"Expected one device, but got `trainer\.devices=2`"):
        choose_device(TrainerConfig(devices=2))
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    assert choose_device(TrainerConfig()) == torch.device("cpu")
    with pytest.raises(GraftError, match="Expected a GPU"):
        choose_device(TrainerConfig(accelerator="gpu"))
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda")
    )
    assert choose_device(TrainerConfig()) == torch.device("cuda")


# Files

TABLE = FeatureTable(
    item_ids=tuple(f"a/{index}.png" for index in range(5)),
    labels=np.array([0, 1, 1, 0, 1]),
    class_names=("cat", "dog"),
    splits=("train", "val", "test", "unused", "train"),
    about={"backbone": "small_cnn", "stage": 2},
)
FEATURES = np.random.default_rng(0).normal(size=(5, 2, 3, 3)).astype(np.float32)


def write(path: Path) -> None:
    with open_beside(path) as file:
        write_features(file, path.suffix, TABLE, [FEATURES[:2], FEATURES[2:4], FEATURES[4:]])


def test_parquet_gives_back_everything(tmp_path: Path) -> None:
    path = tmp_path / "new" / "features.parquet"
    write(path)
    frame = pd.read_parquet(path)
    about = json.loads(pq.read_schema(path).metadata[b"graft"])
    assert np.array_equal(np.stack(frame["features"]).reshape(-1, *about["shape"]), FEATURES)
    assert tuple(frame["item_id"]) == TABLE.item_ids
    assert tuple(frame["label"]) == (0, 1, 1, 0, 1)
    assert tuple(frame["class_name"]) == ("cat", "dog", "dog", "cat", "dog")
    assert tuple(frame["split"]) == TABLE.splits
    assert about == {"backbone": "small_cnn", "stage": 2, "shape": [2, 3, 3], "class_names": ["cat", "dog"]}


def test_parquet_is_written_in_groups_that_fit_memory(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("graft.model.feature_files._GROUP_VALUES", 4 * 18)
    write(tmp_path / "features.parquet")
    read = pq.ParquetFile(tmp_path / "features.parquet")
    assert [read.metadata.row_group(index).num_rows for index in range(read.num_row_groups)] == [4, 1]
    assert read.read().column("item_id").to_pylist() == list(TABLE.item_ids)


def test_npz_gives_back_everything(tmp_path: Path) -> None:
    write(tmp_path / "features.npz")
    with np.load(tmp_path / "features.npz", allow_pickle=False) as read:
        assert np.array_equal(read["features"], FEATURES)
        assert tuple(read["item_ids"]) == TABLE.item_ids
        assert np.array_equal(read["labels"], TABLE.labels)
        assert tuple(read["class_names"]) == TABLE.class_names
        assert tuple(read["splits"]) == TABLE.splits
        assert json.loads(str(read["about"])) == TABLE.about


@pytest.mark.parametrize("ending", [".parquet", ".npz"])
def test_a_file_is_replaced_only_by_a_whole_one(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"features{ending}"
    path.write_text("before")

    def break_off() -> Iterator[Float32Array]:
        yield FEATURES[:2]
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"), open_beside(path) as file:
        write_features(file, ending, TABLE, break_off())
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    write(path)
    assert path.read_bytes()[:2] in (b"PA", b"PK")


def test_an_ending_that_nothing_writes_is_refused() -> None:
    with pytest.raises(GraftError, match=r"to be one of: .*\.npz.*but got '\.csv'.*features\.csv"):
        require_known_ending(Path("features.csv"))


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, reason in ((tmp_path, "it is a folder"), (tmp_path / "file" / "a.npz", "exists|directory")):
        with pytest.raises(GraftError, match=rf"Expected to write .*{reason}.*`out=<file>`"):
            write(path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    def run_full() -> Iterator[Float32Array]:
        yield FEATURES[:2]
        raise OSError(28, "No space left on device")

    with pytest.raises(GraftError, match="No space left"), open_beside(tmp_path / "a.npz") as file:
        write_features(file, ".npz", TABLE, run_full())
    assert list(tmp_path.iterdir()) == []
