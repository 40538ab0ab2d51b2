"""`graft predict`: the model of a real run says of its test images what the run said of them."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from graft.cli import main
from graft.compare.where import parse_where
from graft.config.schema import Config
from graft.deliver.champion import choose_run, find_champion
from graft.deliver.kept import load_kept
from graft.deliver.predict import Prediction, read_prediction
from graft.deliver.scorer import Scorer
from graft.errors import GraftError
from graft.inputs import open_view
from graft.plan.spec import RunSpec, specify
from graft.run import execute, gather_facts
from graft.track.archive import Archive
from graft.track.reader import finished_runs, read_experiment
from graft.track.results import checkpoint_folder
from graft.track.store import open_store


@dataclass(frozen=True)
class World:
    """Finished runs, and the test images of one of them as files."""

    root: Path
    specs: dict[str, RunSpec]
    images: Path

    def run_id(self, name: str) -> str:
        return finished_runs(open_store(None, self.root))[self.specs[name].key]

    def copy(self, place: Path) -> World:
        """Return the same with its own weights, to be damaged."""
        for part in ("checkpoints", "weights"):
            shutil.copytree(self.root / part, place / part)
        return replace(self, root=place)


@pytest.fixture(scope="module")
def world(toy_root: Path, build_config: Callable[..., Config], tmp_path_factory) -> World:
    """An experiment of two arms with two seeds, and runs outside of it that keep their weights otherwise."""
    usual = {
        "paths.root": str(toy_root), "backbone.name": "cnn2", "data.labels_per_class": 4,
        "data.test_size": 100.0, "data.batch_size": 16, "optim.lr": 0.01, "trainer.epochs": 2,
        "trainer.accelerator": "cpu", "tracking.experiment": "mine",
    }  # fmt: skip
    tuned = {"transfer.method": "fine_tune", "transfer.freeze_depth": 2, "backbone.weights": "toy"}
    other = {"tracking.experiment": "other"}
    changes = {
        "scratch 0": {"seed": 0}, "scratch 1": {"seed": 1},
        "tuned 0": {"seed": 0, **tuned}, "tuned 1": {"seed": 1, **tuned},
        "whole": {**tuned, "transfer.freeze_depth": 0, "head.init": "zero", **other},
        "random": {"transfer.method": "random_features", "transfer.freeze_depth": 3, **other},
        "ridge": {
            "transfer.method": "linear_probe", "transfer.freeze_depth": 5, "backbone.weights": "toy",
            "head.name": "ridge", **other,
        },
        "rounded": {**tuned, "reuse.dtype": "bfloat16", **other},
        "mixed": {**tuned, "trainer.precision": "bf16-mixed", **other},
        "weightless": {"seed": 5, "checkpoint.keep": "none", "tracking.experiment": "bare"},
    }  # fmt: skip
    specs = {}
    for name, change in changes.items():
        config = build_config(usual | change)
        specs[name] = specify(config, gather_facts(config))
        execute(specs[name])
    view = open_view(specs["scratch 0"])
    folder = tmp_path_factory.mktemp("images")
    for index in view.split.test.tolist():
        image = view.images.read(index)[:, :, 0]
        Image.fromarray(image).save(folder / f"{index:04}.png")
    return World(toy_root, specs, folder)


def read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    return header, rows


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", ["scratch 0", "tuned 1", "whole", "random", "ridge", "rounded", "mixed"])
def test_predictions_are_those_that_the_run_recorded(world: World, name: str, tmp_path: Path, capsys) -> None:
    out = tmp_path / "said.csv"
    words = [world.run_id(name), str(world.images), f"--out={out}", f"paths.root={world.root}"]
    assert main(["predict", *words]) == 0
    assert f"Predictions for 100 images are written: {out}" in capsys.readouterr().out
    header, rows = read_table(out)
    assert header == ["path", "label", *(f"probability_{digit}" for digit in range(10))]
    recorded = Archive(open_store(None, world.root)).test_scores(world.run_id(name))
    assert recorded is not None
    assert [int(Path(row[0]).stem) for row in rows] == recorded.index.tolist()
    said = np.array([[float(value) for value in row[2:]] for row in rows])
    np.testing.assert_allclose(said, softmax(recorded.scores), atol=2e-3 if name == "mixed" else 1e-6)
    agreeing = [int(row[1]) for row in rows] == recorded.scores.argmax(axis=1)
    assert np.mean(agreeing) >= (0.98 if name == "mixed" else 1)


def test_an_experiment_names_its_champion(world: World, tmp_path: Path, capsys) -> None:
    """The best arm by its mean over seeds, then its best seed: worked out here from the record."""
    by_arm: dict[str, list] = {}
    for record in read_experiment(open_store(None, world.root), "mine"):
        by_arm.setdefault(record.arm.text, []).append(record)
    best = max(by_arm.values(), key=lambda runs: np.mean([run.metrics["val/accuracy"] for run in runs]))
    expected = max(best, key=lambda run: (run.metrics["val/accuracy"], -run.seed))
    out = tmp_path / "said.csv"
    some = [str(path) for path in sorted(world.images.iterdir())[:3]]
    assert main(["predict", "mine", *some, "--out", str(out), f"paths.root={world.root}"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"the champion of mine, {expected.run_id}" in said
    assert f", on digits (condition {expected.condition[:6]}) (val/accuracy" in said
    assert [row[0] for row in read_table(out)[1]] == some


def test_an_experiment_of_several_conditions_asks_which_one(world: World, tmp_path: Path, capsys) -> None:
    """One run of it has computed in another precision: validation is not compared between them."""
    out = tmp_path / "said.csv"
    words = ["predict", "other", str(world.images), f"--out={out}", f"paths.root={world.root}"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "Expected runs of one condition in 'other', but they have 2 " in said
    conditions = {world.specs[name].condition for name in ("whole", "mixed")}
    for condition in conditions:
        assert f"  digits (condition {condition[:6]}), " in said
        assert f"--where condition={condition}" in said
    assert not out.exists()
    assert main([*words, "--where", f"condition={world.specs['mixed'].condition}"]) == 0
    assert f"the champion of other, {world.run_id('mixed')}: " in capsys.readouterr().err
    alone = world.run_id("whole")
    assert main(["predict", alone, *words[2:], "--where=seed=0"]) == 2
    assert f"Expected an experiment with `--where`, but {alone!r} is one run." in capsys.readouterr().err


def test_data_sets_are_asked_for_by_name(world: World) -> None:
    records = read_experiment(open_store(None, world.root), "mine")
    others = [
        replace(record, run_id=f"{record.run_id}{data}", condition=condition, data=data)
        for record in records
        for condition, data in (("beef" * 5, "letters"), ("c0de" * 5, "two words"))
    ]
    with pytest.raises(GraftError) as raised:
        find_champion([*records, *others], "mine", world.root)
    lines = str(raised.value).splitlines()
    assert len(lines) == 5
    for line in (
        f"  digits (condition {records[0].condition[:6]}), 4 chosen runs: --where data=digits",
        "  letters (condition beefbe), 4 chosen runs: --where data=letters",
        f"  two words (condition c0dec0), 4 chosen runs: --where condition={'c0de' * 5}",
    ):
        assert line in lines


def test_a_seed_that_has_weights_stands_in_for_one_that_has_none(world: World, tmp_path: Path) -> None:
    """A sweep that was extended chose another trial than the comparison before, which deleted its weights."""
    alone = world.copy(tmp_path / "moved")
    store = open_store(None, world.root)
    best, said = choose_run(store, alone.root, "mine")
    assert "weights" not in said
    shutil.rmtree(checkpoint_folder(alone.root, best))
    key, said = choose_run(store, alone.root, "mine")
    by_key = {spec.key: spec for spec in world.specs.values()}
    assert (by_key[key].arm, by_key[key].seed) == (by_key[best].arm, 1 - by_key[best].seed)
    assert f"; seed {by_key[best].seed} is better on validation, but its weights are not there)" in said
    shutil.rmtree(checkpoint_folder(alone.root, key))
    with pytest.raises(GraftError, match="Expected the weights of the champion of mine, "):
        choose_run(store, alone.root, "mine")


def test_a_run_key_is_enough_where_there_is_no_record(world: World, tmp_path: Path) -> None:
    alone = world.copy(tmp_path / "moved")
    out, key = tmp_path / "said.csv", world.specs["tuned 0"].key
    assert main(["predict", key, str(world.images), f"--out={out}", f"paths.root={alone.root}"]) == 0
    assert len(read_table(out)[1]) == 100
    assert not (alone.root / "mlflow.db").exists()


@pytest.fixture
def spoiled(world: World, tmp_path: Path) -> Path:
    """Three good images and two bad files, one of them a truncated image."""
    folder = tmp_path / "new" / "deeper"
    folder.mkdir(parents=True)
    for path in sorted(world.images.iterdir())[:3]:
        shutil.copy(path, folder)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)).save(folder / "cut.jpg")
    whole = (folder / "cut.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "words.png").write_text("no image")
    (folder / "notes.txt").write_text("passed over")
    return folder.parent


def test_bad_files_are_all_listed_and_nothing_is_written(world: World, spoiled: Path, tmp_path: Path, capsys):
    out = tmp_path / "said.csv"
    words = ["predict", world.specs["whole"].key, str(spoiled), f"--out={out}", f"paths.root={world.root}"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "Expected 5 files that are whole images, but 2 are not, and nothing was written:" in said
    assert f"{spoiled}/deeper/cut.jpg to be a whole image, but it cannot be decoded" in said
    assert f"{spoiled}/deeper/words.png to be an image, but it is not one" in said
    assert "--skip-bad" in said
    assert not out.exists()
    assert main([*words, "--skip-bad"]) == 0
    told = capsys.readouterr()
    assert "Predictions for 3 images" in told.out
    assert "2 of 5 files are skipped:" in told.err
    assert len(read_table(out)[1]) == 3
    only_bad = ["predict", words[1], str(spoiled / "deeper" / "words.png"), "--skip-bad", *words[3:]]
    assert main(only_bad) == 2
    assert "none of 1 files can be read" in capsys.readouterr().err
    assert len(read_table(out)[1]) == 3  # what was there before stays


def test_words_are_read() -> None:
    asked, places = read_prediction(["mine", "a.png", "b=1.png", "--skip-bad", "--out=x.csv", "paths.root=r"])
    assert asked == Prediction("mine", (Path("a.png"), Path("b=1.png")), Path("x.csv"), True)
    assert places == ["paths.root=r"]
    asked, _ = read_prediction(["mine", "a.png", "--where", "data=letters and labels<=5"])
    assert asked.where == parse_where("data=letters and labels<=5")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "but got nothing: graft predict"),
        (["mine"], "but got only 'mine'"),
        (["mine", "x", "--skip"], "Did you mean '--skip-bad'"),
        (["mine", "x", "--out"], "Expected a file after `--out`"),
        (["mine", "x", "--where"], "Expected conditions after `--where`, such as: --where data=digits"),
    ],
)
def test_words_that_are_missing_are_said(words: list[str], message: str) -> None:
    with pytest.raises(GraftError, match=message):
        read_prediction(words)


@pytest.mark.parametrize(
    ("reference", "place", "message"),
    [
        ("mien", "", "but got 'mien'. Did you mean 'mine'?"),
        ("bare", "", "`checkpoint.keep=all` under another `paths.root`"),
        ("mine", "nothing.png", "these do not exist: "),
        ("mine", "empty", "Expected images in "),
    ],
)
def test_mistakes_are_said(world: World, reference: str, place: str, message: str, tmp_path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    given = tmp_path / place if place else world.images
    out = tmp_path / "said.csv"
    assert main(["predict", reference, str(given), f"--out={out}", f"paths.root={world.root}"]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_runs_that_are_nowhere(world: World, tmp_path: Path, capsys) -> None:
    assert main(["predict", "mine", str(world.images), f"paths.root={tmp_path / 'none'}"]) == 2
    assert "there is no such folder. Start with: graft train" in capsys.readouterr().err


def spoil_weights(folder: Path, root: Path) -> None:
    with (folder / "weights.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\x00\x01\x02\x03")


def spoil_names(folder: Path, root: Path) -> None:
    import hashlib

    state = load_file(folder / "weights.safetensors")
    save_file({**state, "more": torch.zeros(1)}, folder / "weights.safetensors")
    sidecar = json.loads((folder / "run.json").read_text())
    sidecar["sha256"] = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    (folder / "run.json").write_text(json.dumps(sidecar))


def spoil_sidecar(folder: Path, root: Path) -> None:
    (folder / "run.json").write_text('{"arm": "x"}')


def cut_sidecar(folder: Path, root: Path) -> None:
    (folder / "run.json").write_text('{"arm"')


def replace_bundle(folder: Path, root: Path) -> None:
    bundle = root / "weights" / "toy"
    state = load_file(bundle / "weights.safetensors")
    from graft.model.bundle import read_sidecar
    from graft.model.weights import write_bundle

    write_bundle(bundle, {name: value + 0 * value for name, value in state.items()}, {}, read_sidecar(bundle))
    first = next(iter(state))
    write_bundle(bundle, state | {first: state[first] * 2}, {}, read_sidecar(bundle))


def remove_bundle(folder: Path, root: Path) -> None:
    shutil.rmtree(root / "weights" / "toy")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_weights, "missing, changed or damaged"),
        (spoil_names, "but 1 tensors differ: more"),
        (spoil_sidecar, "to have the fields arm, backbone_weights_sha256"),
        (cut_sidecar, "cannot be read"),
        (replace_bundle, "the file is another one now. Put the old one back"),
        (remove_bundle, "The frozen stages of this run are those of `backbone.weights=toy`"),
    ],
)
def test_what_is_not_what_the_run_had_is_refused(world: World, spoil, message: str, tmp_path: Path) -> None:
    alone = world.copy(tmp_path / "moved")
    key = world.specs["tuned 0"].key
    spoil(checkpoint_folder(alone.root, key), alone.root)
    with pytest.raises(GraftError, match=message):
        load_kept(alone.root, key)
    if spoil in (replace_bundle, remove_bundle):  # nothing of it is left in a network that trained whole
        assert load_kept(alone.root, world.specs["whole"].key)


def test_an_image_gets_the_same_scores_in_any_company(world: World) -> None:
    """Alone, or among others: eval mode, nothing drawn."""
    kept = load_kept(world.root, world.specs["tuned 0"].key)
    size, channels = kept.preprocessing.size, kept.preprocessing.channels
    images = torch.randint(0, 256, (5, channels, size, size), dtype=torch.uint8)
    scorer = Scorer(kept)
    together = scorer(images)
    alone = torch.cat([scorer(image[None]) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
