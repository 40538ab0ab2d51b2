"""`trainer.precision=auto`: measured once, remembered, the same for all runs with a backbone."""

from __future__ import annotations

import pytest

from graft.config.schema import Config
from graft.run import gather_facts
from graft.train import probe
from graft.train.probe import choose_precision


@pytest.fixture
def gain(monkeypatch):
    """Let the measurement say what a test wants, and count how often it is made."""
    calls = []

    def measure(*_):
        calls.append(1)
        return measure.says

    measure.says, measure.calls = 1.5, calls
    monkeypatch.setattr(probe, "_measure_gain", measure)
    return measure


def choose(config: Config, root):
    return choose_precision(config, channels=1, image_size=16, cache_root=root)


@pytest.mark.parametrize(
    ("measured", "precision"), [(0.0, "32"), (0.6, "32"), (1.05, "32"), (1.5, "bf16-mixed")]
)
def test_half_precision_where_it_is_clearly_faster(measured, precision, gain, build_config, tmp_path):
    gain.says = measured
    found, said = choose(build_config({"trainer.precision": "auto"}), tmp_path)
    assert found == precision
    assert said.startswith(f"`trainer.precision=auto` is {precision}: small_cnn ")
    assert ("cannot train" if measured == 0 else f"{measured:.2f} times") in said


def test_a_named_precision_is_not_measured(gain, build_config, tmp_path):
    assert choose(build_config({"trainer.precision": "bf16-mixed"}), tmp_path) == ("bf16-mixed", "")
    assert gain.calls == []


def test_it_is_measured_once_for_all_arms_and_trials_of_a_backbone(gain, build_config, tmp_path):
    auto = {"trainer.precision": "auto"}
    for changes in (
        {},
        {"transfer.method": "random_features", "transfer.freeze_depth": 5},
        {"optim.lr": 0.1, "seed": 3, "data.batch_size": 8},
    ):
        choose(build_config(auto | changes), tmp_path)
    assert len(gain.calls) == 1
    choose(build_config(auto | {"backbone.name": "cnn2"}), tmp_path)
    choose(build_config(auto | {"trainer.channels_last": True}), tmp_path)
    assert len(gain.calls) == 3
    assert len(list((tmp_path / "measured").iterdir())) == 3


def test_a_memory_that_cannot_be_written_is_done_without(gain, build_config, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert choose(build_config({"trainer.precision": "auto"}), tmp_path / "cache")[0] == "bf16-mixed"


@pytest.mark.parametrize("backbone", ["small_cnn", "row_gru"])
def test_the_measurement_is_a_positive_number_and_draws_nothing(backbone, build_config):
    import torch

    before = torch.get_rng_state()
    config = build_config({"backbone.name": backbone, "trainer.precision": "auto"})
    assert probe._measure_gain(config, torch.device("cpu"), 1, 16) > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_planning_resolves_it(gain, build_config, tmp_path):
    changes = {"paths.root": str(tmp_path), "data.image_size": 16, "trainer.precision": "auto"}
    facts = gather_facts(build_config(changes))
    assert facts.precision == "bf16-mixed"
    assert "1.50 times as fast" in facts.precision_reason
