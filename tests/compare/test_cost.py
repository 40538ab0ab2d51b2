from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.compare.cost import is_on_front, weigh_costs
from graft.compare.select import Choice
from graft.plan.arms import Arm
from graft.plan.replicates import Replicate
from graft.track.record import RunRecord

POINTS = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 100)), min_size=1, max_size=8)


@given(POINTS)
def test_the_front_beats_what_is_not_on_it(points: list[tuple[float, float]]) -> None:
    worth, cost = zip(*points, strict=True)
    front = [place for place in range(len(points)) if is_on_front(place, worth, cost)]
    assert front
    for place, (own, price) in enumerate(points):
        beaten = any(
            worth[one] >= own and cost[one] <= price and points[one] != (own, price) for one in front
        )
        assert beaten == (place not in front)


def test_what_has_no_known_cost_is_on_no_front() -> None:
    assert not is_on_front(0, [0.9, 0.5], [math.nan, 1.0])
    assert is_on_front(1, [0.9, 0.5], [math.nan, 1.0])


def test_runs_that_stop_early_cost_their_own_time(make_arm, make_run) -> None:
    """Three seeds of 1 second a step stop after 10, 30 and 50 steps."""
    probe, scratch = make_arm("linear_probe", 5), make_arm()
    curves = {0: [(10, 0.6)], 1: [(10, 0.4), (30, 0.6)], 2: [(10, 0.4), (30, 0.5), (50, 0.7)]}
    mine = {
        Replicate(seed): make_run(probe, val=0.6, test=0.6, seed=seed, seconds=float(curve[-1][0]))
        for seed, curve in curves.items()
    }
    twin = {Replicate(0): make_run(scratch, val=0.6, test=0.6, seconds=100.0)}
    histories = {mine[Replicate(seed)].run_id: curve for seed, curve in curves.items()}
    histories[twin[Replicate(0)].run_id] = [(50, 0.6), (100, 0.3)]
    [cost] = weigh_costs([choose(probe, mine)], {probe: choose(scratch, twin)}, [0.6], histories, "accuracy")
    # 0.6, 0.6 and 0.5 after 30 steps, when one had stopped at 10; 0.6, 0.6 and 0.7 after 50.
    assert cost.reach_seconds == pytest.approx((10 + 30 + 50) / 3)


def test_a_trial_of_unknown_cost_is_counted(make_arm, make_run) -> None:
    arm = make_arm("linear_probe", 5)
    runs = {Replicate(0): make_run(arm, val=0.6, test=0.6, seconds=4.0)}
    pruned = make_run(arm, val=0, test=0, lr=0.1, status="pruned", metrics={"train_seconds": 1.5})
    failed = make_run(arm, val=0, test=0, lr=0.2, status="failed")
    tried = {"a": runs, "b": {Replicate(0): pruned}, "c": {Replicate(0): failed}}
    [cost] = weigh_costs([replace(choose(arm, runs), tried=tried)], {}, [0.6], {}, "accuracy")
    assert cost.tuned_seconds == pytest.approx(5.5)
    assert cost.unknown_trials == 1


def choose(arm: Arm, runs: dict[Replicate, RunRecord]) -> Choice:
    return Choice(arm, "2", "a", runs, 0.6, ("a",), {"a": runs})
