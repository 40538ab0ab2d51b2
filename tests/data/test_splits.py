from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.data.counts import allocate
from graft.data.image_set import NO_SPLIT, TEST, TRAIN, VAL
from graft.data.splits import Split, make_split
from graft.errors import GraftError

NAMES = ["ant", "bee", "cat", "dog", "elk", "fox"]


def split(labels: Any, official: Any = None, **changes: Any) -> Split:
    choices: dict[str, Any] = {
        "split_seed": 0,
        "seed": 0,
        "test_size": 0.2,
        "val_size": 0.2,
        "labels_per_class": None,
        "val_labels_per_class": None,
        "class_names": NAMES[: int(np.max(labels)) + 1],
    }
    return make_split(np.asarray(labels, dtype=np.int64), official, **{**choices, **changes})


def labels_of(counts: list[int], seed: int = 0) -> Any:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


counts_strategy = st.lists(st.integers(12, 60), min_size=2, max_size=6)
seeds = st.integers(0, 2**31)


@given(counts_strategy, seeds, seeds, st.floats(0.05, 0.4), st.floats(0.05, 0.4))
@settings(max_examples=60, deadline=None)
def test_parts_are_a_partition_of_all_images(counts, split_seed, seed, test_size, val_size) -> None:
    labels = labels_of(counts)
    made = split(labels, split_seed=split_seed, seed=seed, test_size=test_size, val_size=val_size)
    train, val, test = (set(part.tolist()) for part in (made.train, made.val, made.test))
    assert train | val | test == set(range(len(labels)))
    assert len(train) + len(val) + len(test) == len(labels)
    assert len(test) == round(test_size * len(labels))
    assert len(val) == round(val_size * (len(labels) - len(test)))
    for part in (made.train, made.val, made.test):
        assert part.dtype == np.int64
        assert np.array_equal(part, np.sort(part))
    # Largest remainders stay within one image of the exact share.
    per_class = np.bincount(labels[made.test], minlength=len(counts))
    assert np.all(np.abs(per_class - len(test) * np.array(counts) / len(labels)) < 1)


@given(counts_strategy, seeds, st.integers(1, 4), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_shots_are_exact_nested_and_apart_from_validation(counts, seed, shots, more) -> None:
    labels = labels_of(counts)
    small = split(labels, seed=seed, labels_per_class=shots)
    large = split(labels, seed=seed, labels_per_class=shots + more)
    whole = split(labels, seed=seed)
    assert np.all(np.bincount(labels[small.train], minlength=len(counts)) == shots)
    assert set(small.train) <= set(large.train)
    assert set(small.val) <= set(large.val)
    assert not set(large.train) & set(large.val)
    assert not (set(large.train) | set(large.val)) & set(large.test)
    assert np.array_equal(small.test, whole.test)


def test_the_seed_draws_labels_and_the_split_seed_draws_test() -> None:
    labels = labels_of([40, 40, 40])
    base = split(labels, labels_per_class=5)
    other_seed = split(labels, labels_per_class=5, seed=1)
    other_split = split(labels, labels_per_class=5, split_seed=1)
    assert np.array_equal(base.test, other_seed.test)
    assert not np.array_equal(base.train, other_seed.train)
    assert not np.array_equal(base.test, other_split.test)
    assert split(labels, labels_per_class=5).digest == base.digest
    assert len({base.digest, other_seed.digest, other_split.digest}) == 3


@pytest.mark.parametrize(("shots", "val_per_class"), [(1, 1), (2, 1), (5, 1), (10, 2), (20, 5)])
def test_validation_shrinks_in_proportion(shots: int, val_per_class: int) -> None:
    labels = labels_of([100, 100])
    made = split(labels, labels_per_class=shots)
    assert np.bincount(labels[made.val]).tolist() == [val_per_class] * 2


def test_validation_labels_are_exact_when_asked_for() -> None:
    labels = labels_of([30, 40])
    assert np.bincount(labels[split(labels, labels_per_class=5, val_labels_per_class=7).val]).tolist() == [
        7,
        7,
    ]
    made = split(labels, val_labels_per_class=7)
    assert len(made.train) + len(made.val) + len(made.test) == 70
    assert np.bincount(labels[made.val]).tolist() == [7, 7]


def test_official_splits_are_kept() -> None:
    labels = np.array([0, 1] * 50)
    official = np.repeat(np.array([TRAIN, VAL, TEST, NO_SPLIT], dtype=np.int8), [40, 30, 20, 10])
    made = split(labels, official)
    assert made.train.tolist() == list(range(40))
    assert made.val.tolist() == list(range(40, 70))
    assert made.test.tolist() == list(range(70, 90))


@given(seeds, st.integers(1, 19), st.integers(0, 1))
@settings(max_examples=30, deadline=None)
def test_shots_draw_validation_from_the_official_set(seed: int, shots: int, more: int) -> None:
    labels = np.array([0, 1] * 50)
    official = np.repeat(np.array([TRAIN, VAL, TEST], dtype=np.int8), [40, 40, 20])
    small = split(labels, official, seed=seed, labels_per_class=shots)
    large = split(labels, official, seed=seed, labels_per_class=shots + more)
    assert set(small.train) <= set(large.train) <= set(range(40))
    assert set(small.val) <= set(large.val) <= set(range(40, 80))
    # As many validation as training images in the full sets, so in the small ones too.
    assert np.bincount(labels[small.val]).tolist() == [shots, shots]


def test_a_missing_official_set_is_carved_from_training() -> None:
    labels = np.array([0, 1] * 50)
    only_test = np.repeat(np.array([TRAIN, TEST], dtype=np.int8), [80, 20])
    made = split(labels, only_test)
    assert made.test.tolist() == list(range(80, 100))
    assert len(made.val) == 16
    only_val = np.repeat(np.array([TRAIN, VAL], dtype=np.int8), [80, 20])
    made = split(labels, only_val, test_size=10)
    assert made.val.tolist() == list(range(80, 100))
    assert len(made.test) == 10


@given(counts_strategy, st.floats(0, 1))
@settings(deadline=None)
def test_allocation_is_exact_and_leaves_an_image(counts: list[int], fraction: float) -> None:
    total = int(fraction * (sum(counts) - len(counts)))
    shares = allocate(total, counts, "data.test_size")
    assert sum(shares) == total
    assert all(0 <= share < count for share, count in zip(shares, counts, strict=True))


@pytest.mark.parametrize(
    ("counts", "changes", "words"),
    [
        (
            [20, 10],
            {"labels_per_class": 9},
            ["`data.labels_per_class`", "at most 6", "'bee'", "has 8", "9 to train"],
        ),
        ([20, 10], {"labels_per_class": 7, "val_labels_per_class": 2}, ["at most 6", "+ 2 to validate"]),
        ([20, 10], {"labels_per_class": 1, "val_labels_per_class": 8}, ["no number works"]),
        (
            [20, 10],
            {"val_labels_per_class": 8},
            ["`data.val_labels_per_class`", "at most 7", "'bee'", "one must train"],
        ),
        ([20, 10], {"test_size": 30}, ["`data.test_size`", "fewer than the 30", "got 30"]),
        ([20, 10], {"test_size": 29}, ["`data.test_size`", "at most 28", "got 29"]),
        ([20, 10], {"val_size": 24}, ["`data.val_size`", "fewer than the 24"]),
        ([20, 10], {"val_size": 0.0}, ["`data.val_size`", "validation chooses"]),
        ([20, 10], {"val_size": 2.5}, ["`data.val_size`", "fraction below 1 or a whole number", "2.5"]),
        ([20, 10], {"test_size": float("nan")}, ["`data.test_size`", "nan"]),
        ([20, 10], {"test_size": -0.1}, ["`data.test_size`", "-0.1"]),
    ],
)
def test_sizes_that_do_not_fit(counts: list[int], changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(GraftError) as caught:
        split(labels_of(counts), **changes)
    for word in words:
        assert word in str(caught.value)


def test_the_largest_number_that_is_named_works() -> None:
    labels = labels_of([20, 10])
    assert np.bincount(labels[split(labels, labels_per_class=6).train]).tolist() == [6, 6]


def test_a_class_with_no_image_is_named() -> None:
    with pytest.raises(GraftError, match="class 'cat' has none"):
        split([0, 1] * 10, class_names=NAMES[:3])


def test_too_many_official_validation_labels() -> None:
    official = np.repeat(np.array([TRAIN, VAL, TEST], dtype=np.int8), [40, 20, 20])
    with pytest.raises(GraftError, match="at most 10, but got 11"):
        split([0, 1] * 40, official, labels_per_class=2, val_labels_per_class=11)
    with pytest.raises(GraftError, match=r"`data.labels_per_class` to be at most 20, but got 21"):
        split([0, 1] * 40, official, labels_per_class=21)
