"""Doubts about the search for each arm's best trial: what was tried, and on how many images it was chosen."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from graft.compare.comparison import Section
from graft.compare.naming import count_words, join_few, join_words, name_budget, name_budgets
from graft.compare.select import Selection
from graft.plan.arms import Arm

#: Fewer validation images, over all replicates, hardly tell one trial from another.
ENOUGH_VALIDATION = 100


def doubt_search(section: Section, selection: Selection) -> list[str]:
    """List why another trial might have been the better one."""
    return [
        *_doubt_rates(section, selection),
        *_doubt_single_rates(section, selection),
        *_doubt_validation(section, selection),
        *_doubt_budgets(section),
    ]


def _doubt_rates(section: Section, selection: Selection) -> list[str]:
    """A best rate at the edge of its grid may have a better one beyond it."""
    edges: dict[tuple[Arm, float, str], list[str]] = defaultdict(list)
    for choice in selection.choices:
        rates = sorted({read_rate(trial) for trial in choice.trials})
        rate = read_rate(choice.trial)
        if len(rates) > 1 and rate in (rates[0], rates[-1]):
            edges[choice.arm, rate, "lowest" if rate == rates[0] else "highest"].append(choice.labels)
    return [
        f"{section.names[arm]}: the chosen learning rate {rate:g} is the {end} tried"
        f" at {name_budgets(labels)}. Try further:"
        f" add `{rate / 3 if end == 'lowest' else rate * 3:.1g}` to `optim.lr`."
        for (arm, rate, end), labels in edges.items()
    ]


def _doubt_single_rates(section: Section, selection: Selection) -> list[str]:
    """An arm with one rate may do much better with another."""
    single: dict[str, list[str]] = defaultdict(list)
    for choice in selection.choices:
        rates = {read_rate(trial) for trial in choice.trials}
        if len(rates) == 1 and not any(map(math.isnan, rates)):
            single[section.names[choice.arm]].append(choice.labels)
    if not single:
        return []
    labels = list(dict.fromkeys(text for own in single.values() for text in own))
    said = f"A single learning rate was tried for {join_few(list(single))} at {name_budgets(labels)}"
    why = "another may be better, for some arms more than for others"
    return [f"{said}: {why}. Try more, for example `optim.lr=1e-4,1e-3,1e-2`."]


def _doubt_validation(section: Section, selection: Selection) -> list[str]:
    """With few validation images, the trial that was chosen may have been lucky."""
    few: dict[int, list[str]] = defaultdict(list)
    for budget in section.budgets:
        images = budget.labels_val * _count_splits(selection, budget.labels)
        if images < ENOUGH_VALIDATION and any(row.trials > 1 for row in budget.rows):
            few[round(images)].append(budget.labels)
    if not few:
        return []
    said = join_few([f"{images} at {name_budgets(labels)}" for images, labels in few.items()])
    error = 50 / math.sqrt(max(min(few), 1))  # standard error of a proportion of one half, in percent
    doubt = f"Few validation images, those of all {'folds' if section.folds else 'seeds'} together, chose the"
    doubt += f" trials: {said}, a standard error of up to {error:.0f} points of accuracy. A worse trial may"
    return [f"{doubt} have been lucky. Raise `data.val_size`, or run more seeds."]


def _count_splits(selection: Selection, labels: str) -> int:
    """Return over how many divisions of the images a choice was made: seeds may share one."""
    runs = next(choice.runs for choice in selection.choices if choice.labels == labels)
    return len({record.notes.get("split", replicate.text) for replicate, record in runs.items()})


def read_rate(trial: str) -> float:
    """Return the learning rate in the canonical text of a trial, NaN without one.

    >>> read_rate("batch_size=32 lr=0.001 name=adamw")
    0.001
    """
    return next((float(word[3:]) for word in trial.split() if word.startswith("lr=")), math.nan)


def _doubt_budgets(section: Section) -> list[str]:
    """Who may choose among more trials has the better best one."""
    groups: dict[str, list[str]] = defaultdict(list)
    for budget in section.budgets:
        tuned = [row for row in budget.rows if row.arm.head != "ridge"]  # it has one trial: nothing to tune
        if len({row.trials for row in tuned}) > 1:
            by_count: dict[int, list[str]] = defaultdict(list)
            for row in sorted(tuned, key=lambda row: (-row.trials, row.name)):
                by_count[row.trials].append(row.name)
            said = "; ".join(
                f"{count_words(count, 'trial')} for {join_words(arms)}" for count, arms in by_count.items()
            )
            groups[said].append(budget.labels)
    return [
        f"Tuning budgets differ at {name_budgets(labels)}: {said}.{_say_expected(section, labels)} Give all"
        " arms as many trials: those with fewer more values of `optim.lr`."
        for said, labels in groups.items()
    ]


def _say_expected(section: Section, labels: Sequence[str]) -> str:
    """Say what the arms would reach on validation with as many trials each as the one with fewest had."""
    curves = [curve for curve in section.tuning_curves if curve.labels == labels[-1] and curve.expected]
    if len(curves) < 2:
        return ""
    fewest = min(len(curve.expected) for curve in curves)
    ordered = sorted(curves, key=lambda curve: -curve.expected[fewest - 1])
    said = [f"{curve.expected[fewest - 1]:.3f} for {section.names[curve.arm]}" for curve in ordered]
    opening = f"With {count_words(fewest, 'trial')} each, expected at {name_budget(labels[-1])} on validation"
    return f" {opening}: {join_words(said)}."
