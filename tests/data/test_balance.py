from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.config.names import BALANCES
from graft.config.schema import DataConfig
from graft.data.balance import BalancedOrder, choose_metric, weigh_classes
from graft.data.image_set import TEST, TRAIN, ImageSet, SourceFacts
from graft.data.schedule import BatchSchedule, share
from graft.errors import GraftError

COUNTS = st.lists(st.integers(1, 40), min_size=2, max_size=6)


def open_set(counts: list[int], official: np.ndarray | None = None) -> ImageSet:
    labels = np.repeat(np.arange(len(counts)), counts)
    names = tuple(f"class{number}" for number in range(len(counts)))
    ids = tuple(str(index) for index in range(len(labels)))
    facts = SourceFacts("none", "none", "nothing")
    return ImageSet(
        "toy", names, labels, official, ids, "d", 1, facts, lambda _: np.zeros((1, 1, 1), np.uint8)
    )


def test_weights_by_hand() -> None:
    counts = np.array([90, 10])
    assert weigh_classes(DataConfig(), counts) is None
    assert weigh_classes(DataConfig(balance="sampler"), counts) is None
    frequency = weigh_classes(DataConfig(balance="class_weights"), counts)
    assert frequency == pytest.approx([100 / 180, 100 / 20])
    effective = weigh_classes(DataConfig(balance="effective_number", balance_beta=0.9), counts)
    assert effective is not None
    assert effective[1] / effective[0] == pytest.approx((1 - 0.9**90) / (1 - 0.9**10))


@given(COUNTS, st.sampled_from(BALANCES), st.floats(0, 0.9999))
def test_the_mean_weight_of_a_training_image_is_one(counts: list[int], balance: str, beta: float) -> None:
    weights = weigh_classes(DataConfig(balance=balance, balance_beta=beta), np.array(counts))
    if weights is not None:
        assert np.average(weights, weights=counts) == pytest.approx(1)
        assert all(
            one >= other - 1e-9 or few > many
            for one, few in zip(weights, counts, strict=True)
            for other, many in zip(weights, counts, strict=True)
        )


def test_effective_numbers_lie_between_no_weights_and_inverse_frequency() -> None:
    counts = np.array([200, 3])
    flat = weigh_classes(DataConfig(balance="effective_number", balance_beta=0.0), counts)
    steep = weigh_classes(DataConfig(balance="effective_number", balance_beta=0.999999), counts)
    assert flat == pytest.approx([1, 1])
    assert steep == pytest.approx(weigh_classes(DataConfig(balance="class_weights"), counts), rel=1e-3)


def test_a_class_without_training_images_counts_as_if_it_had_one() -> None:
    assert weigh_classes(DataConfig(balance="class_weights"), np.array([4, 4, 0])) == pytest.approx([1, 1, 4])


@given(COUNTS, st.integers(0, 100), st.integers(1, 30))
def test_a_pass_draws_every_class_equally_often_and_in_the_long_run_every_image(
    counts: list[int], seed: int, passes: int
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    indices = np.arange(500, 500 + len(labels))
    order = BalancedOrder(indices, labels, seed)
    drawn = [order(number) for number in range(passes)]
    for one in drawn:
        assert len(one) == len(indices)
        shares = np.bincount(labels[one - 500], minlength=len(counts))
        assert shares.max() - shares.min() <= 1
    often = np.bincount(np.concatenate(drawn) - 500, minlength=len(labels))
    for label in range(len(counts)):
        assert np.ptp(often[labels == label]) <= 1
    late = BalancedOrder(indices, labels, seed)(passes - 1)
    assert np.array_equal(late, drawn[-1]), "a pure function of seed and number"


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (3, 2)])
def test_devices_share_the_batches_of_a_balanced_order(world: int, accumulate: int) -> None:
    labels = np.array([0] * 20 + [1] * 3)
    schedule = BatchSchedule(np.arange(23), 8, 1, BalancedOrder(np.arange(23), labels, 1))
    for step in range(7):
        batch = schedule.batch(step)
        parts = [
            share(batch, rank, world, micro, accumulate)
            for rank in range(world)
            for micro in range(accumulate)
        ]
        seen = np.concatenate([indices[weights > 0] for indices, weights in parts])
        assert sorted(seen.tolist()) == sorted(batch.tolist())
        total = sum(float(weights.sum()) for _, weights in parts)
        assert total / world / accumulate == pytest.approx(1)


def test_the_metric_follows_the_sizes_of_classes_in_training() -> None:
    assert choose_metric(open_set([30, 10]), "auto") == "accuracy"
    assert choose_metric(open_set([31, 10]), "auto") == "balanced_accuracy"
    official = np.array([TRAIN] * 40 + [TEST], dtype=np.int8)
    even = replace(open_set([20, 21]), official=official)
    assert choose_metric(even, "auto") == "accuracy"
    tested = np.array([TRAIN] * 30 + [TEST] * 31 + [TRAIN] * 10, dtype=np.int8)
    assert choose_metric(replace(open_set([61, 10]), official=tested), "auto") == "accuracy"


def test_five_guesses_of_five_classes_say_nothing() -> None:
    with pytest.raises(GraftError, match=r"more than 5 classes with `metric=top5_accuracy`, but toy has 2"):
        choose_metric(open_set([3, 3]), "top5_accuracy")
    assert choose_metric(open_set([3] * 6), "top5_accuracy") == "accuracy"
