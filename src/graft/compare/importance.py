"""What the validation metric varies with: shares of its variance by what was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graft.compare.gaps import is_usable
from graft.compare.select import TRANSFER_METHODS, Choice, order_labels

#: What factors explain that were varied together, and cannot be told apart.
TOGETHER = "several together"

#: What no factor explains: interactions and noise.
REST = "rest"

#: A share below this is rounding.
_NOTHING = 1e-6

_ARM_FACTORS = ("backbone", "weights", "head", "loss", "augment", "input")


@dataclass(frozen=True)
class Importance:
    """What the validation metric of the transfer arms varies with at a label budget.

    Attributes:
        labels: Label budget.
        shares: Share of the variance by factor, the largest first; then what several explain together, and
            the ``rest``. They add up to one.
        runs: Number of runs.
    """

    labels: str
    shares: tuple[tuple[str, float], ...]
    runs: int


def rank_factors(choices: Sequence[Choice], metric: str) -> list[Importance]:
    """Return what the validation metric of all runs of transfer arms varies with, by label budget.

    Args:
        choices: Choices of one condition.
        metric: Name of the metric, without a split.

    Returns:
        One ranking per label budget, none where nothing was varied.
    """
    ranked = []
    for labels in order_labels(choice.labels for choice in choices):
        rows, values = [], []
        for choice in choices:
            if choice.labels != labels or choice.arm.method not in TRANSFER_METHODS:
                continue
            about = {name: str(getattr(choice.arm, name)) for name in _ARM_FACTORS}
            # One factor: a cut inside a stage is a depth of its own.
            about["freeze_depth"] = choice.arm.freeze_until or str(choice.arm.freeze_depth)
            for trial, runs in choice.tried.items():
                words = dict(word.partition("=")[::2] for word in trial.split())
                for replicate, run in runs.items():
                    if is_usable(run, metric):
                        rows.append(about | words | {"seed": replicate.text})
                        values.append(run.metrics[f"val/{metric}"])
        shares = share_variance(rows, values)
        if shares:
            last = (TOGETHER, REST)
            ordered = sorted(
                shares.items(), key=lambda item: (last.index(item[0]) if item[0] in last else -1, -item[1])
            )
            ranked.append(Importance(labels, tuple(ordered), len(values)))
    return ranked


def share_variance(rows: Sequence[Mapping[str, str]], values: Sequence[float]) -> dict[str, float]:
    """Return the share of the variance of values by factor: main effects of an analysis of variance.

    A factor's share is what it explains beyond all others (type II), so that in a grid with holes nothing is
    counted twice; in a full grid nothing is left for several together. Factors that never vary have none.

    Args:
        rows: The level of each factor, one row per run.
        values: One value per run, shape ``(runs,)``.

    Source:
        Searle (1987), "Linear models for unbalanced data"; main effects of the functional analysis of
        variance of Hutter, Hoos and Leyton-Brown (2014), "An efficient approach for assessing hyperparameter
        importance", on the grid itself.
    """
    target = np.asarray(values, dtype=np.float64)
    target = target - (target.mean() if len(target) else 0.0)
    total = float(target @ target)
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: _encode([row.get(name, "") for row in rows]) for name in names}
    columns = {name: column for name, column in columns.items() if column.shape[1]}
    if not columns or total <= 1e-12 * len(target):
        return {}
    left = _leftover(list(columns.values()), target)
    shares = {}
    for name in columns:
        others = [column for other, column in columns.items() if other != name]
        shares[name] = max(0.0, _leftover(others, target) - left) / total
    together = 1 - left / total - sum(shares.values())
    shares = {name: share for name, share in (shares | {TOGETHER: together}).items() if share > _NOTHING}
    return shares | {REST: left / total}


def _encode(levels: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return one centred column per level but the first, ``(runs, levels - 1)``."""
    kinds = sorted(set(levels))[1:]
    table = np.array([[level == kind for kind in kinds] for level in levels], dtype=np.float64)
    return table.reshape(len(levels), len(kinds)) - table.mean(axis=0) if kinds else table[:, :0]


def _leftover(columns: Sequence[npt.NDArray[np.float64]], target: npt.NDArray[np.float64]) -> float:
    """Return the sum of squares that columns do not explain."""
    if not columns:
        return float(target @ target)
    table = np.hstack(columns)
    rest = target - table @ np.linalg.lstsq(table, target, rcond=None)[0]
    return float(rest @ rest)
