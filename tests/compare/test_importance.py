from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from graft.compare.importance import REST, TOGETHER, rank_factors, share_variance
from graft.compare.select import select_trials


def grid(effects: dict[str, list[float]]) -> tuple[list[dict[str, str]], list[float]]:
    """Return a full grid of levels and the sum of their effects."""
    cells = list(product(*(range(len(own)) for own in effects.values())))
    rows = [dict(zip(effects, map(str, cell), strict=True)) for cell in cells]
    return rows, [
        sum(own[level] for own, level in zip(effects.values(), cell, strict=True)) for cell in cells
    ]


def test_a_full_grid_divides_its_variance() -> None:
    """Effects of variance 1, 4 and 0: shares 0.2, 0.8 and none."""
    rows, values = grid({"lr": [-1.0, 1.0], "depth": [-2.0, 2.0], "seed": [0.0, 0.0, 0.0]})
    assert share_variance(rows, values) == {
        "depth": pytest.approx(0.8),
        "lr": pytest.approx(0.2),
        REST: pytest.approx(0, abs=1e-9),
    }


def test_shares_add_up_to_one_with_holes_and_noise() -> None:
    rng = np.random.default_rng(0)
    rows, values = grid({"lr": [0.0, 1.0, 0.5], "depth": [0.0, 2.0], "seed": [0.1, 0.0, 0.2, 0.3]})
    kept = rng.random(len(rows)) > 0.3
    shares = share_variance(
        [row for row, stays in zip(rows, kept, strict=True) if stays],
        [value + rng.normal(0, 0.3) for value, stays in zip(values, kept, strict=True) if stays],
    )
    assert sum(shares.values()) == pytest.approx(1)
    assert max(shares, key=shares.__getitem__) == "depth"
    assert shares[REST] > 0


def test_what_varies_together_is_not_told_apart() -> None:
    rows = [
        {"backbone": str(one), "size": str(one), "seed": str(seed)} for one in range(2) for seed in range(3)
    ]
    shares = share_variance(rows, [1.0, 1.1, 0.9, 2.0, 2.1, 1.9])
    assert shares[TOGETHER] > 0.9
    assert "backbone" not in shares


def test_nothing_varied_says_nothing() -> None:
    assert share_variance([{"lr": "1"}] * 3, [0.1, 0.2, 0.3]) == {}
    assert share_variance([{"lr": "1"}, {"lr": "2"}], [0.5, 0.5]) == {}
    assert share_variance([], []) == {}


def test_transfer_arms_are_ranked_by_budget(sweep) -> None:
    [selection] = select_trials(sweep, "accuracy")
    few, many = rank_factors(selection.choices, "accuracy")
    assert (few.labels, few.runs, many.labels) == ("2", 30, "20")
    assert few.shares[-1][0] == REST
    assert dict(few.shares)["freeze_depth"] > dict(few.shares)["seed"]
    assert sum(share for _, share in few.shares) == pytest.approx(1)


def test_a_cut_inside_a_stage_is_a_depth_of_its_own(make_arm, make_run) -> None:
    cuts = {"": 0.5, "features.6.relu": 0.7, "features.7.relu": 0.9}
    runs = [
        make_run(make_arm("fine_tune", 3, freeze_until=cut), val=value + 0.01 * seed, test=0.5, seed=seed)
        for cut, value in cuts.items()
        for seed in range(3)
    ]
    [selection] = select_trials(runs, "accuracy")
    [ranked] = rank_factors(selection.choices, "accuracy")
    assert ranked.shares[0][0] == "freeze_depth"
    assert dict(ranked.shares)["freeze_depth"] == pytest.approx(0.9975, abs=1e-4)
    assert dict(ranked.shares)[REST] == pytest.approx(0, abs=1e-9)
