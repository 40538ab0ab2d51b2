"""The verdict in words: one sentence per label budget."""

from __future__ import annotations

from collections.abc import Mapping

from graft.compare.comparison import TRANSFER_METHODS, Budget, Contrast, Row
from graft.compare.naming import join_few, join_words, name_budget, write_gain, write_margin, write_value
from graft.compare.replicates import count_replicates, name_replicate
from graft.compare.statistics import ALPHA, MARGIN, Estimate, Verdict
from graft.config.names import METRICS
from graft.plan.arms import Arm


def say_verdict(budget: Budget, names: Mapping[Arm, str], metric: str, margin: float = MARGIN) -> str:
    """Return the verdict on one label budget as a sentence.

    The arm it speaks of is the one that validation chose among the transfer arms, never the best on test.

    Args:
        budget: All arms at the label budget.
        names: Short name of each arm.
        metric: Name of the metric, without a split.
        margin: Difference to the twin that counts as none, in the unit of the metric.
    """
    opening = f"At {name_budget(budget.labels)}"
    headline = next((row for row in budget.rows if row.headline), None)
    if headline is None:
        said = join_words(f"{row.name} reaches {write_value(row.test)}" for row in budget.rows)
        return f"{opening}, {said}: there is no transfer arm to judge."
    parts = [_say_twin(headline, metric, margin)]
    if budget.contrasts:
        parts.append(_say_contrasts(headline, budget.contrasts, names, metric))
    tally = _say_tally(budget)
    return f"{opening}, " + "; ".join(parts) + f". {tally}".rstrip()


def _say_twin(row: Row, metric: str, margin: float) -> str:
    counted = count_replicates(row.replicates)
    if row.to_twin is None:
        reached = f"{row.name} reaches {write_value(row.test)} ({counted})"
        return f"{reached}, with no from-scratch twin to compare with"
    estimate = row.to_twin.estimate
    gain = write_gain(estimate, metric, signed=False)
    if row.verdict == "helps":
        many = row.multiplier
        worth = f"; it is worth {many.text}" if many is not None and many.says_more else ""
        return f"{row.name} beats training from scratch by {gain} ({counted}): transfer helps{worth}"
    if row.verdict == "hurts":
        return f"{row.name} falls short of training from scratch by {gain} ({counted}): transfer hurts"
    between = f"the difference between {row.name} and training from scratch"
    said = f"{between}, {write_gain(estimate, metric)} ({counted})"
    if row.verdict == "equivalent":
        return f"{said}, is within {write_margin(metric, margin)}: they are equivalent"
    settles = f"; what would settle it: {row.settles}" if row.settles else ""
    return f"{said}, is not established{_why_not(row)}{settles}"


def _why_not(row: Row) -> str:
    """Say why there is no verdict where the numbers beside it could suggest one."""
    if row.to_twin is None:
        return ""
    estimate = row.to_twin.estimate
    if estimate.n == 1:
        return f" (one {name_replicate(row.replicates)} says nothing of its own spread)"
    if not estimate.has_interval:
        return f" (no spread over these {name_replicate(row.replicates)}s, so no interval)"
    if row.to_twin.p < ALPHA:
        return f" (p = {row.to_twin.p:.2g} by itself, but {row.p_adjusted:.2g} after Holm's correction)"
    if row.to_twin_seeds is not None and _excludes_zero(row.to_twin_seeds.estimate):
        return " (for new seeds on these test images it would be, but not for new test images)"
    return ""


def _excludes_zero(estimate: Estimate) -> bool:
    return estimate.has_interval and not estimate.low <= 0 <= estimate.high


def _say_contrasts(
    headline: Row, contrasts: tuple[Contrast, ...], names: Mapping[Arm, str], metric: str
) -> str:
    """Say where the headline arm stands among the transfer arms."""
    better, worse, unclear = [], [], []
    for contrast in contrasts:
        estimate, name = contrast.difference.estimate, names[contrast.other]
        if not contrast.established:
            unclear.append(name)
        elif _is_better(estimate, metric):
            better.append(f"{name} by {write_gain(estimate, metric, signed=False)}")
        else:
            worse.append(f"{name} by {write_gain(estimate, metric, signed=False)}")
    subject, parts = headline.name, []
    for verb, names_said in (("beats", better), ("falls short of", worse)):
        if names_said:
            parts.append(f"{subject} {verb} {join_few(names_said)}")
            subject = "it"
    if unclear:
        noun, verb = ("difference", "is") if len(unclear) == 1 else ("differences", "are")
        whose = f"its {noun} to" if parts else f"the {noun} of {subject} to"
        parts.append(f"{whose} {join_few(unclear)} {verb} not established")
    return "; ".join(parts)


def _say_tally(budget: Budget) -> str:
    """Count the verdicts where several transfer arms have one."""
    words = [row.verdict for row in budget.rows if row.verdict and row.arm.method in TRANSFER_METHODS]
    if len(words) < 2:
        return ""
    if len(set(words)) == 1:
        all_of_them = "Both" if len(words) == 2 else f"All {len(words)}"
        return f"{_TALLY[words[0]][1].format(f'{all_of_them} transfer arms')}."
    counts = [
        forms[words.count(word) > 1].format(words.count(word))
        for word, forms in _TALLY.items()
        if word in words
    ]
    return f"Of {len(words)} transfer arms, {join_words(counts)}."


#: Each verdict said of one arm and of several.
_TALLY: Mapping[Verdict, tuple[str, str]] = {
    "helps": ("{} helps", "{} help"),
    "hurts": ("{} hurts", "{} hurt"),
    "equivalent": ("{} is equivalent", "{} are equivalent"),
    "not established": (
        "{} is not established",
        "{} are not established",
    ),
}


def _is_better(estimate: Estimate, metric: str) -> bool:
    return (estimate.mean > 0) == METRICS[metric].higher_is_better
