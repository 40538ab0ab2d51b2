"""`graft rank`: real bundles on real digits, measured again by other means; test images stay unread."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from sklearn.linear_model import RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier

import graft.model.weights as weights_module
from graft.cli import main
from graft.compose import compose_and_call
from graft.config.schema import Config
from graft.data.transforms import normalise
from graft.errors import GraftError
from graft.inputs import build_model, open_view
from graft.model.bundle import bundle_folder, read_sidecar
from graft.model.weights import load_weights, resolve_weights, write_bundle
from graft.plan.groups import find_prefix
from graft.plan.spec import specify
from graft.rank import Ranking, read_ranking
from graft.reuse.share import name_entries
from graft.run import execute, gather_facts
from graft.sharing import open_activations
from graft.track.reader import finished_runs, read_run
from graft.track.store import open_store
from graft.train.transferability import measure_h_score, measure_leep, measure_logme

HEAD = {
    "weight": torch.randn(4, 128, generator=torch.Generator().manual_seed(0)) / 4,
    "bias": torch.arange(4.0) / 4,
}


@pytest.fixture(scope="module")
def root(toy_root: Path) -> Path:
    """Beside `toy` two bundles more: `wise` has a head, `dull` sees one thing only."""
    folder = bundle_folder(toy_root, "toy")
    source = resolve_weights("toy", "cnn2", toy_root)
    assert source is not None
    state, sidecar = load_weights(source, "cnn2").state, read_sidecar(folder)
    torch.manual_seed(11)
    wise = {name: value + 0.01 * torch.randn_like(value) for name, value in state.items()}
    last = [name for name, value in state.items() if value.dim() > 1][-1]
    dull = state | {last: state[last][:1].expand_as(state[last]).contiguous()}  # all features are one
    write_bundle(bundle_folder(toy_root, "wise"), wise, HEAD, sidecar)
    write_bundle(bundle_folder(toy_root, "dull"), dull, {}, sidecar)
    return toy_root


@pytest.fixture(scope="module")
def words(root: Path) -> list[str]:
    return [
        "data=digits", "data.labels_per_class=12", "backbone=cnn2", "backbone.weights=dull,toy,wise",
        "trainer=cpu", f"paths.root={root}",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def record(words: list[str]) -> dict:
    from contextlib import redirect_stdout
    from io import StringIO

    with redirect_stdout(StringIO()) as said:
        assert main(["rank", *words, "--json"]) == 0
    return json.loads(said.getvalue())


def test_the_measures_are_those_of_the_features(record: dict, root: Path, build_config) -> None:
    by_name = {row["weights"].partition("@")[0]: row for row in record["backbones"]}
    assert set(by_name) == {"dull", "toy", "wise"}
    for name, row in by_name.items():
        spec = probe(build_config, root, name)
        view = open_view(spec)
        classifier, _ = build_model(spec, view.images)
        classifier.eval()

        def see(rows: np.ndarray, view=view, classifier=classifier) -> np.ndarray:
            with torch.no_grad():
                x = normalise(torch.from_numpy(np.array(view.pixels[rows])), view.preprocessing)
                return classifier.features(x).double().numpy()

        labels, split = view.images.labels, view.split
        train, val = see(split.train), see(split.val)
        of_train, of_val = labels[split.train], labels[split.val]
        assert row["features"] == train.shape[1]
        assert row["logme"] == pytest.approx(measure_logme(train, of_train), abs=1e-4)
        assert row["h_score"] == pytest.approx(measure_h_score(train, of_train), rel=1e-3)
        smallest = np.bincount(of_train).min()
        nearest = KNeighborsClassifier(min(5, smallest), metric="cosine", algorithm="brute")
        assert row["knn_accuracy"] == pytest.approx(nearest.fit(train, of_train).score(val, of_val), abs=0.02)
        scale = len(train) * ((train - train.mean(axis=0)) ** 2).mean()
        scores = [
            RidgeClassifier(alpha=strength * max(scale, 1e-300)).fit(train, of_train).score(val, of_val)
            for strength in spec.config.head.strengths
        ]
        assert row["ridge_accuracy"] == pytest.approx(max(scores), abs=0.02)
        if name == "wise":
            outputs = torch.from_numpy(train) @ HEAD["weight"].double().T + HEAD["bias"].double()
            leep = measure_leep(outputs.softmax(dim=1).numpy(), of_train)
            assert row["leep"] == pytest.approx(leep, abs=1e-4)
        else:
            assert row["leep"] is None


def probe(build_config: Callable[..., Config], root: Path, weights: str):
    config = build_config({
        "paths.root": str(root), "backbone.name": "cnn2", "backbone.weights": weights,
        "transfer.method": "linear_probe", "transfer.freeze_depth": 5, "data.labels_per_class": 12,
        "data.test_size": 800.0,
        "trainer.accelerator": "cpu", "trainer.min_steps": 5, "trainer.epochs": 1,
    })  # fmt: skip
    return specify(config, gather_facts(config))


def test_the_best_comes_first_and_stands_in_both_files(record: dict, root: Path) -> None:
    rows = record["backbones"]
    order = [(-row["ridge_accuracy"], -row["logme"]) for row in rows]
    assert order == sorted(order)
    assert rows[-1]["weights"].startswith("dull@")
    assert (record["data"], record["labels"], record["train_images"]) == ("digits", "12", 120)
    place = root / "reports" / "rank" / f"{record['data_digest']}.json"
    assert json.loads(place.read_text()) == record
    with place.with_suffix(".csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert [row["weights"] for row in listed] == [row["weights"] for row in rows]


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mobilenet_v3_small"])
def test_published_weights_are_ranked_with_their_own_head(name: str, tmp_path, monkeypatch, capsys) -> None:
    """A checkpoint as torchvision publishes it, with a head of one layer or more, against its own network."""
    torch.manual_seed(3)
    network = torchvision.models.get_model(name)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network(torch.randn(64, 3, 64, 64))  # statistics of its own: as drawn, its features vanish
    network.eval()
    list(network.parameters())[-2].data.mul_(10)
    content = io.BytesIO()
    torch.save(network.state_dict(), content)
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / f"{name}-{digest[:8]}.pth").write_bytes(content.getvalue())
    real = torchvision.models.get_model_weights(name).DEFAULT
    url = f"https://nowhere.invalid/{name}-{digest[:8]}.pth"
    entry = SimpleNamespace(name="OWN", url=url, transforms=real.transforms, meta=real.meta)
    monkeypatch.setattr(weights_module, "_published", lambda _: {"OWN": entry})
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    words = [
        "data=digits", "data.labels_per_class=2", "data.image_size=64", "data.resize=64", "trainer=cpu",
        f"backbone={name}", "backbone.weights=OWN", f"paths.root={tmp_path / 'runs'}",
    ]  # fmt: skip
    assert main(["rank", *words]) == 0
    told = capsys.readouterr().out
    (record,) = (tmp_path / "runs" / "reports" / "rank").glob("*.json")
    (row,) = json.loads(record.read_text())["backbones"]
    assert row["weights"].startswith(f"{name}/OWN@{digest[:8]}")
    for value in (row["ridge_accuracy"], row["knn_accuracy"], row["logme"], row["h_score"], row["leep"]):
        assert f"{value:.3f}" in told, "no number is cut short, however narrow the terminal"

    spec = specify_probe(words)
    view = open_view(spec)
    with torch.no_grad():
        x = normalise(torch.from_numpy(np.array(view.pixels[view.split.train])), view.preprocessing)
        said = network(x).double().softmax(dim=1).numpy()
    labels = view.images.labels[view.split.train]
    joint = np.stack([said[labels == label].sum(axis=0) for label in range(10)]) / len(labels)
    leep = np.log((said @ (joint / joint.sum(axis=0)).T)[np.arange(len(labels)), labels]).mean()
    assert row["leep"] == pytest.approx(leep, abs=1e-4)
    assert leep > np.log(0.1) + 0.05, "the scores tell something"


def specify_probe(words: list[str]):
    """Specify the linear probe that the words of `graft rank` mean."""
    configs = list[Config]()
    (overrides,) = read_ranking(words)[1]
    compose_and_call("extract", overrides, configs.append)
    return specify(configs[0], gather_facts(configs[0]))


def test_test_images_are_never_read_and_a_probe_finds_the_rest(record, root: Path, build_config) -> None:
    spec = probe(build_config, root, "toy")
    prefix = find_prefix(spec)
    assert prefix is not None
    split = open_view(spec).split

    def missing(rows: np.ndarray) -> int:
        entry = open_activations(spec.config).find(name_entries(prefix, torch.device("cpu"))(5))
        assert entry is not None
        return len(entry.missing(rows))

    assert missing(split.test) == len(split.test)
    assert missing(np.concatenate([split.train, split.val])) == 0
    execute(spec)
    run = read_run(open_store(None, root), finished_runs(open_store(None, root))[spec.key])
    assert run.notes["path"].startswith("shared: stages 1 to 5")
    assert missing(split.test) == 0


def test_a_table_is_printed_and_the_plain_path_says_the_same(words, record, root: Path, capsys) -> None:
    assert main(["rank", *words, "reuse.enabled=false"]) == 0
    said = capsys.readouterr().out
    assert "Backbones on digits, 120 training and" in said
    assert "Ranked by the validation accuracy of a ridge probe; test was not read." in said
    again = json.loads((root / "reports" / "rank" / f"{record['data_digest']}.json").read_text())
    for old, new in zip(record["backbones"], again["backbones"], strict=True):
        assert new["path"].startswith("plain: ")
        assert (new["leep"] is None) == (old["leep"] is None)
        for name in ("ridge_accuracy", "logme", "h_score"):
            assert new[name] == pytest.approx(old[name], rel=1e-3, abs=1e-4)


def test_backbones_and_weights_go_together_in_pairs() -> None:
    asked, candidates = read_ranking(["data=digits", "backbone=a,b", "--json"])
    assert asked == Ranking(as_json=True)
    assert candidates == [
        ["data=digits", "backbone.name=a", "backbone.weights=default"],
        ["data=digits", "backbone.name=b", "backbone.weights=default"],
    ]
    _, candidates = read_ranking(["backbone=a", "backbone.weights=x,y"])
    assert [words[-1] for words in candidates] == ["backbone.weights=x", "backbone.weights=y"]
    _, candidates = read_ranking(["backbone=a,b", "backbone.weights=x,y"])
    assert [words[-2:] for words in candidates] == [
        ["backbone.name=a", "backbone.weights=x"],
        ["backbone.name=b", "backbone.weights=y"],
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Expected backbones to rank"),
        (["-m", "backbone=a"], "Expected backbones in one list, but got -m"),
        (["backbone=a,b,c", "backbone.weights=x,y"], "or one for each in their order, but got 2 for 3"),
    ],
)
def test_words_that_do_not_go_together(words: list[str], message: str) -> None:
    with pytest.raises(GraftError, match=message):
        read_ranking(words)


def test_weights_that_are_not_here_are_all_named_and_not_fetched(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    words = ["data=digits", "backbone=resnet18,vit_b_16", f"paths.root={tmp_path / 'runs'}"]
    assert main(["rank", *words]) == 2
    said = capsys.readouterr().err
    assert "2 are not there: resnet18/IMAGENET1K_V1 (47 MB), vit_b_16/IMAGENET1K_V1 (346 MB)" in said
    assert "--download" in said
    assert main(["rank", "backbone=cnn2", f"paths.root={tmp_path / 'runs'}"]) == 2
    assert "no published weights" in capsys.readouterr().err
    assert main(["rank", "backbone=resnet19", f"paths.root={tmp_path / 'runs'}"]) == 2
    assert "Did you mean 'resnet1" in capsys.readouterr().err
