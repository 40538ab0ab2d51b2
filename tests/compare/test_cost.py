from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from graft.compare.cost import is_on_front

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
