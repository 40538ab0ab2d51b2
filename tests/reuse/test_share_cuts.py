"""The shared path is the plain one to the bit: for a ridge head, and for stages that end at any node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from graft import __version__
from graft.config.load import to_config
from graft.model.backbone import build_backbone, build_network
from graft.model.bundle import Sidecar, bundle_folder
from graft.model.classifier import build_classifier
from graft.model.weights import load_weights, resolve_weights, write_bundle
from graft.plan.spec import RunSpec, specify
from graft.reuse.entries import list_entries
from graft.run import execute, gather_facts
from graft.track.reader import read_run
from graft.track.record import RunRecord
from graft.track.store import open_store

NODE = "features.3.norm"
Ran = tuple[RunSpec, dict[str, torch.Tensor], RunRecord]
Run = Callable[..., Ran]
PREPROCESSING = {
    "channels": 1, "size": 16, "resize": None, "interpolation": "bilinear", "antialias": True,
    "mean": [0.3], "std": [0.7],
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights bundle `toy`."""
    root = tmp_path_factory.mktemp("cuts")
    _write_toy(root)
    return root


@pytest.fixture
def run(root: Path) -> Run:
    """Execute a run with the weights of the bundle, whether it is finished already or not."""

    def execute_one(*, reuse: bool = True, **sections: dict[str, Any]) -> Ran:
        tree: dict[str, dict[str, Any]] = {
            "data": {"name": "digits", "labels_per_class": 4, "test_size": 100},
            "backbone": {"name": "small_cnn", "weights": "toy"},
            "transfer": {"method": "linear_probe", "freeze_depth": 5},
            "trainer": {"min_steps": 8, "epochs": 1, "max_validations": 2, "accelerator": "cpu"},
            "checkpoint": {"keep": "all"},
            "reuse": {"enabled": reuse},
            "paths": {"root": str(root)},
        }
        config = to_config({name: tree.get(name, {}) | sections.get(name, {}) for name in tree | sections})
        spec, ids = specify(config, gather_facts(config)), list[str]()
        execute(spec, on_start=ids.append)
        kept = load_file(root / "checkpoints" / spec.key / "weights.safetensors")
        return spec, kept, read_run(open_store(None, root), ids[0])

    return execute_one


def _write_toy(root: Path) -> None:
    torch.manual_seed(7)
    network = build_network("small_cnn", num_classes=4, image_size=16, channels=1)
    state = build_backbone(network, "small_cnn", 16, 1).network_state_dict()
    sidecar = Sidecar(
        architecture="small_cnn", options={}, classes=["a", "b", "c", "d"], channels=1, image_size=16,
        preprocessing=PREPROCESSING, data="toy", data_digest="t" * 64, metrics={}, graft_version=__version__,
        run_key="r" * 20,
    )  # fmt: skip
    write_bundle(bundle_folder(root, "toy"), state, {}, sidecar)


def assert_same(plain: Ran, shared: Ran) -> None:
    assert plain[0].key == shared[0].key
    assert plain[1].keys() == shared[1].keys()
    assert all(torch.equal(value, shared[1][name]) for name, value in plain[1].items())
    times = ("train_seconds", "amortised_seconds", "run_seconds")
    one, other = (
        {name: number for name, number in ran[2].metrics.items() if name not in times}
        for ran in (plain, shared)
    )
    assert one == other
    assert plain[2].notes["path"] == "plain: reuse=off"
    assert shared[2].notes["path"].startswith("shared: ")


def boundaries(root: Path) -> set[str]:
    """What the store holds, by the names of its entries."""
    return {dict(entry.about)["name"]["boundary"] for entry in list_entries(root / "cache" / "activations")}


RIDGE = {"head": {"name": "ridge"}}
UNTIL = {"transfer": {"method": "fine_tune", "freeze_depth": 0, "freeze_until": NODE}}


@pytest.mark.parametrize(
    "case",
    [
        RIDGE,
        UNTIL,
        pytest.param(RIDGE | {"trainer": {"precision": "bf16-mixed"}}, marks=pytest.mark.full),
        pytest.param(RIDGE | {"data": {"balance": "class_weights"}}, marks=pytest.mark.full),
        pytest.param(UNTIL | {"trainer": {"precision": "bf16-mixed"}}, marks=pytest.mark.full),
    ],
    ids=str,
)
def test_the_shared_path_gives_the_plain_path_to_the_bit(run, case):
    assert_same(run(reuse=False, **case), run(**case))


def test_a_ridge_probe_is_recorded_like_any_other_and_its_weights_are_a_linear_head(run, root, tmp_path):
    _, _, linear = run()
    spec, kept, ridge = run(**RIDGE)
    beyond = {name for name in linear.metrics.keys() ^ ridge.metrics.keys() if not name.startswith("lr/")}
    assert beyond == {"ridge/strength", "ridge/temperature"}
    assert ridge.metrics["ridge/strength"] in spec.config.head.strengths
    assert ridge.metrics["test/accuracy"] > 0.3, "random features tell digits apart to some degree"
    assert ridge.metrics["images_seen"] == 40
    assert (ridge.arm.head, linear.arm.head) == ("ridge", "linear")
    assert set(kept) == {"head.layers.weight", "head.layers.bias"}

    source = resolve_weights("toy", "small_cnn", root)
    classifier, _ = build_classifier(
        spec.config, num_classes=10, channels=1, image_size=16, weights=load_weights(source, "small_cnn")
    )
    assert not classifier.load_state_dict(kept, strict=False).unexpected_keys
    store = open_store(None, root)
    saved = np.load(store.client.download_artifacts(ridge.run_id, "predictions.npz", str(tmp_path)))
    pixels = np.load(next((root / "cache" / "pixels").glob("*.npy")))[saved["index"]]
    with torch.no_grad():
        scores = classifier.eval()((torch.from_numpy(pixels).float() / 255 - 0.3) / 0.7)
    np.testing.assert_allclose(scores.numpy(), saved["scores"], rtol=1e-3, atol=1e-3)


def test_stages_before_a_moved_end_are_shared_with_the_natural_ones(run, root):
    run(transfer={"method": "fine_tune", "freeze_depth": 3})
    run(**UNTIL)
    run(transfer={"method": "fine_tune", "freeze_depth": 4})
    assert boundaries(root) >= {"3", f"until {NODE}", "4"}


def test_a_node_at_the_end_of_a_stage_is_the_run_of_that_depth(run):
    natural = run(transfer={"method": "fine_tune", "freeze_depth": 3})
    named = run(transfer={"method": "fine_tune", "freeze_depth": 0, "freeze_until": "features.2.pool"})
    assert named[0].key == natural[0].key
    assert all(torch.equal(value, named[1][name]) for name, value in natural[1].items())


def test_what_is_frozen_up_to_a_node_is_told(run):
    spec, kept, record = run(**UNTIL)
    assert record.notes["frozen_stages"] == f"stage1, stage2, stage3, stage4, up to {NODE}"
    assert record.arm.label == f"fine-tune, frozen to {NODE} · small_cnn · toy"
    assert spec.config.transfer.freeze_depth == 4
    assert all(name.startswith(("head.", "backbone.stages.4.")) for name in kept)
