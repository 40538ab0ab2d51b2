"""`graft extract`: its words, and that a file holds what a run would have computed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from graft.cli import main
from graft.errors import GraftError
from graft.extract import Extraction, read_extraction


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes in official splits, colour images of odd sizes."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, count in (("train", 5), ("test", 2)):
        for name in ("cat", "dog"):
            place = root / split / name
            place.mkdir(parents=True)
            for index in range(count):
                image = rng.integers(0, 256, (20 + index, 24, 3), dtype=np.uint8)
                Image.fromarray(image).save(place / f"{index}.png")
    return root


def test_stage_and_out_are_taken_out_of_the_words() -> None:
    asked, rest = read_extraction(["data=digits", "stage=3", "out=a.npz", "seed=1"])
    assert asked == Extraction(3, Path("a.npz"))
    assert rest == ["data=digits", "seed=1"]
    assert read_extraction([]) == (Extraction(5, None), [])


@pytest.mark.parametrize("stage", ["0", "6", "x", "", "1,2"])
def test_there_are_five_stages(stage: str) -> None:
    with pytest.raises(GraftError, match=f"`stage` between 1 and 5, but got '{stage}'"):
        read_extraction([f"stage={stage}"])


def test_one_extraction_at_a_time() -> None:
    with pytest.raises(GraftError, match="Expected one extraction, but got -m"):
        read_extraction(["-m", "seed=0,1"])


def test_a_file_holds_what_a_run_would_compute(folder: Path, tmp_path: Path, build_config, capsys) -> None:
    """By hand, from the configuration: the same weights, pixels and batches give the same bits."""
    from graft.data.pixels import prepare_pixels
    from graft.data.preprocessing import Preprocessing
    from graft.data.transforms import normalise
    from graft.inputs import open_run_images
    from graft.model.classifier import build_classifier
    from graft.run import gather_facts
    from graft.train.fit import seed_everything

    root = tmp_path / "runs"
    words = [
        "data=folder", f"data.root={folder}", "backbone=small_cnn", "transfer=random_features",
        "data.batch_size=4", "seed=7", "trainer=cpu", f"paths.root={root}",
    ]  # fmt: skip
    assert main(["extract", *words]) == 0
    out = root / "features" / "folder-small_cnn-stage5.parquet"
    said = capsys.readouterr().out
    assert str(out) in said
    assert "RGB, 32 px" in said
    assert main(["extract", *words, "stage=2", f"out={tmp_path / 'two.npz'}"]) == 0

    config = build_config(
        {
            "data.name": "folder", "data.root": str(folder), "paths.root": str(root),
            "transfer.method": "random_features", "transfer.freeze_depth": 5,
        }
    )  # fmt: skip
    images = open_run_images(config)
    preprocessing = Preprocessing.from_dict(gather_facts(config).preprocessing)
    pixels = prepare_pixels(images, preprocessing, root / "cache")
    seed_everything(7)
    classifier, _ = build_classifier(config, num_classes=2, channels=3, image_size=32, weights=None)
    classifier.eval()
    five, two = [], []
    for start in range(0, len(pixels), 4):
        x = normalise(torch.from_numpy(np.array(pixels[start : start + 4])), preprocessing)
        with torch.no_grad():
            five.append(classifier.features(x).numpy())
            two.append(classifier.backbone.stage(2)(classifier.backbone.stage(1)(x)).numpy())

    frame = pd.read_parquet(out)
    assert np.array_equal(np.stack(frame["features"]), np.concatenate(five))
    with np.load(tmp_path / "two.npz") as read:
        assert np.array_equal(read["features"], np.concatenate(two))
    assert list(frame["item_id"]) == list(images.item_ids)
    assert frame["item_id"].map(lambda path: (folder / path).is_file()).all()
    assert (frame["item_id"].str.split("/").str[1] == frame["class_name"]).all()
    assert (frame["split"].replace("val", "train") == frame["item_id"].str.split("/").str[0]).all()
    about = json.loads(pq.read_schema(out).metadata[b"graft"])
    assert about["preprocessing"] == preprocessing.to_dict()
    assert (about["backbone"], about["stage"], about["weights"]) == ("small_cnn", 5, "none")
    assert about["node"] == classifier.backbone.plan.boundaries[4]


def test_a_node_that_ends_a_stage_is_what_the_features_come_from(toy_root: Path, tmp_path, capsys) -> None:
    words = [
        "data=digits", "backbone=cnn2", "backbone.weights=toy", "transfer=fine_tune", "trainer=smoke",
        "trainer.accelerator=cpu", f"paths.root={toy_root}",
    ]  # fmt: skip
    node = "transfer.freeze_until=relu_1"
    out, natural = tmp_path / "node.npz", tmp_path / "natural.npz"
    assert main(["extract", *words, node, "stage=2", f"out={out}"]) == 0
    assert "after stage 2, node relu_1, of cnn2" in capsys.readouterr().out
    assert main(["extract", *words, "stage=2", f"out={natural}"]) == 0
    with np.load(out) as inside, np.load(natural) as after:
        about, usual = json.loads(str(inside["about"])), json.loads(str(after["about"]))
        assert (about["stage"], about["node"]) == (2, "relu_1")
        assert (usual["stage"], usual["node"]) == (2, "flatten")
        images, channels, size, _ = inside["features"].shape
        pooled = inside["features"].reshape(images, channels, size // 2, 2, size // 2, 2).max(axis=(3, 5))
        assert np.array_equal(pooled.reshape(images, -1), after["features"])

    assert main(["extract", *words, node, "stage=3"]) == 2
    said = capsys.readouterr().err
    assert "Expected `stage=2` beside `transfer.freeze_until=relu_1`" in said
    assert "but got `stage=3`" in said
    assert not list((toy_root / "features").glob("*relu_1*"))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("out=features.csv", "the ending of `out`"),
        ("transfer=linear_probe", "Expected pretrained weights"),
        ("head=mlp", "There is no knob `head`"),
        ("stage=9", "`stage` between 1 and 5"),
        ("stgae=3", "stgae"),
    ],
)
def test_mistakes_are_said_and_nothing_is_written(tmp_path: Path, capsys, word: str, message: str) -> None:
    words = ["backbone=small_cnn", f"paths.root={tmp_path / 'runs'}", word]
    if not word.startswith("transfer"):
        words.append("transfer=random_features")
    assert main(["extract", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs" / "features").exists()


def test_the_program_of_the_documentation_runs(tmp_path: Path, monkeypatch, capsys) -> None:
    """On digits through random weights: better than chance, which is all that is asked here."""
    page = (Path(__file__).parents[1] / "docs" / "features.md").read_text()
    (program,) = re.findall(r"^```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    words = ["data=digits", "backbone=small_cnn", "transfer=random_features", "trainer=cpu"]
    monkeypatch.chdir(tmp_path)
    assert main(["extract", *words, "out=features.parquet", "paths.root=runs"]) == 0
    capsys.readouterr()
    exec(compile(program, "docs/features.md", "exec"), {})
    said, index = capsys.readouterr().out.split(": ")
    assert said == "adjusted Rand index"
    assert 0.1 < float(index) < 1
