"""A run on shared activations is the run that computes everything by itself, in weights and in numbers."""

from __future__ import annotations

import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from graft.config.load import to_config
from graft.inputs import gather_inputs
from graft.plan.spec import specify
from graft.reuse import share as room
from graft.reuse.entries import count_rows, list_entries
from graft.run import execute, gather_facts
from graft.track.reader import read_run
from graft.track.store import open_store

FAMILIES = ("resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5", "efficientnet_b0")

#: A small member of every other family, small images that it takes, and a depth with something behind it.
OTHERS = {
    "alexnet": (63, 4), "convnext_tiny": (32, 3), "densenet121": (32, 3), "googlenet": (32, 3),
    "mnasnet0_5": (32, 3), "regnet_x_400mf": (32, 3), "swin_t": (32, 3), "vgg11": (32, 4),
    "vit_b_32": (64, 3), "cnn2": (8, 1), "row_rnn": (8, 1), "row_lstm": (8, 1), "row_gru": (8, 1),
}  # fmt: skip


def describe(root, *, reuse=True, depth=5, backbone="small_cnn", size=16, method="random_features", **more):
    tree = {
        "data": {"name": "digits", "labels_per_class": 3, "image_size": size, "test_size": 100},
        "backbone": {"name": backbone, "weights": "none"},
        "transfer": {"method": method, "freeze_depth": depth},
        "trainer": {"min_steps": 8, "epochs": 1, "max_validations": 2, "accelerator": "cpu"},
        "checkpoint": {"keep": "all"},
        "reuse": reuse if isinstance(reuse, dict) else {"enabled": reuse},
        "paths": {"root": str(root)},
    }
    for section, values in more.items():
        tree[section] = tree.get(section, {}) | values if isinstance(values, dict) else values
    config = to_config(tree)
    return specify(config, gather_facts(config))


def run(root, **options):
    spec, ids = describe(root, **options), []
    execute(spec, on_start=ids.append)
    record = read_run(open_store(None, root), ids[0])
    return spec, load_file(root / "checkpoints" / spec.key / "weights.safetensors"), record


#: Measures of the order of scores.
ORDER = ("/auroc", "/average_precision")


def compare(plain, shared, exactly=True):
    (spec, weights, record), (other, others, read) = plain, shared
    assert spec.key == other.key
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        if exactly:
            assert torch.equal(value, others[name]), name
        else:
            torch.testing.assert_close(value, others[name], rtol=1e-3, atol=1e-4)
    times = ("train_seconds", "amortised_seconds", "run_seconds")
    for name, number in record.metrics.items():
        # A deep network as drawn gives all images nearly the same scores: last digits decide their order.
        if name not in times and (exactly or not name.endswith(ORDER)):
            assert read.metrics[name] == pytest.approx(number, rel=1e-9 if exactly else 1e-2, abs=1e-6), name
    assert record.notes["path"] == "plain: reuse=off"
    assert read.notes["path"].startswith("shared: ")


CASES = [
    {"depth": 3, "optim": {"name": "sgd", "momentum": 0.9}},
    {"depth": 5, "head": {"name": "mlp", "dropout": 0.5}},
    {"depth": 2, "trainer": {"precision": "bf16-mixed"}},
    {"depth": 4, "augment": {"name": "flip_crop", "views": 2}},
]
MORE = [
    {"depth": 1},
    {"depth": 5},
    {"depth": 5, "trainer": {"precision": "bf16-mixed"}},
    {"depth": 5, "data": {"balance": "sampler"}},
    {"depth": 3, "trainer": {"accumulate": 2}},
]


@pytest.mark.parametrize(
    "case", [*CASES, *(pytest.param(case, marks=pytest.mark.full) for case in MORE)], ids=str
)
def test_the_shared_path_gives_the_plain_path_to_the_bit(case, tmp_path):
    sections = {
        name: ({"min_steps": 8, "epochs": 1, "max_validations": 2, "accelerator": "cpu"} | value)
        if name == "trainer"
        else ({"name": "digits", "labels_per_class": 3, "image_size": 16, "test_size": 100} | value)
        if name == "data"
        else value
        for name, value in case.items()
        if name != "depth"
    }
    options = sections | {"depth": case["depth"]}
    compare(run(tmp_path / "a", reuse=False, **options), run(tmp_path / "b", **options))


@pytest.mark.full
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("backbone", FAMILIES)
def test_it_does_so_for_every_family_and_depth(backbone, depth, tmp_path):
    options = {"backbone": backbone, "depth": depth, "size": 64}
    compare(run(tmp_path / "a", reuse=False, **options), run(tmp_path / "b", **options), exactly=False)


@pytest.mark.full
@pytest.mark.parametrize("backbone", OTHERS)
def test_it_does_so_for_a_member_of_every_other_family(backbone, tmp_path):
    size, depth = OTHERS[backbone]
    trainer = {"min_steps": 4, "epochs": 1, "max_validations": 2, "accelerator": "cpu"}
    data = {"name": "digits", "labels_per_class": 2, "image_size": size, "test_size": 40}
    options = {"backbone": backbone, "depth": depth, "trainer": trainer, "data": data}
    compare(run(tmp_path / "a", reuse=False, **options), run(tmp_path / "b", **options), exactly=False)


def test_a_second_run_computes_nothing_and_gives_the_same(tmp_path):
    first = run(tmp_path)
    entries = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("rows.bin")}
    shutil.rmtree(tmp_path / "checkpoints")
    again = run(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("rows.bin")} == entries
    for name, value in first[1].items():
        assert torch.equal(value, again[1][name])


def test_damaged_activations_are_computed_again_and_said(tmp_path, monkeypatch):
    first = run(tmp_path)
    (rows,) = (tmp_path / "cache" / "activations").rglob("rows.bin")
    journal = (rows.parent / "journal.jsonl").read_text().split("\n")[1]
    with rows.open("r+b") as file:  # images that nobody asked for are holes, and cannot be damaged
        file.seek(json.loads(journal)["rows"][0][0] * rows.stat().st_size // 1797)
        file.write(b"\xff" * 64)
    monkeypatch.setattr("graft.reuse.store._verified", set())
    again = run(tmp_path)
    assert "Damaged, and computed again: " in again[2].notes["notes"]
    assert all(torch.equal(value, again[1][name]) for name, value in first[1].items())


def test_the_quickest_of_several_passes_is_what_the_frozen_stages_take(monkeypatch):
    """One slow pass, as on a busy machine, changes nothing; a slow network is not timed again and again."""
    monkeypatch.setattr(room, "_speeds", {})
    now = [0.0]
    monkeypatch.setattr(room, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    class Timed:
        batch_size, device, backbone = 10, torch.device("cpu"), torch.nn.Identity()

        def __init__(self, *took):
            self.took = list(took)

        def compute(self, rows):
            now[0] += self.took.pop(0)

    quick = Timed(0.5, 0.3, 0.1, 0.2)
    assert room._measure(quick, "quick", np.arange(20)) == pytest.approx(0.01)
    assert quick.took == []
    assert room._measure(quick, "quick", np.arange(20)) == pytest.approx(0.01), "measured once"
    slow = Timed(9.0, 8.0, 1.0)
    assert room._measure(slow, "slow", np.arange(20)) == pytest.approx(0.8)
    assert slow.took == [1.0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param(
            {"reuse": {"disk_gb": 0.0}},
            "plain: `reuse.disk_gb=0` keeps no activations",
            marks=pytest.mark.full,
        ),
        ({"reuse": {"disk_gb": 1e-6}}, "plain: the activations do not fit under `reuse.disk_gb`"),
        ({"method": "from_scratch", "depth": 0}, "plain: all stages train"),
        ({"augment": {"name": "flip_crop"}}, "`augment.views=4`"),
        pytest.param({"reuse": False}, "plain: reuse=off", marks=pytest.mark.full),
    ],
)
def test_the_record_says_which_path_a_run_took(options, words, tmp_path):
    assert words in run(tmp_path, **options)[2].notes["path"]


@pytest.mark.parametrize(
    ("depth", "dtype"), [(2, "bfloat16"), pytest.param(5, "float16", marks=pytest.mark.full)]
)
def test_rounded_activations_give_the_same_with_room_for_them_and_without(depth, dtype, tmp_path):
    exact = run(tmp_path, depth=depth)
    kept = run(tmp_path, depth=depth, reuse={"dtype": dtype})
    full = run(tmp_path / "full", depth=depth, reuse={"dtype": dtype, "disk_gb": 1e-6})
    assert full[2].notes["path"].startswith("plain: ")
    assert full[0].key == kept[0].key != exact[0].key
    assert all(torch.equal(value, kept[1][name]) for name, value in full[1].items())
    assert kept[2].notes["path"].startswith("shared: ")
    assert any(not torch.equal(value, kept[1][name]) for name, value in exact[1].items())
    assert f"What leaves the frozen stages is rounded to {dtype}" in kept[2].notes["notes"]
    assert f"activations={dtype}" in kept[2].trial


def test_views_of_one_run_do_not_drive_each_other_out(tmp_path):
    """Each by itself would fit; together they do not, and the budget holds."""
    root = tmp_path / "tight" / "cache" / "activations"

    def gather(folder, disk_gb):
        options = {"depth": 1, "augment": {"name": "flip_crop", "views": 3}, "reuse": {"disk_gb": disk_gb}}
        return gather_inputs(describe(folder, **options)).about["path"]

    assert gather(tmp_path, 1.0).startswith("shared: ")
    whole = list_entries(tmp_path / "cache" / "activations")
    rows = [count_rows(tmp_path / "cache" / "activations" / entry.digest) for entry in whole]
    content = sum(rows) * 4 * math.prod(whole[0].about["shape"])
    assert "plain: the activations do not fit" in gather(tmp_path / "tight", (content - 1) / 1e9)
    assert list_entries(root) == [], "nothing is computed for nothing"
    assert "plain: the activations do not fit" in gather(tmp_path / "tight", (content + 1) / 1e9)
    kept = list_entries(root)  # what describes them takes room, too
    assert sum(entry.disk_bytes for entry in kept) <= content + 1
    assert sum(entry.filled for entry in kept) == len(whole) - 1


def test_a_cache_that_cannot_be_written_takes_the_plain_path_and_says_so(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "activations").write_text("a file where the folder should be")
    read = run(tmp_path)[2]
    assert "or cannot be written" in read.notes["path"]


@pytest.mark.full
def test_channels_last_gives_the_plain_path_too(tmp_path):
    options = {"depth": 3, "backbone": "resnet18", "size": 32, "trainer": {
        "min_steps": 4, "epochs": 1, "max_validations": 1, "accelerator": "cpu", "channels_last": True,
    }}  # fmt: skip
    plain, shared = run(tmp_path / "a", reuse=False, **options), run(tmp_path / "b", **options)
    compare(plain, shared, exactly=False)
    (entry,) = list_entries(tmp_path / "b" / "cache" / "activations")
    assert entry.about["name"]["precision"] == "32+channels_last"


@pytest.mark.full
def test_a_compiled_network_gives_the_same_but_for_last_digits(tmp_path):
    trainer = {"min_steps": 4, "epochs": 1, "max_validations": 1, "accelerator": "cpu"}
    # Adam makes a whole step of a gradient that is nothing but its last digits.
    optim = {"name": "sgd", "lr": 0.05, "momentum": 0.9}
    plain, compiled = (
        run(tmp_path, depth=3, optim=optim, trainer=trainer | {"compile": value}) for value in (False, True)
    )
    assert plain[0].key != compiled[0].key
    assert plain[1].keys() == compiled[1].keys()
    for name, value in plain[1].items():
        torch.testing.assert_close(value, compiled[1][name], rtol=1e-3, atol=1e-4)
