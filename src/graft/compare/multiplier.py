"""The label multiplier: how many times the labels from scratch needs to be as good."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from graft.compare.two_way import Spread

FloatArray = npt.NDArray[np.float64]

#: From scratch was tried with hardly more labels than the arm has.
_HARDLY_MORE = 1.05

#: Halvings of the stretch between two label budgets: the last is far below what is printed.
_HALVINGS = 20


@dataclass(frozen=True)
class Multiplier:
    """How many times the labels from scratch needs for the test metric of an arm.

    Attributes:
        value: The multiplier; a bound where it is censored.
        low: Lower end of its interval, 0 where from scratch may be as good with the fewest labels tried.
        high: Upper end of its interval, infinite where from scratch may not get there with the most tried.
        censored: ``above`` when from scratch never reached it, ``below`` when it is better with the fewest
            labels tried, empty otherwise.
        text: All of it in words, such as ``4.1 times the labels [3.0, 5.6]``.
    """

    value: float
    low: float
    high: float
    censored: str
    text: str

    @property
    def says_more(self) -> bool:
        """Whether it says more than that the arm is better with the same labels."""
        return not (self.censored == "above" and self.value < _HARDLY_MORE)


@dataclass(frozen=True)
class Rung:
    """From scratch at one label budget.

    Attributes:
        labels: Number of labels.
        values: Its test metric by seed and test image, ``(S, N)``, or by seed alone, ``(S, 1)``.
    """

    labels: float
    values: FloatArray


def multiply_labels(
    labels: float,
    values: FloatArray,
    ladder: Sequence[Rung],
    spread: Callable[[FloatArray], Spread],
    *,
    higher_is_better: bool,
) -> Multiplier | None:
    """Return how many times the labels from scratch needs for the test metric of an arm.

    Its curve over the logarithm of the labels is made monotone by pooling neighbours, and straight between
    label budgets. The interval holds every number of labels at which the arm and the curve are not told
    apart by the 95 % interval of their paired difference: for the same new seeds, and images, as that one.

    Args:
        labels: Labels of the arm.
        values: Test metric of the arm by seed and test image, ``(S, N)``, as in `Rung`.
        ladder: From scratch at each label budget, ascending, on the same seeds and images.
        spread: Returns the spread of a paired difference ``(S, N)``.
        higher_is_better: The metric's direction.

    Returns:
        The multiplier, None where there are fewer than two label budgets.

    Source:
        Ayer et al. (1955), "An empirical distribution function for sampling with incomplete information", for
        the pooling; Fieller (1954), "Some problems in interval estimation", for the inverted test.
    """
    if len(ladder) < 2:
        return None
    sign = 1.0 if higher_is_better else -1.0
    tops = _pool([sign * rung.values for rung in ladder])
    places = np.log([rung.labels for rung in ladder])

    def lead(place: float) -> FloatArray:
        """Return by how much the arm is better than from scratch with ``exp(place)`` labels."""
        upper = int(np.clip(np.searchsorted(places, place), 1, len(places) - 1))
        share = (place - places[upper - 1]) / (places[upper] - places[upper - 1])
        difference: FloatArray = sign * values - (1 - share) * tops[upper - 1] - share * tops[upper]
        return difference

    def find(bound: Callable[[FloatArray], float]) -> float:
        """Return the fewest labels at which a bound of the lead is no longer above zero, as a multiple."""
        place = _find_crossing(places, lambda one: bound(lead(one)))
        return math.exp(place - math.log(labels)) if math.isfinite(place) else place

    def reach(difference: FloatArray) -> float:
        """Return half the width of the interval; seeds that agree by chance do not make it short."""
        found = spread(difference).reach(0.95)
        return math.inf if math.isnan(found) else found

    value = find(lambda one: float(one.mean()))
    has_interval = any(math.isfinite(reach(lead(place))) for place in places)
    low = find(lambda one: float(one.mean()) - reach(one)) if has_interval else math.nan
    high = find(lambda one: float(one.mean()) + reach(one)) if has_interval else math.nan
    first, last = (math.exp(place) / labels for place in (places[0], places[-1]))
    return _describe(value, low, high, first, last)


def _describe(value: float, low: float, high: float, first: float, last: float) -> Multiplier:
    """Write a multiplier, given the multiples that the fewest and the most labels tried are."""
    ends = ""
    if not math.isnan(low) and not math.isnan(high):
        lowest = (
            f"less than {_write(first)}"
            if low == -math.inf
            else f"more than {_write(last)}"
            if low == math.inf
            else _write(low)
        )
        highest = f"more than {_write(last)}" if high == math.inf else _write(first if high < 0 else high)
        ends = f" [{lowest}, {highest}]"
    bound_low = {-math.inf: 0.0, math.inf: last}.get(low, low)
    bound_high = first if high == -math.inf else high
    if value == math.inf:
        text = f"more than {_write(last)} times the labels: from scratch never reached it"
        sure = _bound("at least", low, "fewest")
        if last < _HARDLY_MORE:
            text = "more than it has: from scratch with as many labels never reached it"
            sure = ", but not at 95%" if low < 1 else ""
        return Multiplier(last, bound_low, math.inf, "above", text + sure)
    if value == -math.inf:
        text = f"less than {_write(first)} times the labels: from scratch is as good with the fewest"
        return Multiplier(first, 0.0, bound_high, "below", text + _bound("at most", high, "most"))
    return Multiplier(value, bound_low, bound_high, "", f"{_write(value)} times the labels{ends}")


def _bound(words: str, bound: float, other_end: str) -> str:
    """Say how sure a censored multiplier is; nothing where its bound is beyond all labels tried, too."""
    if math.isfinite(bound):
        return f", {words} {_write(bound)} times at 95%"
    if math.isnan(bound) or (bound > 0) == (words == "at least"):
        return ""
    return f", but at 95% the two are not told apart even with the {other_end}"


def _write(number: float) -> str:
    return f"{number:.1f}" if number < 9.95 else f"{number:.0f}"


def _pool(rungs: Sequence[FloatArray]) -> list[FloatArray]:
    """Return rungs whose means never fall: neighbours that do share their mean, image by image."""
    blocks: list[tuple[FloatArray, int]] = []
    for rung in rungs:
        blocks.append((rung, 1))
        while len(blocks) > 1 and blocks[-2][0].mean() > blocks[-1][0].mean():
            (one, few), (other, more) = blocks[-2:]
            blocks[-2:] = [((few * one + more * other) / (few + more), few + more)]
    return [block for block, count in blocks for _ in range(count)]


def _find_crossing(places: FloatArray, bound: Callable[[float], float]) -> float:
    """Return where a falling bound first meets zero: minus infinity below all places, infinity above."""
    if bound(places[0]) < 0:
        return -math.inf
    for left, right in pairwise(places):
        if bound(right) > 0:
            continue
        low, high = float(left), float(right)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if bound(middle) > 0 else (low, middle)
        return high
    return math.inf
