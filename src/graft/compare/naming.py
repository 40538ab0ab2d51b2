"""How arms, budgets and numbers are written, the same in sentences, tables and figures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from graft.compare.statistics import Estimate
from graft.config.names import METRICS
from graft.plan.arms import Arm


def name_arms(arms: Iterable[Arm]) -> dict[Arm, str]:
    """Return the shortest names that tell the given arms apart.

    What all arms share is not said: with one backbone its name is left out. Weights and input are said where
    two arms would have the same name without them.
    """
    arms = list(dict.fromkeys(arms))
    names = {arm: _name_method(arm) for arm in arms}
    for detail in ("backbone", "head", "loss", "augment"):
        if len({getattr(arm, detail) for arm in arms}) > 1:
            names = {arm: f"{name} · {getattr(arm, detail)}" for arm, name in names.items()}
    for detail in ("weights", "input"):
        counts = Counter(names.values())
        names = {
            arm: f"{name} · {getattr(arm, detail)}" if counts[name] > 1 else name
            for arm, name in names.items()
        }
    return names


def _name_method(arm: Arm) -> str:
    method, _, depth = arm.label.split(" · ")[0].partition(", ")
    return f"{method} ({depth})" if depth else method


def split_trials(trials: Iterable[str]) -> tuple[str, dict[str, str]]:
    """Return the words that all trials share, and of each trial those that it does not share.

    >>> split_trials(["batch_size=32 lr=0.1", "batch_size=32 lr=0.3"])
    ('batch_size=32', {'batch_size=32 lr=0.1': 'lr=0.1', 'batch_size=32 lr=0.3': 'lr=0.3'})
    """
    words = {trial: trial.split() for trial in trials}
    first = next(iter(words.values()), [])
    shared = [word for word in first if all(word in others for others in words.values())]
    own = {trial: " ".join(word for word in its if word not in shared) for trial, its in words.items()}
    return " ".join(shared), own


def name_budget(labels: str) -> str:
    """Return a label budget in words.

    >>> name_budget("1"), name_budget("20"), name_budget("all")
    ('1 label per class', '20 labels per class', 'all labels')
    >>> name_budget("30%"), name_budget("replayed")
    ('30% of the labels', 'the labels of the replayed split')
    """
    if labels.endswith("%"):
        return f"{labels} of the labels"
    if labels == "replayed":
        return "the labels of the replayed split"
    if not labels.isdigit():
        return f"{labels} labels"
    return "1 label per class" if labels == "1" else f"{labels} labels per class"


def name_budgets(labels: Sequence[str]) -> str:
    """Return several label budgets in words.

    >>> name_budgets(["2", "5", "all"])
    '2, 5 and all labels per class'
    >>> name_budgets(["10%", "30%", "all"])
    '10%, 30% and all of the labels'
    >>> name_budgets(["2", "10%"])
    '2 labels per class and 10% of the labels'
    """
    kinds = {"%" if text.endswith("%") else text if not text.isdigit() else "count" for text in labels}
    if len(labels) > 1 and kinds <= {"count", "all"}:
        return f"{join_words(labels)} labels per class"
    if len(labels) > 1 and kinds <= {"%", "all"}:
        return f"{join_words(labels)} of the labels"
    return join_words(map(name_budget, labels))


def write_value(estimate: Estimate) -> str:
    """Write a mean with its interval.

    >>> write_value(Estimate(0.8661, 0.8512, 0.8809, 5))
    '0.866 [0.851, 0.881]'
    """
    if not estimate.has_interval:
        return f"{estimate.mean:.3f}"
    return f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def write_gain(estimate: Estimate, metric: str, *, signed: bool = True) -> str:
    """Write a difference with its interval, in points for fractions and in the metric's unit otherwise.

    Args:
        estimate: The difference.
        metric: Name of the metric.
        signed: False for a sentence whose verb says the sign already: a loss turns into a positive number.

    >>> write_gain(Estimate(-0.123, -0.145, -0.101, 5), "accuracy", signed=False)
    '12.3 points [10.1, 14.5]'
    """
    in_points = METRICS[metric].unit == "fraction"
    scale, digits, unit = (100.0, 1, "points") if in_points else (1.0, 3, METRICS[metric].unit)
    low, high, mean = estimate.low * scale, estimate.high * scale, estimate.mean * scale
    if not signed and mean < 0:
        low, high, mean = -high, -low, -mean
    sign = "+" if signed else ""
    # Adding zero turns -0.0 into 0.0, so that a difference of nothing has no sign.
    low, high, mean = (round(number, digits) + 0.0 for number in (low, high, mean))
    written = f"{mean:{sign}.{digits}f} {unit}"
    return (
        f"{written} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]" if estimate.has_interval else written
    )


def write_margin(metric: str, margin: float) -> str:
    """Write a margin in points for fractions, and in the metric's unit otherwise.

    >>> write_margin("accuracy", 0.005), write_margin("nll", 0.01)
    ('0.5 points', '0.01 nats')
    """
    unit = METRICS[metric].unit
    return f"{100 * margin:g} points" if unit == "fraction" else f"{margin:g} {unit}"


def write_seconds(seconds: float) -> str:
    """Write a duration with the digits that matter.

    >>> [write_seconds(value) for value in (0.0412, 1.13, 31.4, 75.0, 4000.0)]
    ['0.041 s', '1.1 s', '31 s', '1 min 15 s', '1 h 6 min']
    """
    if not math.isfinite(seconds):
        return "–"
    if seconds < 59.5:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def write_count(count: float) -> str:
    """Write a large number with the digits that matter.

    >>> [write_count(value) for value in (640.0, 24_123.0, 3.21e9, 4.5e15, float("nan"))]
    ['640', '24,123', '3.2 billion', '4.5e+15', '–']
    """
    if not math.isfinite(count):
        return "–"
    for unit, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if unit <= count < 1000 * unit:
            shown = count / unit
            return f"{shown:.1f} {name}" if shown < 9.95 else f"{shown:.0f} {name}"
    return f"{count:,.0f}" if count < 1e6 else f"{count:.1e}"


def join_words(words: Iterable[str]) -> str:
    """Join words as a sentence does.

    >>> join_words(["a", "b", "c"])
    'a, b and c'
    """
    words = list(words)
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def join_few(words: Sequence[str], limit: int = 3) -> str:
    """Join the first words as a sentence does, and count the others.

    >>> join_few(["a", "b", "c", "d", "e"])
    'a, b, c and 2 others'
    """
    more = len(words) - limit
    return join_words(words if more < 2 else [*words[:limit], f"{more} others"])


def count_words(count: int, noun: str) -> str:
    """Write a count with its noun.

    >>> count_words(1, "seed"), count_words(5, "seed")
    ('1 seed', '5 seeds')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
