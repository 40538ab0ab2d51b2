from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.data.schedule import BatchSchedule, share


@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 2**31), st.integers(0, 3))
def test_every_pass_shows_each_image_once(count: int, batch_size: int, seed: int, number: int) -> None:
    indices = np.arange(100, 100 + count)
    schedule = BatchSchedule(indices, batch_size, seed)
    first = number * schedule.steps_per_pass
    batches = [schedule.batch(step) for step in range(first, first + schedule.steps_per_pass)]
    assert sorted(np.concatenate(batches).tolist()) == indices.tolist()
    if count > 1 and batch_size > 1:
        assert all(2 <= len(batch) <= batch_size + 1 for batch in batches)
    assert all(len(batch) == min(batch_size, count) for batch in batches[:-1])


def test_a_step_depends_on_seed_and_number_only() -> None:
    one, two = BatchSchedule(np.arange(50), 8, 3), BatchSchedule(np.arange(50), 8, 3)
    late = two.batch(40)
    assert [one.batch(step).tolist() for step in range(41)][-1] == late.tolist()
    assert BatchSchedule(np.arange(50), 8, 4).batch(40).tolist() != late.tolist()


def test_each_pass_has_its_own_order() -> None:
    schedule = BatchSchedule(np.arange(32), 32, 0)
    assert schedule.batch(0).tolist() != schedule.batch(1).tolist()


def test_a_last_batch_of_one_joins_the_batch_before() -> None:
    schedule = BatchSchedule(np.arange(33), 16, 0)
    assert [len(schedule.batch(step)) for step in range(schedule.steps_per_pass)] == [16, 17]


def test_batches_of_one_stay_so() -> None:
    assert BatchSchedule(np.arange(3), 1, 0).steps_per_pass == 3


def test_no_image_is_our_bug() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        BatchSchedule(np.array([], dtype=np.int64), 8, 0)


@given(st.integers(1, 50), st.integers(1, 5), st.integers(1, 4))
def test_parts_add_up_to_the_mean_loss(count: int, world: int, accumulate: int) -> None:
    batch = np.random.default_rng(0).permutation(count)
    losses = np.random.default_rng(1).normal(size=count)
    seen: list[int] = []
    total = 0.0
    for rank in range(world):
        for micro in range(accumulate):
            indices, weights = share(batch, rank, world, micro, accumulate)
            assert len(indices) == len(weights) >= 1
            seen += indices[weights > 0].tolist()
            total += float((weights * losses[indices]).sum()) / world / accumulate
    assert sorted(seen) == list(range(count))
    assert total == pytest.approx(losses.mean(), abs=1e-6)
