"""A replicate is named by its values, and read back from its name."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.plan.replicates import Replicate
from graft.plan.spec import Facts, specify

COUNT = st.integers(0, 2**32 - 1)
REPLICATES = st.builds(Replicate, COUNT) | st.builds(Replicate, COUNT, COUNT, COUNT)


@given(REPLICATES)
def test_text_is_read_back(replicate: Replicate) -> None:
    assert Replicate.parse(replicate.text) == replicate


def test_replicates_are_ordered_by_number_and_seed_first() -> None:
    ordered = [Replicate(2), Replicate(10), Replicate(10, 0, 2), Replicate(10, 0, 10), Replicate(10, 1, 0)]
    mixed = random.Random(0).sample(ordered, len(ordered))
    assert sorted(mixed) == ordered


@pytest.mark.parametrize("text", ["", "3", "seed=a", "seed=-1", "seed=0 fold=3", "fold=3 repeat=0 seed=0"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"a replicate like 'seed=0' or .* but got"):
        Replicate.parse(text)


@pytest.mark.parametrize(
    ("changes", "split", "expected", "folds"),
    [
        ({"seed": 3}, None, Replicate(3), None),
        ({"seed": 3, "data.folds": 5, "data.fold": 4}, None, Replicate(3, 0, 4), 5),
        ({"data.folds": 5, "data.fold": 1, "data.fold_repeat": 2}, None, Replicate(0, 2, 1), 5),
        ({"data.folds": 5, "data.fold": 4}, "a" * 64, Replicate(0), None),  # a replayed split reads no folds
    ],
)
def test_a_planned_run_knows_its_replicate(build_config, changes, split, expected, folds) -> None:
    facts = Facts("d", (), None, "none", {"size": 16}, "32", split_sha256=split)
    spec = specify(build_config({"transfer.method": "from_scratch"} | changes), facts)
    assert (spec.replicate, spec.folds) == (expected, folds)
