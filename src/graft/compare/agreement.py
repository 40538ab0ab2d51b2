"""Whether what was promised before training is what came out: the order of backbones by both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from graft.compare.comparison import Budget, Comparison
from graft.compare.naming import name_budget
from graft.compare.select import TRANSFER_METHODS
from graft.config.names import METRICS

#: Measures of a ranking, and how they are called.
_MEASURES = {
    "ridge_accuracy": "ridge probe",
    "knn_accuracy": "nearest neighbours",
    "logme": "LogME",
    "h_score": "H-score",
    "leep": "LEEP",
}

#: With two backbones any order agrees by half of all coins.
_FEWEST = 3


def compare_ranking(ranking: Mapping[str, float], results: Mapping[str, float]) -> tuple[float, float]:
    """Return how well two orders agree, over what both rank: 1 = the same order, -1 = the reverse, 0 = none.

    Source: Kendall 1945 (tau-b); Vigna 2015, A Weighted Correlation Index for Rankings with Ties, which
    counts exchanges among the best for more.

    Args:
        ranking: What was promised, larger is better.
        results: What came out, larger is better.

    Returns:
        Kendall's tau and the weighted tau; NaN with fewer than two in common, or where all are equal.
    """
    from scipy.stats import kendalltau, weightedtau

    both = sorted(ranking.keys() & results.keys())
    promised, came = [ranking[name] for name in both], [results[name] for name in both]
    if len(set(promised)) < 2 or len(set(came)) < 2:
        return math.nan, math.nan
    return float(kendalltau(promised, came).statistic), float(weightedtau(promised, came).statistic)


def describe_agreement(record: Mapping[str, Any], comparison: Comparison) -> tuple[str, ...]:
    """Say how well a ranking on record agreed with what came out of the runs on the same data.

    Args:
        record: What `graft rank` wrote.
        comparison: What came out; the best transfer arm of each backbone counts, at the largest budget.

    Returns:
        One line per condition with at least three backbones that were ranked; none where there is none.
    """
    lines = []
    for section in comparison.sections:
        of_data = {
            one.notes.get("data_digest") for one in comparison.records if one.condition == section.condition
        }
        results = _collect(section.budgets[-1], comparison.metric) if section.budgets else {}
        listed = []
        for measure, name in _MEASURES.items():
            ranking = _promise(record["backbones"], measure)
            tau, weighted = compare_ranking(ranking, results)
            if len(ranking.keys() & results.keys()) >= _FEWEST and not math.isnan(tau):
                listed.append(f"{name} {tau:.2f} ({weighted:.2f})")
        if listed and record["data_digest"] in of_data:
            budget = name_budget(section.budgets[-1].labels)
            count = len(_promise(record["backbones"], "ridge_accuracy").keys() & results.keys())
            lines.append(
                f"`graft rank` against what came out on {section.data}, {count} backbones, {budget};"
                f" Kendall's tau (weighted tau), 1 = the same order: {', '.join(listed)}."
            )
    return tuple(lines)


def _promise(rows: Sequence[Mapping[str, Any]], measure: str) -> dict[str, float]:
    return {
        f"{row['backbone']} {row['weights']}": float(row[measure])
        for row in rows
        if row[measure] is not None and math.isfinite(row[measure])
    }


def _collect(budget: Budget, metric: str) -> dict[str, float]:
    """Return the best test metric of each backbone with its weights, larger is better."""
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    found: dict[str, float] = {}
    for row in budget.rows:
        name = f"{row.arm.backbone} {row.arm.weights}"
        if row.arm.method in TRANSFER_METHODS and math.isfinite(row.test.mean):
            found[name] = max(found.get(name, -math.inf), sign * row.test.mean)
    return found
