"""`graft compare` on a real store, whose runs were recorded without any training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from graft.cli import main
from graft.config.load import to_plain
from graft.config.schema import Config
from graft.plan.spec import Facts, RunSpec, specify
from graft.track.parents import read_parents
from graft.track.results import checkpoint_folder
from graft.track.store import Store, open_store
from graft.track.writer import RunWriter, start_run, start_sweep

PREPROCESSING = {
    "channels": 1, "size": 16, "resize": None, "interpolation": "bilinear", "antialias": True,
    "mean": [0.5], "std": [0.5],
}  # fmt: skip
CLASSES = [str(digit) for digit in range(10)]


@pytest.fixture(scope="module", autouse=True)
def no_heartbeats() -> Iterator[None]:
    """Let no thread of a run work beside the tests after it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("graft.track.heartbeat._BEAT_SECONDS", 1e6)
        yield


def plan(build_config: Callable[..., Config], experiment: str, **knobs: Any) -> RunSpec:
    pretrained = knobs.get("transfer.method") == "fine_tune"
    facts = Facts(
        "d" * 64,
        (),
        "a" * 64 if pretrained else None,
        "glyphs@aa" if pretrained else "none",
        PREPROCESSING,
        "32",
    )
    return specify(build_config({"tracking.experiment": experiment, **knobs}), facts)


def record(writer: RunWriter, spec: RunSpec, rng: np.random.Generator, skill: float, tmp: Path) -> None:
    """Record a run that is right with the given probability, as a real one does."""
    label = np.arange(200) % 10
    scores = rng.normal(size=(200, 10))
    scores[np.arange(200), label] += np.where(rng.random(200) < skill, 9, -9)
    for step in (10, 20, 30):
        writer.record({"val/accuracy": skill * step / 30}, step)
    right = float((scores.argmax(axis=1) == label).mean())
    numbers = {"val/accuracy": skill, "test/accuracy": right, "train_seconds": 2.0, "labels_train": 20.0}
    writer.conclude(numbers, 30)
    folder = tmp / writer.run_id
    folder.mkdir()
    np.savez(folder / "predictions.npz", index=np.arange(200), label=label, scores=scores)
    (folder / "config.yaml").write_text(yaml.safe_dump(to_plain(spec.config)))
    (folder / "confusion.json").write_text(json.dumps({"class_names": CLASSES}))
    (folder / "worst_errors.json").write_text("[]")
    writer.log_folder(folder)
    writer.end("finished")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, build_config: Callable[..., Config]) -> Store:
    """Two arms, two label budgets, three seeds; transfer helps most with few labels."""
    store = open_store(None, tmp_path_factory.mktemp("compare"))
    rng, tmp = np.random.default_rng(0), tmp_path_factory.mktemp("artifacts")
    skills = {
        ("from_scratch", 2): 0.3,
        ("fine_tune", 2): 0.9,
        ("from_scratch", 5): 0.6,
        ("fine_tune", 5): 0.92,
    }
    specs = {
        (method, labels, seed): plan(
            build_config,
            "pays",
            seed=seed,
            **{"transfer.method": method, "data.labels_per_class": labels, "backbone.weights": weights},
        )
        for (method, labels), weights in ((key, "a" if key[0] == "fine_tune" else None) for key in skills)
        for seed in range(3)
    }
    parent = start_sweep(store, "pays", list(specs.values()), "graft train -m seed=0,1,2")
    for (method, labels, _), spec in specs.items():
        record(
            start_run(store, spec, parent_id=parent.run_id, notes={}), spec, rng, skills[method, labels], tmp
        )
    parent.end("finished")
    return store


@pytest.fixture
def compare(store: Store, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*words: str) -> tuple[int, str, str]:
        code = main(["compare", *words, f"paths.root={store.root}"])
        return code, *capsys.readouterr()

    return run


def test_the_report_and_the_parent_run_carry_the_verdict(compare, store) -> None:
    code, told, _ = compare()
    assert code == 0
    assert "At 2 labels per class, fine-tune beats training from scratch" in " ".join(told.split())
    folder = store.root / "reports" / "pays"
    page = (folder / "index.html").read_text()
    HTMLParser().feed(page)
    for words in ("graft train -m seed=0,1,2", "graft compare pays", "learning_curves", "fig-confusion"):
        assert words in page
    [parent] = read_parents(store, "pays")
    run = store.client.get_run(parent.run_id)
    assert run.data.tags["mlflow.note.content"].count("At 2 labels per class, fine-tune beats") == 1
    assert run.data.metrics["gain/fine-tune_small_cnn_glyphs/2"] == pytest.approx(0.6, abs=0.1)
    assert run.data.metrics["gain/fine-tune_small_cnn_glyphs/2/low"] > 0.3
    found = {one.path for one in store.client.list_artifacts(parent.run_id, "report")}
    assert {"report/index.html", "report/report.md", "report/runs.csv", "report/figures"} <= found


def test_an_expectation_decides_the_exit_code(compare) -> None:
    assert compare("--expect", "fine_tune helps at 2", "--expect=transfer helps at 2")[0] == 0
    code, _, complaint = compare("pays", "--expect", "fine_tune hurts")
    assert code == 3
    assert complaint.count("graft: expected 'fine_tune hurts', but got fine-tune, ") == 2


def test_an_expectation_of_what_there_is_not_is_told_before_anything_is_done(compare) -> None:
    code, told, complaint = compare("pays", "--expect", "fine-tuen helps")
    assert (code, told) == (2, "")
    assert complaint.startswith("graft: Expected `who of --expect` to be one of: fine-tune")


def test_json_stands_alone_on_stdout(compare) -> None:
    code, told, _ = compare("--json", "--where", "labels<=2")
    values = json.loads(told)
    assert code == 0
    assert [budget["labels"] for budget in values["sections"][0]["budgets"]] == ["2"]
    assert (values["selection"], values["margin"]) == ("validation", 0.005)


def test_another_view_has_a_folder_of_its_own_and_leaves_the_parent_alone(compare, store) -> None:
    compare()
    [parent] = read_parents(store, "pays")
    before = store.client.get_run(parent.run_id).data
    code, told, _ = compare("--oracle", "--margin", "3", "--where", "labels>2")
    assert code == 0
    assert "Oracle selection: test itself chose the trials." in told
    after = store.client.get_run(parent.run_id).data
    assert (after.tags, after.metrics) == (before.tags, before.metrics)
    [folder] = store.root.glob("reports/pays--labels-2-*--margin-3--oracle")
    assert "differences within 3 points count as none" in (folder / "index.html").read_text()


def test_several_parents_are_compared_together(compare, store) -> None:
    [parent] = read_parents(store, "pays")
    assert compare("pays", parent.run_id)[0] == 0
    assert (store.root / "reports" / f"pays+{parent.run_id}" / "index.html").is_file()


def test_what_matches_nothing_says_what_there_is(compare) -> None:
    code, _, complaint = compare("--where", "labels=50")
    assert code == 2
    assert "The values there are: `labels`: 2, 5." in complaint
    code, _, complaint = compare("nobody")
    assert code == 2
    assert "Expected `experiment` to be one of: pays" in complaint


def test_mixed_metrics_are_refused(store, compare, build_config, tmp_path) -> None:
    for metric in ("accuracy", "macro_f1"):
        spec = plan(build_config, "mixed", metric=metric)
        record(
            start_run(store, spec, parent_id=None, notes={}), spec, np.random.default_rng(0), 0.5, tmp_path
        )
    code, _, complaint = compare("mixed")
    assert code == 2
    assert "Expected runs of one metric, but they have 2: accuracy, macro_f1." in complaint
    assert "--metric accuracy" in complaint


def test_each_look_at_test_is_recorded_once(compare, store, build_config, tmp_path) -> None:
    """Two trials of one arm: each view chooses its own, and all are counted afterwards."""
    rng = np.random.default_rng(0)
    for lr, skill in ((0.1, 0.4), (0.01, 0.8)):
        spec = plan(build_config, "looked", **{"optim.lr": lr})
        record(start_run(store, spec, parent_id=None, notes={}), spec, rng, skill, tmp_path)

    def count(*words: str) -> int:
        code, told, _ = compare("looked", "--json", *words)
        assert code == 0
        return int(json.loads(told)["test_looks"])

    assert [count("--margin", "1"), count("--margin", "2"), count()] == [1, 1, 1]
    assert count("--where", "lr=0.1") == 1  # of the one run that it keeps
    assert [count(), count("--oracle"), count()] == [2, 2, 2]
    for lr, skill in ((0.001, 0.1), (0.5, 0.2)):
        spec = plan(build_config, "looked", **{"optim.lr": lr})
        record(start_run(store, spec, parent_id=None, notes={}), spec, rng, skill, tmp_path)
    assert [count(), count("--oracle"), count()] == [2, 4, 4]


def make_runs(
    store: Store, build_config: Callable[..., Config], tmp_path: Path, experiment: str, **knobs: Any
) -> dict[float, RunSpec]:
    """Record two trials of one arm; validation chooses the rate 0.01. Both have weights."""
    specs = {}
    for lr, skill in ((0.1, 0.4), (0.01, 0.8)):
        spec = specs[lr] = plan(build_config, experiment, **{"optim.lr": lr, **knobs})
        record(
            start_run(store, spec, parent_id=None, notes={}), spec, np.random.default_rng(0), skill, tmp_path
        )
        folder = checkpoint_folder(store.root, spec.key)
        folder.mkdir(parents=True)
        (folder / "run.json").write_text("{}")
    return specs


def test_only_the_comparison_of_one_experiment_drops_weights(compare, store, build_config, tmp_path) -> None:
    """What all together choose says nothing of what each of them chooses."""
    specs = make_runs(store, build_config, tmp_path, "kept")
    folders = {lr: checkpoint_folder(store.root, spec.key) for lr, spec in specs.items()}
    code, told, _ = compare("kept", "pays")
    assert (code, "are deleted" in told) == (0, False)
    assert all(folder.is_dir() for folder in folders.values())
    code, told, _ = compare("kept")
    assert (code, "Weights of 1 runs that were not chosen are deleted" in " ".join(told.split())) == (0, True)
    assert [lr for lr, folder in folders.items() if folder.is_dir()] == [0.01]


def test_the_last_comparison_is_what_the_dashboard_shows_as_chosen(
    compare, store, build_config, tmp_path
) -> None:
    """A better rate that came later takes the place of the one chosen before, whose weights stay."""
    budget = {"trainer.min_steps": 8}
    specs = make_runs(store, build_config, tmp_path, "later", **budget)
    compare("later")
    better = plan(build_config, "later", **{"optim.lr": 0.001, **budget})
    record(
        start_run(store, better, parent_id=None, notes={}), better, np.random.default_rng(0), 0.95, tmp_path
    )
    code, told, _ = compare("later", "--json")
    assert (code, json.loads(told)["test_looks"]) == (0, 2)
    runs = {
        run.data.tags["graft.run_key"]: run.data.tags
        for run in store.client.search_runs([store.experiment_id("later")])
    }
    assert {key for key, tags in runs.items() if tags["graft.chosen"] == "true"} == {better.key}
    assert checkpoint_folder(store.root, specs[0.01].key).is_dir()


def test_a_sweep_that_has_not_ended_is_doubted_first_and_loses_no_weights(
    compare, store, build_config, tmp_path
) -> None:
    budget = {"trainer.min_steps": 7}  # runs of their own, not those of another test
    specs = make_runs(store, build_config, tmp_path, "begun", **budget)
    planned = [*specs.values(), plan(build_config, "begun", seed=1, **budget)]
    start_sweep(store, "begun", planned, "graft train -m seed=0,1")
    code, told, _ = compare("begun")
    said = " ".join(told.split())
    assert (code, "are deleted" in said) == (0, False)
    assert "A preliminary look: 1 planned run has not ended" in said
    assert "Weights of runs that are not chosen stay until the sweep is done." in said
    assert all(checkpoint_folder(store.root, spec.key).is_dir() for spec in specs.values())
    found = json.loads((store.root / "reports" / "begun" / "comparison.json").read_text())
    assert found["doubts"][0].startswith("A preliminary look")
    assert f"`graft status paths.root={store.root}` shows them" in found["doubts"][0]


@pytest.fixture
def wanting(store: Store, build_config: Callable[..., Config], tmp_path: Path) -> str:
    """An experiment whose runs ask to be registered, and have lost their weights."""
    name = f"wants-{tmp_path.name}"
    for seed in range(2):
        spec = plan(build_config, name, seed=seed, **{"tracking.register": True})
        record(
            start_run(store, spec, parent_id=None, notes={}), spec, np.random.default_rng(0), 0.5, tmp_path
        )
    return name


def test_what_runs_asked_for_stops_no_comparison(compare, wanting) -> None:
    """Neither several experiments nor lost weights keep JSON and expectations from whoever compares now."""
    for words, reason in (
        (
            (wanting, "pays"),
            f"but got 2 experiments: {wanting}, pays. Type by itself: graft compare {wanting} ",
        ),
        ((wanting, "--where", "seed=0"), "but got `--where seed=0 --json`"),
        ((wanting,), "Expected the weights of the champion"),
    ):
        code, told, said = compare(*words, "--json")
        assert code == 0
        assert json.loads(told)["sections"]
        said = " ".join(said.split())
        assert "Not registered, though runs were trained with `tracking.register=true`: Expected the" in said
        assert reason in said
        assert compare(*words, "--expect", "from_scratch helps")[0] == 3


def test_what_is_asked_for_now_and_cannot_be_registered_is_a_mistake(compare, wanting) -> None:
    code, told, complaint = compare(
        wanting, "--json", "--expect=from_scratch helps", "tracking.register=true"
    )
    assert code == 2
    assert json.loads(told)["sections"]  # all that was compared is said before
    assert complaint.index("graft: expected 'from_scratch helps'") < complaint.index(
        "Expected the weights of the"
    )
    for words in (("pays",), ("--metric", "accuracy"), ("--margin=1",), ("--where=seed=0",), ("--oracle",)):
        code, told, complaint = compare(wanting, *words, "tracking.register=true")
        assert (code, told) == (2, "")
        assert f"graft compare {wanting} tracking.register=true" in " ".join(complaint.split())
