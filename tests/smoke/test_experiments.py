"""Every experiment file says what it asks, composes, and runs: one value per axis, two batches each."""

from __future__ import annotations

import re

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from graft.cli import main
from graft.config.load import conf_folder
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
def root_with_bundles(runs_root):
    """A root with a bundle of each backbone that an experiment starts from, hardly trained."""
    small = ["trainer=smoke", "data.render_count=620", f"paths.root={runs_root}"]
    for backbone in ("small_cnn", "resnet18"):
        assert main(["pretrain", f"backbone={backbone}", *small]) == 0
    return runs_root


def first_of_each_axis(path):
    """Return the first value of every axis that the file sweeps over, as overrides."""
    axes = OmegaConf.select(OmegaConf.load(path), "hydra.sweeper.params") or {}
    words = [f"{key}={values}" for key, values in axes.items()]
    parsed = OverridesParser.create().parse_overrides(words)
    return [
        f"{override.key_or_group}={next(override.sweep_string_iterator())}"
        for override in parsed
        if override.is_sweep_override()
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_runs(path, root_with_bundles, capfd):
    GlobalHydra.instance().clear()
    place = [f"paths.root={root_with_bundles}", "trainer=smoke", "sweep.workers=1"]
    code = main(["train", f"experiment={path.stem}", *first_of_each_axis(path), *place])
    assert code == 0, capfd.readouterr()
    records = read_experiment(open_store(None, root_with_bundles), path.stem)
    assert records
    assert {record.status for record in records} == {"finished"}
    assert any(record.arm.from_scratch for record in records)
