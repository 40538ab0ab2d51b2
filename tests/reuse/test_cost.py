"""What is worth keeping: never dearer than nothing, never over the budget, and right in plain cases."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.reuse.cost import MOST_BOUNDARIES, Chain, Demand, count_seconds, plan_storage

FAST_DISK = 1e12
CHAIN = Chain((5e-3, 4e-3, 3e-3, 2e-3, 1e-3), (400_000, 200_000, 100_000, 50_000, 2_000), FAST_DISK)


def test_probes_keep_the_features_alone():
    plan = plan_storage(CHAIN, {5: Demand(36 * 10 * 4000, 4000)}, 10**9)
    assert plan.kept == (5,)
    assert plan.disk_bytes == 4000 * 2000
    assert plan.plain_seconds == pytest.approx(36 * 10 * 4000 * 15e-3)
    assert plan.seconds == pytest.approx(4000 * 15e-3, rel=1e-4)


def test_what_is_seen_once_is_not_kept():
    assert plan_storage(CHAIN, {5: Demand(4000, 4000)}, 10**9).kept == ()


def test_what_is_stored_costs_only_its_reading():
    plan = plan_storage(CHAIN, {5: Demand(4000, 4000, stored=3000)}, 10**9)
    assert plan.kept == (5,)
    assert plan.seconds == pytest.approx(1000 * 15e-3, rel=1e-3)
    assert plan.disk_bytes == 4000 * 2_000


def test_a_deeper_boundary_is_filled_from_the_shallower_one():
    demands = {3: Demand(40_000, 4000), 5: Demand(40_000, 4000)}
    plan = plan_storage(CHAIN, demands, 10**9)
    assert plan.kept == (3, 5)
    assert plan.seconds == pytest.approx(4000 * 15e-3, rel=1e-3)


def test_a_small_budget_keeps_what_saves_most():
    demands = {3: Demand(40_000, 4000), 5: Demand(400_000, 4000)}
    assert plan_storage(CHAIN, demands, 4000 * 2_000).kept == (5,)
    assert plan_storage(CHAIN, demands, 0).kept == ()


def test_a_slow_disk_is_left_alone():
    slow = Chain(CHAIN.seconds, CHAIN.sizes, 1e6)
    assert plan_storage(slow, {1: Demand(40_000, 4000)}, 10**10).kept == ()
    assert plan_storage(slow, {5: Demand(40_000, 4000)}, 10**10).kept == (5,)


def test_what_fits_into_memory_is_read_from_there():
    demands = {1: Demand(40_000, 4000)}
    slow = Chain(CHAIN.seconds, CHAIN.sizes, 5e7, held_bytes=4000 * 400_000, held_bytes_per_second=1e10)
    assert plan_storage(slow, demands, 10**10).kept == (1,)
    assert plan_storage(replace(slow, held_bytes=4000 * 400_000 - 1), demands, 10**10).kept == ()


def test_rounded_activations_serve_no_deeper_boundary():
    demands = {3: Demand(40_000, 4000), 5: Demand(40_000, 4000)}
    rounded = replace(CHAIN, exact=False)
    assert count_seconds(rounded, demands, (3,)) == pytest.approx(4000 * 12e-3 + 40_000 * 15e-3, rel=1e-3)
    both = plan_storage(rounded, demands, 10**9)
    assert both.kept == (3, 5)
    assert both.seconds == pytest.approx(4000 * (12e-3 + 15e-3), rel=1e-3)


demands_of = st.dictionaries(
    st.integers(1, 5),
    st.tuples(st.integers(1, 100), st.integers(1, 5000)).map(lambda two: Demand(two[0] * two[1], two[1])),
    min_size=1,
)


@given(
    demands=demands_of,
    budget=st.integers(0, 10**9),
    speed=st.sampled_from([1e6, 1e8, 1e10]),
    seconds=st.tuples(*[st.floats(1e-6, 1e-2)] * 5),
    held=st.integers(0, 10**9),
    exact=st.booleans(),
)
def test_the_plan_keeps_within_its_bounds(demands, budget, speed, seconds, held, exact):
    chain = Chain(seconds, CHAIN.sizes, speed, held, 1e11, exact)
    plan = plan_storage(chain, demands, budget)
    assert plan.disk_bytes <= budget
    assert plan.seconds <= plan.plain_seconds
    assert set(plan.kept) <= set(demands)
    assert plan.seconds == count_seconds(chain, demands, plan.kept)
    more = plan_storage(chain, demands, 2 * budget)
    assert more.seconds <= plan.seconds


def test_too_many_boundaries_are_refused():
    count = MOST_BOUNDARIES + 1
    chain = Chain([1.0] * count, [1] * count, 1.0)
    with pytest.raises(ValueError, match="at most 12"):
        plan_storage(chain, {number + 1: Demand(2, 1) for number in range(count)}, 10)
