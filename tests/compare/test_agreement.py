"""How well a ranking agreed with what came out."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from graft.compare.agreement import compare_ranking, describe_agreement
from graft.compare.report import compare_records

#: Method, freeze depth, and what it loses to the best.
METHODS = [("linear_probe", 5, 0.3), ("fine_tune", 0, 0.0), ("from_scratch", 0, 0.4)]


def test_tau_counts_pairs() -> None:
    ranking = {"a": 3.0, "b": 2.0, "c": 1.0, "d": 0.5, "only ranked": 9.0}
    results = {"a": 0.9, "b": 0.6, "c": 0.8, "d": 0.5, "only trained": 0.1}
    tau, weighted = compare_ranking(ranking, results)
    pairs = list(itertools.combinations("abcd", 2))
    agreeing = sum((ranking[x] - ranking[y]) * (results[x] - results[y]) > 0 for x, y in pairs)
    assert tau == pytest.approx((2 * agreeing - len(pairs)) / len(pairs))
    late = results | {"b": 0.8, "c": 0.4, "d": 0.5}  # the exchange is among the last
    assert compare_ranking(ranking, late)[1] > weighted
    assert compare_ranking(ranking, {name: -value for name, value in ranking.items()})[0] == pytest.approx(-1)


@pytest.mark.parametrize(("ranking", "results"), [({}, {}), ({"a": 1.0}, {"a": 1.0})])
def test_there_is_no_order_of_one(ranking: dict, results: dict) -> None:
    assert all(math.isnan(value) for value in compare_ranking(ranking, results))
    assert all(math.isnan(value) for value in compare_ranking({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 2.0}))


def test_a_comparison_is_told_how_well_its_ranking_agreed(make_arm, make_run) -> None:
    tests = {"small": 0.7, "middle": 0.8, "large": 0.9}
    records = [
        make_run(
            replace(make_arm(method, depth), backbone=name), val=test, test=test - change, seed=seed,
            notes={"data_digest": "d"},
        )
        for name, test in tests.items()
        for method, depth, change in METHODS
        for seed in range(3)
    ]  # fmt: skip
    comparison = compare_records(records, experiment="demo", metric="accuracy")
    weights = make_arm("fine_tune", 0).weights
    rows = [
        {"backbone": name, "weights": weights, "ridge_accuracy": test, "knn_accuracy": -test, "logme": 1.0,
         "h_score": test, "leep": None}
        for name, test in tests.items()
    ]  # fmt: skip
    (line,) = describe_agreement({"data_digest": "d", "backbones": rows}, comparison)
    assert "3 backbones" in line
    assert line.endswith("ridge probe 1.00 (1.00), nearest neighbours -1.00 (-1.00), H-score 1.00 (1.00).")
    assert describe_agreement({"data_digest": "e", "backbones": rows}, comparison) == ()
    assert describe_agreement({"data_digest": "d", "backbones": rows[:2]}, comparison) == ()
