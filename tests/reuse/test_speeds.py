"""What is measured for the plan: sizes as they are kept, and a disk that is read from, not its memory."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

import graft.reuse.speeds as room
from graft.data.preprocessing import Preprocessing
from graft.model.backbone import build_backbone, build_network
from graft.reuse.entries import EntryName
from graft.reuse.prefix import Prefix
from graft.reuse.speeds import measure_chain, measure_reading

PREPROCESSING = {
    "channels": 1, "size": 16, "resize": None, "interpolation": "bilinear", "antialias": True,
    "mean": [0.3], "std": [0.7],
}  # fmt: skip


@pytest.fixture
def prefix() -> Prefix:
    """All five stages of a small network."""
    network = build_network("small_cnn", num_classes=3, image_size=16, channels=1)
    backbone = build_backbone(network, "small_cnn", 16, 1)
    backbone.frozen_depth = 5
    return Prefix(
        backbone,
        5,
        lambda stage: EntryName("d", {}, "small_cnn", "w", str(stage), "32"),
        np.zeros((4, 1, 16, 16), dtype=np.uint8),
        Preprocessing.from_dict(PREPROCESSING),
        "32",
        4,
        torch.device("cpu"),
    )


@pytest.mark.parametrize(("dtype", "each"), [(None, 4), (torch.float16, 2), (torch.bfloat16, 2)])
def test_sizes_are_those_of_what_is_kept(dtype, each, prefix, tmp_path):
    prefix = replace(prefix, dtype=dtype)
    chain = measure_chain(tmp_path / "measured", "small_cnn", prefix)
    example = prefix.compute(np.array([0]))
    assert chain.sizes[-1] == example.numel() * each
    assert chain.exact is (dtype is None)
    assert len(chain.seconds) == 5
    assert 0 < chain.bytes_per_second <= chain.held_bytes_per_second
    assert chain.held_bytes > 0


def test_a_machine_is_measured_once(prefix, tmp_path, monkeypatch):
    first = measure_chain(tmp_path, "small_cnn", prefix)

    def never(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(room, "_measure", never)
    monkeypatch.setattr(room, "measure_reading", never)
    again = measure_chain(tmp_path, "small_cnn", replace(prefix, dtype=torch.float16))
    assert again.seconds == first.seconds
    assert [2 * size for size in again.sizes] == list(first.sizes)
    assert again.bytes_per_second == first.bytes_per_second


def test_the_probe_is_on_disk_and_forgotten_before_it_is_read(tmp_path, monkeypatch):
    if not hasattr(os, "posix_fadvise"):
        pytest.skip("this system has no posix_fadvise")
    told, sync, advise = [], os.fsync, os.posix_fadvise
    monkeypatch.setattr(os, "fsync", lambda file: (told.append("safe"), sync(file)))
    monkeypatch.setattr(os, "posix_fadvise", lambda *how: (told.append(how[-1]), advise(*how)))
    measure_reading(tmp_path)
    assert told == ["safe", os.POSIX_FADV_DONTNEED]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["no folder", "no advice", "refused", "slow"])
def test_what_a_system_cannot_do_costs_nothing_but_honesty(fault, tmp_path, monkeypatch):
    folder = tmp_path / "measured"
    if fault == "no folder":
        folder.write_text("a file where the folder should be")
    if fault == "no advice":
        monkeypatch.delattr(os, "posix_fadvise", raising=False)
    if fault == "refused":
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(22, "Invalid argument")))
    if fault == "slow":
        monkeypatch.setattr(room, "_READ_SECONDS", 0)
    found = measure_reading(folder)
    assert 0 < found["disk"] <= found["memory"]
