from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from graft.data.preprocessing import Preprocessing
from graft.errors import GraftError

IMAGENET = Preprocessing(3, 224, 256, "bilinear", True, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_survives_json() -> None:
    assert Preprocessing.from_dict(json.loads(json.dumps(IMAGENET.to_dict()))) == IMAGENET


def test_override_keeps_the_crop() -> None:
    changed = IMAGENET.override(image_size=64, mean=[0.5, 0.5, 0.5])
    assert changed == replace(IMAGENET, size=64, resize=73, mean=(0.5, 0.5, 0.5))
    assert IMAGENET.override() == IMAGENET
    assert replace(IMAGENET, resize=None).override(image_size=32).resize is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channels": 2}, ["`channels`", "1 or 3", "2"]),
        ({"size": 0}, ["`size`", "from 1 to 4096 px", "0"]),
        ({"size": True}, ["`size`", "True"]),
        ({"resize": 100}, ["`resize`", "at least its `size` (224 px)", "100 px"]),
        ({"interpolation": "bilinaer"}, ["`interpolation`", "Did you mean 'bilinear'?"]),
        ({"antialias": "yes"}, ["`antialias`", "'yes'"]),
        ({"mean": [0.5]}, ["`mean` to have 3 values", "got 1"]),
        ({"mean": "0.5"}, ["`mean`", "list of numbers"]),
        ({"mean": [0.5, 0.5, None]}, ["`mean`", "list of numbers"]),
        ({"std": [0.5, 0.0, 0.5]}, ["`std`", "above 0"]),
        ({"std": [0.5, float("nan"), 0.5]}, ["`std`", "finite"]),
        ({"colour": 1}, ["unknown: colour"]),
    ],
)
def test_bad_values_are_named(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(GraftError) as caught:
        Preprocessing.from_dict({**IMAGENET.to_dict(), **changes})
    for word in words:
        assert word in str(caught.value)


def test_a_missing_key_is_named() -> None:
    values = IMAGENET.to_dict()
    del values["std"]
    with pytest.raises(GraftError, match="missing: std"):
        Preprocessing.from_dict(values)


def test_override_refuses_what_does_not_fit() -> None:
    with pytest.raises(GraftError, match="`image_size`"):
        IMAGENET.override(image_size=-1)
    with pytest.raises(GraftError, match="`mean` to have 3 values"):
        IMAGENET.override(mean=[0.5])
    with pytest.raises(GraftError, match="`std` to be above 0"):
        IMAGENET.override(std=[0.0, 0.1, 0.1])
