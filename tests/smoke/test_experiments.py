"""Every experiment file says what it asks, composes, and runs: one value per axis, two batches each."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torchvision
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file

from graft.cli import main
from graft.config.load import conf_folder, flatten, register_schema, to_config, to_plain
from graft.config.names import OWN_BACKBONES, PRETRAINED
from graft.sweep.nodes import register_plugins
from graft.track.reader import read_experiment
from graft.track.store import open_store

FILES = sorted((conf_folder() / "experiment").rglob("*.yaml"))
HEADER = ("Question", "Command", "Cost", "Expect")


def test_experiments_are_found():
    assert len(FILES) > 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_header_says_what_is_asked(path):
    lines = path.read_text().splitlines()
    assert lines[0] == "# @package _global_"
    header = [line for line in lines if line.startswith("# ")]
    said = [found.group(1) for line in header if (found := re.match(r"# (\w+): \S", line))]
    assert tuple(said[:4]) == HEADER


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_experiment_is_named_like_its_file(path):
    assert OmegaConf.load(path).tracking.experiment == path.stem


@pytest.fixture(scope="session")
def stand_ins(runs_root, tmp_path_factory):
    """What an experiment needs and a machine without network lacks."""
    return StandIns(runs_root, tmp_path_factory.mktemp("stand_ins"))


class StandIns:
    """Images and weights that hardly mean anything, each made once, and the overrides that name them."""

    def __init__(self, root, folder):
        self.root, self.folder = root, folder

    def overrides(self, config):
        if config.data.name not in ("digits", "glyphs"):
            classes = {"binary_cross_entropy": 2}.get(config.loss.name, 5)
            yield f"data=folder data.root={self.images(classes)} data.batch_size=4 data.image_size=32".split()
            yield ["data.resize=32"] if config.data.resize is not None else []
        if config.transfer.method in PRETRAINED:
            weights = config.backbone.weights
            if weights.startswith("glyphs-"):
                self.bundle(config.backbone.name)
            else:
                yield [f"backbone.weights={self.weights(config.backbone.name)}"]

    def images(self, classes):
        """Write a folder of noise, twenty images a class."""
        top = self.folder / f"images{classes}"
        noise = np.random.default_rng(0)
        for number in range(0 if top.exists() else 20 * classes):
            path = top / f"class{number % classes}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
        return top

    def bundle(self, backbone, *words):
        """Pretrain for two batches, unless that is done."""
        words = words or ("data.render_count=620",)
        place = [f"paths.root={self.root}", "trainer=smoke"]
        assert main(["pretrain", f"backbone={backbone}", *words, *place]) == 0

    def weights(self, backbone):
        """Write random weights of a torchvision network, or a bundle of one of graft's own; for RGB."""
        if backbone in OWN_BACKBONES:
            name = f"noise-{backbone}"
            self.bundle(backbone, "data=folder", f"data.root={self.images(5)}", f"bundle.name={name}")
            return name
        path = self.folder / f"{backbone}.safetensors"
        if not path.exists():
            save_file(torchvision.models.get_model(backbone, weights=None).state_dict(), path)
        return path


def first_of_each_axis(path):
    """Return the first value of every axis that the file sweeps over, as overrides."""
    axes = OmegaConf.select(OmegaConf.load(path), "hydra.sweeper.params") or {}
    parsed = OverridesParser.create().parse_overrides([f"{key}={values}" for key, values in axes.items()])
    return [
        f"{override.key_or_group}={next(override.sweep_string_iterator())}"
        for override in parsed
        if override.is_sweep_override()
    ]


def compose_experiment(path):
    register_schema()
    register_plugins()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return to_config(compose("train", overrides=[f"experiment={path.stem}"]))


#: The recipes of the classic systems, as tutorials have them.
_NO_NORM = {"data.mean": [0.0] * 3, "data.std": [1.0] * 3, "data.image_size": 224, "data.resize": 224}
RECIPES = {
    "cnn_cifar10": {
        "backbone.name": "cnn2", "data.name": "cifar10", "data.image_size": 32, "data.resize": 32,
        "data.mean": [0.5] * 3, "data.std": [0.5] * 3, "optim.name": "adam", "optim.lr": 1e-3,
        "optim.schedule": "constant", "data.batch_size": 128, "loss.name": "cross_entropy",
        "trainer.epochs": 100, "transfer.freeze_depth": 0,
    },
    "rnn_rows": {"backbone.name": "row_rnn", "data.name": "digits", "backbone.weights": "glyphs-row_rnn"},
    "feature_extractor_linear": {
        "head.name": "linear", "transfer.method": "linear_probe", "transfer.freeze_depth": 5,
    },
    "resnet18_cifar10": {
        "backbone.name": "resnet18", "backbone.weights": "IMAGENET1K_V1", "data.name": "cifar10",
        "data.image_size": 224, "data.resize": 224, "data.mean": None, "data.std": None,
        "optim.name": "sgd", "optim.lr": 1e-3, "optim.momentum": 0.9, "optim.weight_decay": 0.0,
        "optim.schedule": "constant", "data.batch_size": 64, "trainer.epochs": 10, "head.name": "linear",
        "transfer.freeze_depth": 0,
    },
    "vgg16_100": _NO_NORM | {
        "backbone.name": "vgg16", "backbone.weights": "default", "head.name": "pretrained_classifier",
        "optim.name": "adam", "optim.lr": 1e-4, "optim.schedule": "constant", "data.batch_size": 32,
        "trainer.epochs": 10, "transfer.freeze_depth": 0,
    },
    "vgg16_binary": _NO_NORM | {
        "backbone.name": "vgg16", "backbone.weights": "default", "head.name": "mlp", "head.hidden": [1024],
        "head.activation": "relu", "loss.name": "binary_cross_entropy", "optim.name": "adam",
        "optim.schedule": "constant", "augment.name": "shear_zoom_flip", "transfer.method": "fine_tune",
        "transfer.freeze_depth": 5,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_a_classic_system_is_exactly_its_recipe(name):
    composed = flatten(to_plain(compose_experiment(conf_folder() / "experiment" / f"{name}.yaml")))
    assert {key: composed[key] for key in RECIPES[name]} == RECIPES[name]
    assert composed["sweep.twin"] == "auto", "from scratch and by transfer"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_runs(path, stand_ins, capfd):
    """One run of each, in this process; a sweep with its workers and twins is run below."""
    needed = itertools.chain(*stand_ins.overrides(compose_experiment(path)))
    words = [f"experiment={path.stem}", *first_of_each_axis(path), *needed, "hydra.mode=RUN", "trainer=smoke"]
    words += ["checkpoint.keep=none"]  # half a gigabyte of VGG-16 is not to be written here
    code = main(["train", *words, f"paths.root={stand_ins.root}"])
    assert code == 0, capfd.readouterr()


def test_one_runs_as_the_sweep_that_it_is(stand_ins, capfd):
    stand_ins.bundle("small_cnn")
    path = conf_folder() / "experiment" / "digits_transfer.yaml"
    place = [
        f"paths.root={stand_ins.root}",
        "trainer=smoke",
        "sweep.workers=1",
        "tracking.experiment=as_a_sweep",
    ]
    assert main(["train", "experiment=digits_transfer", *first_of_each_axis(path), *place]) == 0, (
        capfd.readouterr()
    )
    records = read_experiment(open_store(None, stand_ins.root), "as_a_sweep")
    assert {record.status for record in records} == {"finished"}
    assert {record.arm.method for record in records} == {"fine_tune", "from_scratch"}
