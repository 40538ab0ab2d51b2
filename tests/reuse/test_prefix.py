"""The frozen prefix, computed once: the same numbers as the network gives by itself."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from graft.data.preprocessing import Preprocessing
from graft.data.transforms import normalise
from graft.errors import RunFailedError
from graft.model.backbone import build_backbone, build_network
from graft.reuse.entries import EntryName
from graft.reuse.prefix import Prefix, prepare_activations, round_after, round_to
from graft.reuse.store import ActivationStore

COUNT = 20


def make(name, depth, precision="32", size=32, **options):
    torch.manual_seed(0)
    network = build_network(name, num_classes=3, image_size=size, channels=3)
    backbone = build_backbone(network, name, size, 3).eval()
    backbone.frozen_depth = depth
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 3, size, size), dtype=np.uint8)
    preprocessing = Preprocessing.from_dict(
        {
            "size": size,
            "resize": size,
            "interpolation": "bilinear",
            "antialias": True,
            "channels": 3,
            "mean": [0.5] * 3,
            "std": [0.2] * 3,
        }
    )
    return Prefix(
        backbone,
        depth,
        lambda number: EntryName("d", {}, name, "w", str(number), precision),
        pixels,
        preprocessing,
        precision,
        options.pop("batch_size", 8),
        torch.device("cpu"),
        **options,
    )


def plainly(prefix, rows):
    """What the frozen stages of a run give, in one batch."""
    mixed = prefix.precision != "32"
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
        x = normalise(torch.from_numpy(prefix.pixels[rows]), prefix.preprocessing)
        for number in range(1, prefix.depth + 1):
            x = prefix.backbone.stage(number)(x)
    return x


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
@pytest.mark.parametrize("depth", [1, 3, 5])
def test_activations_are_those_of_the_network(depth, precision, tmp_path):
    prefix = make("resnet18", depth, precision)
    entry = prepare_activations(ActivationStore(tmp_path, 1 << 30), prefix, np.arange(8))
    assert torch.equal(entry.read(np.arange(8)), plainly(prefix, np.arange(8)))


def test_only_what_is_missing_is_computed(tmp_path):
    prefix, store, told = make("small_cnn", 2), ActivationStore(tmp_path, 1 << 30), []
    prepare_activations(store, prefix, np.arange(10), lambda done, total: told.append(total))
    prepare_activations(store, prefix, np.arange(5, 13), lambda done, total: told.append(total))
    prepare_activations(store, prefix, np.arange(13), lambda done, total: told.append(total))
    assert told == [10, 10, 3]


def test_a_deeper_boundary_starts_from_the_shallower_one(tmp_path):
    store, rows = ActivationStore(tmp_path, 1 << 30), np.arange(16)
    prepare_activations(store, make("small_cnn", 3), rows)
    deep = make("small_cnn", 5)
    calls = []
    deep.backbone.stage(1).register_forward_hook(lambda *_: calls.append(1))
    entry = prepare_activations(store, deep, rows)
    assert len(calls) == 1  # the example that tells the shape
    assert torch.allclose(entry.read(rows), plainly(deep, rows), rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_is_left_to_the_plain_path(tmp_path):
    assert prepare_activations(ActivationStore(tmp_path, 1000), make("small_cnn", 1), np.arange(10)) is None


def test_a_folder_that_cannot_be_written_is_left_to_the_plain_path(tmp_path):
    (tmp_path / "activations").write_text("a file where the folder should be")
    store = ActivationStore(tmp_path / "activations", 1 << 30)
    assert prepare_activations(store, make("small_cnn", 1), np.arange(10)) is None


def test_damaged_activations_are_computed_again(tmp_path):
    import graft.reuse.store as room

    prefix, store, rows = make("small_cnn", 5), ActivationStore(tmp_path, 1 << 30), np.arange(10)
    entry = prepare_activations(store, prefix, rows)
    right = entry.read(rows).clone()
    with (entry.folder / "rows.bin").open("r+b") as file:
        file.write(b"\xff\xff\xff\xff")
    room._verified.clear()
    again = prepare_activations(store, prefix, rows)
    assert again.faults
    assert torch.equal(again.read(rows), right)


def test_a_smaller_type_is_a_choice(tmp_path):
    prefix = make("small_cnn", 5, dtype=torch.float16)
    entry = prepare_activations(ActivationStore(tmp_path, 1 << 30), prefix, np.arange(8))
    assert entry.read(np.arange(8)).dtype == torch.float16
    assert torch.equal(entry.read(np.arange(8)), plainly(prefix, np.arange(8)).half())


def test_rounded_activations_come_from_exact_ones_only(tmp_path):
    store, rows = ActivationStore(tmp_path, 1 << 30), np.arange(8)
    alone = prepare_activations(store, make("small_cnn", 5, dtype=torch.bfloat16), rows).read(rows).clone()
    shutil.rmtree(tmp_path)
    prepare_activations(store, make("small_cnn", 3, dtype=torch.bfloat16), rows)
    after_rounded = prepare_activations(store, make("small_cnn", 5, dtype=torch.bfloat16), rows)
    assert torch.equal(after_rounded.read(rows), alone)
    shutil.rmtree(tmp_path)
    exact = prepare_activations(store, make("small_cnn", 5), rows)
    prefix = make("small_cnn", 5, dtype=torch.bfloat16)
    after_exact = prepare_activations(store, prefix, rows)
    assert after_exact.folder != exact.folder
    assert torch.equal(after_exact.read(rows), alone)


def test_rounding_on_the_way_gives_what_the_store_gives(tmp_path):
    prefix, rows = make("small_cnn", 3, dtype=torch.bfloat16), np.arange(8)
    stored = prepare_activations(ActivationStore(tmp_path, 1 << 30), prefix, rows).read(rows)
    round_after(prefix.backbone, 3, torch.bfloat16)
    computed = plainly(prefix, rows)
    assert computed.dtype == torch.float32
    assert torch.equal(computed, stored.float())


def test_activations_too_large_for_half_precision_are_an_error_and_not_infinite():
    assert round_to(torch.tensor([65504.0, float("inf")]), torch.float16)[0] == 65504
    with pytest.raises(RunFailedError, match=r"at most 65,504 .* got 70,000. Use `reuse.dtype=bfloat16`"):
        round_to(torch.tensor([70_000.0]), torch.float16)
    assert round_to(torch.tensor([70_000.0]), torch.bfloat16).isfinite().all()


def test_stages_that_train_are_not_shared(tmp_path):
    prefix = make("resnet18", 3)
    prefix.backbone.frozen_depth = 2
    with pytest.raises(ValueError, match="expected 3 frozen stages to share, but only 2 are"):
        prepare_activations(ActivationStore(tmp_path, 1 << 30), prefix, np.arange(8))


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_disk_that_is_full_at_any_write_leaves_nothing_wrong(after, tmp_path, monkeypatch):
    import os

    import graft.reuse.prefix as prefix_room

    monkeypatch.setattr(prefix_room, "_COMMIT_BYTES", 1)  # a commit after each batch
    prefix, store, rows = make("small_cnn", 5), ActivationStore(tmp_path, 1 << 30), np.arange(20)
    sync, calls = os.fsync, []

    def fail(descriptor):
        calls.append(descriptor)
        if len(calls) > after:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    assert prepare_activations(store, prefix, rows) is None
    monkeypatch.setattr(os, "fsync", sync)
    entry = prepare_activations(store, prefix, rows)
    assert entry.faults == []
    assert torch.equal(entry.read(rows[:8]), plainly(prefix, rows[:8]))
