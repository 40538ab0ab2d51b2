"""What stored activations are named after."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch

from graft.plan.groups import SharedPrefix
from graft.reuse.entries import STORE_VERSION, EntryName
from graft.reuse.share import name_entries

SHARED = SharedPrefix("d", json.dumps({"size": 16}), "small_cnn", "a" * 64, "32")


def test_another_kind_of_device_or_version_of_torch_fills_another_entry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = name_entries(SHARED, torch.device("cpu"))(5)
    assert here == name_entries(SHARED, torch.device("cpu"))(5)
    assert here.digest != name_entries(SHARED, torch.device("cuda", 0))(5).digest
    assert name_entries(SHARED, torch.device("cuda", 0))(5) == name_entries(SHARED, torch.device("cuda", 1))(
        5
    )
    monkeypatch.setattr(torch, "__version__", "1.0")
    assert here.digest != name_entries(SHARED, torch.device("cpu"))(5).digest


def test_an_entry_that_does_not_say_who_computed_it_keeps_its_name() -> None:
    name = EntryName("d", {"size": 16}, "small_cnn", "w", "5", "32")
    said = {
        "data": "d", "preprocessing": {"size": 16}, "backbone": "small_cnn", "weights": "w", "boundary": "5",
        "precision": "32", "view": None,
    }  # fmt: skip
    text = json.dumps([STORE_VERSION, said], sort_keys=True)
    assert name.digest == hashlib.sha256(text.encode()).hexdigest()[:40]
