"""Weights: found by every kind of reference, checked before use, loaded exactly, refused by name."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from graft.config.schema import Config
from graft.data.preprocessing import Preprocessing
from graft.errors import GraftError
from graft.model.backbone import build_backbone
from graft.model.bundle import SIDECAR_FILE, WEIGHTS_FILE, Sidecar
from graft.model.classifier import Classifier, build_classifier
from graft.model.fit_weights import apply_weights
from graft.model.tensor_files import current_name
from graft.model.weights import default_preprocessing, load_weights, resolve_weights, write_bundle


def make_config(
    name: str = "small_cnn", head: str = "linear", init: str = "new", partial: bool = False
) -> Config:
    config = Config()
    config.backbone.name = name
    config.backbone.allow_partial = partial
    config.transfer.method = "fine_tune"
    config.head.name, config.head.init = head, init
    return config


def build(
    config: Config, reference: str | Path, root: Path, classes: int = 4
) -> tuple[Classifier, list[str]]:
    source = resolve_weights(str(reference), config.backbone.name, root)
    loaded = load_weights(source, config.backbone.name) if source else None
    channels = 1 if config.backbone.name == "small_cnn" else 3
    return build_classifier(config, num_classes=classes, channels=channels, image_size=32, weights=loaded)


def sidecar_of(name: str) -> Sidecar:
    return Sidecar(
        architecture=name,
        options={},
        classes=["a", "b", "c", "d"],
        channels=1,
        image_size=32,
        preprocessing=default_preprocessing(name, 1, 16).to_dict(),
        data="glyphs",
        data_digest="0" * 64,
        metrics={"val/accuracy": 0.5},
        graft_version="0",
        run_key="0" * 64,
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def source(root: Path) -> Classifier:
    """A trained network, and its bundle ``glyphs-small`` under ``root``."""
    torch.manual_seed(3)
    classifier, _ = build_classifier(make_config(), num_classes=4, channels=1, image_size=32, weights=None)
    state, head = classifier.backbone.network_state_dict(), classifier.head.state_dict()
    write_bundle(root / "weights" / "glyphs-small", state, head, sidecar_of("small_cnn"))
    return classifier


@pytest.fixture(scope="module")
def resnet() -> torch.nn.Module:
    torch.manual_seed(4)
    return torchvision.models.resnet18(num_classes=7)


def features_equal(first: Classifier, second: Classifier) -> bool:
    x = torch.randn(2, 1, 32, 32)
    return torch.equal(first.eval().features(x), second.eval().features(x))


def test_a_bundle_comes_back_by_name_and_by_path(root: Path, source: Classifier) -> None:
    for reference in (
        "glyphs-small",
        root / "weights/glyphs-small",
        root / "weights/glyphs-small" / WEIGHTS_FILE,
    ):
        classifier, notes = build(make_config(), reference, root)
        assert features_equal(classifier, source)
        assert len(notes) == 1
        assert "(4 outputs) is left out; the new one starts by `head.init=new`" in notes[0]
    found = resolve_weights("glyphs-small", "small_cnn", root)
    assert found is not None
    assert found.preprocessing == Preprocessing.from_dict(default_preprocessing("small_cnn", 1, 16).to_dict())
    assert found.classes == ("a", "b", "c", "d")


def test_a_head_comes_along_only_when_asked_for(root: Path, source: Classifier) -> None:
    classifier, notes = build(make_config(init="from_weights"), "glyphs-small", root)
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(classifier.eval()(x), source.eval()(x))
    assert notes == []
    with pytest.raises(GraftError, match=r"weight: \(4, 64\) != \(6, 64\)"):
        build(make_config(init="from_weights"), "glyphs-small", root, classes=6)


def test_a_missing_bundle_names_those_that_exist(root: Path, source: Classifier) -> None:
    with pytest.raises(GraftError, match=r"got 'glyphs-smal'. Bundles in .*weights: glyphs-small"):
        resolve_weights("glyphs-smal", "small_cnn", root)
    with pytest.raises(GraftError, match="none yet, `graft pretrain` makes one"):
        resolve_weights("x", "small_cnn", root / "elsewhere")
    with pytest.raises(GraftError, match="IMAGENET1K_V1"):
        resolve_weights("IMAGENET1K_V9", "resnet18", root)


def truncate(folder: Path) -> None:
    path = folder / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:1000])


def flip_a_bit(folder: Path) -> None:
    path = folder / WEIGHTS_FILE
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def edit_sidecar(**values: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / SIDECAR_FILE
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "it is truncated"),
        (flip_a_bit, "changed or damaged"),
        (lambda folder: (folder / WEIGHTS_FILE).unlink(), "no such file"),
        (lambda folder: (folder / SIDECAR_FILE).write_text("{"), "cannot be read"),
        (edit_sidecar(format=99), "format 1, but got 99"),
        (edit_sidecar(colour="red"), "these differ: colour"),
        (edit_sidecar(architecture="resnet18"), "holds resnet18"),
    ],
)
def test_a_damaged_bundle_is_refused(
    root: Path, source: Classifier, damage: Callable[[Path], None], message: str
) -> None:
    resolve_weights("glyphs-small", "small_cnn", root)  # a remembered hash must not hide the damage
    folder = root / "weights" / "glyphs-small"
    damage(folder)
    with pytest.raises(GraftError, match=message):
        resolve_weights(str(folder), "small_cnn", root)


def test_an_interrupted_write_leaves_the_old_bundle(root: Path, source: Classifier, monkeypatch) -> None:
    folder = root / "weights" / "glyphs-small"
    before = (folder / WEIGHTS_FILE).read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(GraftError, match="No space left on device"):
        write_bundle(folder, {"x": torch.zeros(1)}, {}, sidecar_of("small_cnn"))
    assert (folder / WEIGHTS_FILE).read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == [SIDECAR_FILE, WEIGHTS_FILE]


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "backbone.", "module.model."])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_colleagues_checkpoint_loads(
    tmp_path: Path, root: Path, resnet, prefix: str, wrapped: bool
) -> None:
    state = {prefix + key: value for key, value in resnet.state_dict().items()}
    path = tmp_path / "colleague.pth"
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, path)
    classifier, notes = build(make_config("resnet18"), path, root)
    own = classifier.backbone.network_state_dict()
    assert all(torch.equal(value, resnet.state_dict()[key]) for key, value in own.items())
    assert "(7 outputs) is left out" in notes[-1]
    assert "no sidecar" in notes[0]
    assert tuple(classifier(torch.randn(2, 3, 32, 32)).shape) == (2, 4)


def test_a_prefix_may_be_on_the_backbone_alone(tmp_path: Path, root: Path, resnet) -> None:
    state = {
        key if key.startswith("fc.") else f"backbone.{key}": value
        for key, value in resnet.state_dict().items()
    }
    torch.save(state, tmp_path / "mixed.pth")
    classifier, notes = build(make_config("resnet18"), tmp_path / "mixed.pth", root)
    own = classifier.backbone.network_state_dict()
    assert all(torch.equal(value, resnet.state_dict()[key]) for key, value in own.items())
    assert "(7 outputs) is left out" in notes[-1]


def test_two_networks_in_one_file_are_not_mixed(tmp_path: Path, root: Path, resnet) -> None:
    state = resnet.state_dict()
    torch.save(state | {f"module.{key}": 0 * value for key, value in state.items()}, tmp_path / "two.pth")
    with pytest.raises(GraftError, match=r"\+ module.conv1.weight"):
        build(make_config("resnet18"), tmp_path / "two.pth", root)


class Wrapped(nn.Module):
    """A network that calls its parts by what is a wrapper's prefix, or an old name, elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
        self.model.mlp = nn.Module()
        self.model.mlp.linear_1 = nn.Conv2d(4, 8, 1)
        self.model.fc = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.model.mlp.linear_1(self.model[2](self.model[1](self.model[0](x))))
        return self.model.fc(x.mean(dim=(2, 3)))


def test_a_networks_own_names_are_no_prefix_and_not_old(root: Path) -> None:
    torch.manual_seed(5)
    first, second = (build_backbone(Wrapped(), "wrapped", 16, 1) for _ in range(2))
    write_bundle(root / "weights" / "wrapped", first.network_state_dict(), {}, sidecar_of("wrapped"))
    loaded = load_weights(resolve_weights("wrapped", "wrapped", root), "wrapped")
    apply_weights(second, loaded, make_config().head, allow_partial=False)
    for name, value in first.network_state_dict().items():
        assert torch.equal(second.network_state_dict()[name], value), name


def test_a_plain_safetensors_file_loads_with_its_head(tmp_path: Path, root: Path, resnet) -> None:
    save_file(resnet.state_dict(), tmp_path / "plain.safetensors")
    config = make_config("resnet18", init="from_weights")
    classifier, _ = build(config, tmp_path / "plain.safetensors", root, classes=7)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(classifier.eval()(x), resnet.eval()(x))


def test_a_hostile_file_is_refused_and_nothing_of_it_runs(tmp_path: Path, root: Path) -> None:
    proof = tmp_path / "it-ran"

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (proof,)  # type: ignore[return-value]

    for name, write in (
        ("zip.pth", torch.save),
        ("bare.pt", lambda value, path: path.write_bytes(pickle.dumps(value))),
    ):
        write({"state_dict": Hostile()}, tmp_path / name)
        found = resolve_weights(str(tmp_path / name), "resnet18", root)
        with pytest.raises(GraftError, match="graft runs no code from a file"):
            load_weights(found, "resnet18")
    assert not proof.exists()


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


def write_flipped(path: Path) -> None:
    torch.save({"x": torch.arange(1000)}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.pth", write_zip, "cannot be read as one"),
        ("a.pth", write_flipped, "checksum"),
        ("a.pth", lambda path: path.write_bytes(b"not a checkpoint"), "other objects or is damaged"),
        ("a.pth", lambda path: path.write_bytes(b""), "cannot be read as one"),
        ("a.pth", lambda path: torch.save({"epoch": 3}, path), "found no tensors"),
        ("a.pth", lambda path: torch.save([torch.zeros(1)], path), "found no tensors"),
        ("a.safetensors", lambda path: path.write_bytes(b"12345678"), "whole safetensors file"),
        ("a.bin", lambda path: path.write_bytes(b"x"), "ends in .safetensors"),
    ],
)
def test_a_file_that_is_no_weights_is_refused(
    tmp_path: Path, root: Path, name: str, write: Callable[[Path], None], message: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(GraftError, match=message):
        load_weights(resolve_weights(str(tmp_path / name), "resnet18", root), "resnet18")


def test_a_missing_file_is_named(tmp_path: Path, root: Path) -> None:
    with pytest.raises(GraftError, match="no such file"):
        resolve_weights(str(tmp_path / "gone.pth"), "resnet18", root)


def test_a_mismatch_prints_the_difference_and_partial_loading_is_named(
    tmp_path: Path, root: Path, resnet
) -> None:
    state = dict(resnet.state_dict())
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    state["surprise"] = torch.zeros(2)
    del state["layer1.0.conv1.weight"]
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(GraftError) as caught:
        build(make_config("resnet18"), tmp_path / "odd.pth", root)
    text = str(caught.value)
    assert "- layer1.0.conv1.weight (64, 64, 3, 3)" in text
    assert "+ surprise (2,)" in text
    assert "conv1.weight: (64, 3, 7, 7) != (64, 1, 7, 7)" in text
    assert "backbone.allow_partial=true" in text
    classifier, notes = build(make_config("resnet18", partial=True), tmp_path / "odd.pth", root)
    assert notes[-1] == "odd.pth was loaded partly (`backbone.allow_partial`): 118 of 120 tensors."
    kept = classifier.backbone.network_state_dict()["layer4.1.conv2.weight"]
    assert torch.equal(kept, resnet.state_dict()["layer4.1.conv2.weight"])


def test_weights_of_another_network_are_refused_even_partly(tmp_path: Path, root: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(GraftError, match="Nothing in it fits"):
        build(make_config("resnet18", partial=True), tmp_path / "other.pth", root)


def test_published_names_of_older_networks_are_understood() -> None:
    rename = current_name
    assert (
        rename("features.denseblock1.denselayer1.norm.1.weight")
        == "features.denseblock1.denselayer1.norm1.weight"
    )
    assert (
        rename("encoder.layers.encoder_layer_0.mlp.linear_2.bias")
        == "encoder.layers.encoder_layer_0.mlp.3.bias"
    )
    assert rename("layer1.0.conv1.weight") == "layer1.0.conv1.weight"


def test_default_weights_of_an_own_network_do_not_exist(root: Path) -> None:
    with pytest.raises(GraftError, match="no published weights"):
        resolve_weights("default", "small_cnn", root)
    assert resolve_weights("none", "small_cnn", root) is None


def test_preprocessing_belongs_to_the_weights(tmp_path: Path, root: Path, resnet) -> None:
    torch.save(resnet.state_dict(), tmp_path / "a.pth")
    found = resolve_weights(str(tmp_path / "a.pth"), "resnet18", root)
    assert found.preprocessing == default_preprocessing("resnet18", 1)
    assert (found.preprocessing.size, found.preprocessing.resize, found.preprocessing.channels) == (
        224,
        256,
        3,
    )
    assert default_preprocessing("vit_h_14", 3).interpolation == "bicubic"
    assert default_preprocessing("small_cnn", 1).size == 32


def test_a_bundle_carries_a_kept_classifier(root: Path) -> None:
    config = make_config("alexnet", head="pretrained_classifier")
    torch.manual_seed(0)
    first, _ = build_classifier(config, num_classes=4, channels=3, image_size=64, weights=None)
    folder = root / "weights" / "kept"
    state, head = first.backbone.network_state_dict(), first.head.layers_state_dict()
    write_bundle(folder, state, head, sidecar_of("alexnet"))
    loaded = load_weights(resolve_weights("kept", "alexnet", root), "alexnet")
    second, notes = build_classifier(config, num_classes=6, channels=3, image_size=64, weights=loaded)
    kept = "classifier.1.weight"
    assert torch.equal(second.head.layers.get_parameter(kept), first.head.layers.get_parameter(kept))
    assert "last layer of the head that came with the weights (4 outputs)" in notes[-1]
    shutil.rmtree(folder)
