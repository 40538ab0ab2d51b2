"""Groups, folds and label fractions against set algebra."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from graft.data.folds import assign_folds
from graft.data.groups import assign_groups
from graft.data.image_set import NO_SPLIT, TEST, TRAIN, VAL
from graft.data.splits import Split, make_split
from graft.errors import GraftError

NAMES = ["ant", "bee", "cat", "dog", "elk"]
SEEDS = st.integers(0, 2**31)


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
    return make_split(np.asarray(labels, dtype=np.int64), official, **(choices | changes))


@st.composite
def grouped(draw: Any) -> tuple[Any, Any]:
    """Draw labels and groups: many small groups of any classes, and each class in groups of its own, too."""
    classes = draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(SEEDS))
    labels = [np.repeat(np.arange(classes), 12)]
    groups = [np.arange(12 * classes) // draw(st.integers(1, 2))]
    sizes = draw(st.lists(st.integers(1, 5), max_size=12))
    labels += [rng.integers(0, classes, size) for size in sizes]
    groups += [np.full(size, 10_000 + number) for number, size in enumerate(sizes)]
    order = rng.permutation(sum(map(len, labels)))
    return np.concatenate(labels)[order], np.concatenate(groups)[order]


def parts_of(made: Split) -> list[Any]:
    return [made.train, made.val, made.test]


def groups_of(made: Split, groups: Any) -> list[set[Any]]:
    return [set(groups[part].tolist()) for part in parts_of(made)]


def disjoint(sets: list[set[Any]]) -> bool:
    return sum(map(len, sets)) == len(set.union(*sets))


@given(grouped(), SEEDS, SEEDS)
def test_no_group_is_in_two_parts_and_no_image_is_lost(drawn, split_seed, seed) -> None:
    labels, groups = drawn
    made = split(labels, groups=groups, split_seed=split_seed, seed=seed)
    assert disjoint(groups_of(made, groups))
    assert disjoint([set(part.tolist()) for part in parts_of(made)])
    assert sum(map(len, parts_of(made))) == len(labels)
    assert set(labels[made.train]) == set(labels)
    # As near as the largest group allows.
    largest = np.unique(groups, return_counts=True)[1].max()
    assert abs(len(made.test) - 0.2 * len(labels)) <= largest
    assert split(labels, groups=groups, split_seed=split_seed, seed=seed).digest == made.digest


@given(grouped(), SEEDS, st.integers(1, 3), st.integers(0, 2))
def test_shots_nest_within_groups(drawn, seed, shots, more) -> None:
    labels, groups = drawn
    small = split(labels, groups=groups, seed=seed, labels_per_class=shots)
    large = split(labels, groups=groups, seed=seed, labels_per_class=shots + more)
    assert np.all(np.bincount(labels[small.train]) == shots)
    assert set(small.train) <= set(large.train)
    assert set(small.val) <= set(large.val)
    assert np.array_equal(small.test, large.test)
    assert disjoint(groups_of(large, groups))


@given(st.lists(st.integers(0, 4), min_size=30, max_size=80), SEEDS)
def test_groups_of_one_image_are_as_good_as_none(labels, seed) -> None:
    found = np.asarray(labels)
    assume(np.bincount(found, minlength=5).min() >= 4)
    made = split(found, groups=np.arange(len(found)), seed=seed)
    assert abs(len(made.test) - 0.2 * len(found)) <= 2
    assert abs(len(made.val) - 0.2 * (len(found) - len(made.test))) <= 2


def test_stratified_as_well_as_the_groups_allow() -> None:
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 5, 2000), rng.integers(0, 200, 2000)
    bins = assign_groups(labels, groups, np.arange(2000), (0.7, 0.3), rng)
    for label in range(5):
        assert np.mean(bins[labels == label] == 1) == pytest.approx(0.3, abs=0.02)


def test_official_splits_are_kept_and_only_the_missing_one_is_carved() -> None:
    labels, groups = np.array([0, 1] * 30), np.repeat(np.arange(20), 3)
    official = np.repeat(np.array([TRAIN, TEST], dtype=np.int8), [45, 15])
    made = split(labels, official, groups=groups)
    assert made.test.tolist() == list(range(45, 60))
    assert disjoint(groups_of(made, groups))
    assert len(made.val) > 0


def test_an_official_split_that_divides_a_group() -> None:
    official = np.repeat(np.array([TRAIN, VAL, TEST], dtype=np.int8), [10, 5, 5])
    groups = np.array([f"patient {n // 4}" for n in range(20)])
    with pytest.raises(GraftError, match=r"group 'patient 2' is in train and val, and so are 1 other groups"):
        split([0, 1] * 10, official, groups=groups)


def test_a_group_so_large_that_a_split_becomes_empty() -> None:
    labels = [0, 1] * 20
    with pytest.raises(GraftError, match=r"`data.test_size` can carve about 8 of 40.*'big', holds 40 images"):
        split(labels, groups=np.full(40, "big"))
    one_each = np.array(["big"] * 30 + ["small"] * 10)
    with pytest.raises(
        GraftError, match=r"`data.val_size` can carve.*'big', holds 30 images.*smaller groups"
    ):
        split(labels, groups=one_each)


# Folds


@given(st.lists(st.integers(3, 30), min_size=2, max_size=5), st.integers(2, 3), SEEDS)
def test_folds_are_a_partition_and_even(counts, folds, seed) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    assigned = assign_folds(labels, None, np.arange(len(labels)), folds, (seed,), NAMES[: len(counts)])
    sizes = np.bincount(assigned, minlength=folds)
    assert sizes.sum() == len(labels)
    assert np.ptp(sizes) <= 1
    for label in range(len(counts)):
        assert np.ptp(np.bincount(assigned[labels == label], minlength=folds)) <= 1


@given(grouped(), st.integers(2, 5), SEEDS, st.booleans())
def test_every_image_is_held_out_exactly_once(drawn, folds, seed, by_group) -> None:
    labels, groups = drawn
    made = [
        split(labels, folds=folds, fold=fold, split_seed=seed, groups=groups if by_group else None)
        for fold in range(folds)
    ]
    held = np.concatenate([one.test for one in made])
    assert np.array_equal(np.sort(held), np.arange(len(labels)))
    for one in made:
        assert sum(map(len, parts_of(one))) == len(labels)
        assert set(labels[one.train]) == set(labels)
        assert len(one.val) > 0
        if by_group:
            assert disjoint(groups_of(one, groups))


def test_repeats_and_seeds_draw_other_folds_and_the_seed_does_not() -> None:
    labels = np.array([0, 1] * 30)
    base = split(labels, folds=5)
    for changes in ({"fold_repeat": 1}, {"split_seed": 1}, {"fold": 1}):
        assert not np.array_equal(split(labels, folds=5, **changes).test, base.test), changes
    other = split(labels, folds=5, seed=1)
    assert np.array_equal(other.test, base.test)
    assert not np.array_equal(other.val, base.val)


def test_an_official_test_set_stays_untouched() -> None:
    labels = np.array([0, 1] * 50)
    official = np.repeat(np.array([TRAIN, VAL, TEST, NO_SPLIT], dtype=np.int8), [50, 20, 20, 10])
    for fold in range(5):
        made = split(labels, official, folds=5, fold=fold)
        assert set(np.concatenate(parts_of(made)).tolist()) == set(range(70))


def test_shots_inside_a_fold() -> None:
    labels = np.array([0, 1] * 50)
    made = split(labels, folds=5, fold=2, labels_per_class=4)
    assert np.bincount(labels[made.train]).tolist() == [4, 4]
    assert len(made.test) == 20


@pytest.mark.parametrize(
    ("labels", "changes", "words"),
    [
        ([0, 1] * 10, {"folds": 5, "fold": 5}, ["`data.fold` between 0 and 4", "got 5"]),
        ([0, 1] * 10, {"folds": 5, "fold": -1}, ["between 0 and 4", "got -1"]),
        ([0] * 10 + [1] * 3, {"folds": 5}, ["`data.folds` of at most 3", "'bee' has 3 images"]),
        (
            [0, 1] * 10,
            {"folds": 3, "groups": np.repeat([0, 1], 10)},
            ["`data.folds` of at most 2", "'ant' has 2 groups"],
        ),
    ],
)
def test_folds_that_do_not_fit(labels: Any, changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(GraftError) as caught:
        split(labels, **changes)
    for word in words:
        assert word in str(caught.value)


def test_a_large_group_fills_a_fold_of_its_own() -> None:
    labels = np.array([0, 1] * 30)
    groups = np.array([0] * 56 + [1, 1, 2, 2])
    assigned = assign_folds(labels, groups, np.arange(60), 3, (0,), NAMES[:2])
    assert sorted(np.bincount(assigned).tolist()) == [2, 2, 56]


# Label fractions


@given(
    st.lists(st.integers(10, 60), min_size=2, max_size=5),
    SEEDS,
    st.floats(0.01, 1),
    st.floats(0.01, 1),
    st.sampled_from(["none", "official", "groups"]),
)
def test_fractions_nest_and_shrink_validation_alike(counts, seed, one, other, kind) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    groups = np.arange(len(labels)) // 2 if kind == "groups" else None
    official = (
        np.where(np.arange(len(labels)) % 3 == 0, VAL, TRAIN).astype(np.int8) if kind == "official" else None
    )
    assume(official is None or np.bincount(labels[official == TRAIN], minlength=len(counts)).min() > 3)
    low, high = sorted((one, other))
    small, large, whole = (
        split(labels, official, groups=groups, seed=seed, label_fraction=share) for share in (low, high, None)
    )
    for part in ("train", "val"):
        parts = [set(getattr(made, part).tolist()) for made in (small, large, whole)]
        assert parts[0] <= parts[1] <= parts[2]
        found, full = (
            np.bincount(labels[getattr(made, part)], minlength=len(counts)) for made in (small, whole)
        )
        expected = np.maximum(np.minimum(full, 1), np.array([round(low * int(count)) for count in full]))
        assert found.tolist() == expected.tolist()
    assert np.array_equal(small.test, whole.test)


def test_the_whole_is_all() -> None:
    labels = np.array([0, 1] * 30)
    assert split(labels, label_fraction=1.0).digest == split(labels).digest


# Sizes


@pytest.mark.parametrize(("test_size", "val_size"), [(0.6, 0.4), (0.9, 0.5)])
def test_fractions_that_do_not_add_up(test_size: float, val_size: float) -> None:
    for groups in (None, np.arange(60)):
        with pytest.raises(
            GraftError, match=r"`data.test_size` and `data.val_size` to add up to less than 1"
        ):
            split([0, 1] * 30, test_size=test_size, val_size=val_size, groups=groups)
    # Where the test set is official, one fraction stands alone.
    official = np.repeat(np.array([TRAIN, TEST], dtype=np.int8), [40, 20])
    assert len(split([0, 1] * 30, official, test_size=test_size, val_size=val_size).test) == 20
