"""The frozen prefix, computed once: the same numbers as the network gives by itself."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from graft.data.preprocessing import Preprocessing
from graft.data.transforms import normalise
from graft.errors import RunFailedError
from graft.model.backbone import build_backbone, build_network
from graft.reuse.entries import EntryName, read_journal
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


def test_what_is_computed_when_the_work_is_stopped_is_kept(tmp_path):
    prefix, store, rows = make("small_cnn", 5), ActivationStore(tmp_path, 1 << 30), np.arange(20)

    def stop(done, total):
        if done >= 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_activations(store, prefix, rows, stop)
    entry = store.find(prefix.kept_name)
    assert entry.missing(rows).tolist() == [16, 17, 18, 19]
    assert torch.equal(entry.read(rows[:8]), plainly(prefix, rows[:8]))


def test_what_takes_long_is_committed_on_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr("graft.reuse.prefix._COMMIT_SECONDS", 0.0)
    entry = prepare_activations(ActivationStore(tmp_path, 1 << 30), make("small_cnn", 5), np.arange(20))
    assert [spans for _, spans, _ in read_journal(entry.folder)] == [[(0, 8)], [(8, 16)], [(16, 20)]]


def test_an_entry_that_alone_stands_in_the_way_is_started_anew(tmp_path):
    prefix = make("small_cnn", 1)  # 32 KB an image
    whole = prepare_activations(ActivationStore(tmp_path, 1 << 30), prefix, np.arange(12))
    room = ActivationStore(tmp_path, 14 * whole.row_bytes)
    assert len(whole.missing(np.arange(12))) == 0
    other = prepare_activations(room, prefix, np.arange(8, 20))
    assert len(other.missing(np.arange(8, 20))) == 0
    assert len(other.missing(np.arange(8))) == 8
    assert prepare_activations(room, prefix, np.arange(20)) is None
    assert len(room.find(prefix.kept_name).missing(np.arange(8, 20))) == 0, (
        "for nothing is nothing thrown away"
    )


def test_what_is_whole_is_opened_while_another_process_holds_it(tmp_path):
    prefix, store, rows = make("small_cnn", 5), ActivationStore(tmp_path, 1 << 30), np.arange(8)
    prepare_activations(store, prefix, rows)

    def look(done, total):
        raise AssertionError("it waits")

    with hold_elsewhere(store, prefix.kept_name):
        assert prepare_activations(store, prefix, rows, look) is not None


@contextlib.contextmanager
def hold_elsewhere(store, name):
    """Let another process hold an entry."""
    hold = (
        "import sys, filelock; (lock := filelock.FileLock(sys.argv[1])).acquire(); print(flush=True); input()"
    )
    command = [sys.executable, "-c", hold, str(store.root / f"{name.digest}.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        yield
        other.communicate(b"\n")


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
