"""Reasons to doubt a verdict, each with what to do about it, and what a reader has to know."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from graft.compare.comparison import TRANSFER_METHODS, Section
from graft.compare.naming import count_words, join_words, name_budget
from graft.compare.select import Gap, Selection
from graft.plan.arms import Arm
from graft.track.record import RunRecord

#: Fewer seeds than these leave the spread between them badly known.
ENOUGH_SEEDS = 5

#: Notes of runs that belong into the report, with the words that introduce them.
TOLD_NOTES = {
    "source_contains_target": "Pretraining data",
    "preprocessing_override": "Preprocessing of the weights overridden",
    "partial_weights": "Weights loaded partly",
}


def list_doubts(section: Section, selection: Selection) -> list[str]:
    """List what speaks against the verdicts of a section.

    Args:
        section: What the report says of the condition.
        selection: What it was chosen from.
    """
    return [
        *_doubt_baseline(section),
        *_doubt_seeds(section),
        *_doubt_rates(section, selection),
        *_doubt_budgets(section),
        *_doubt_gaps(section),
    ]


def list_notes(section: Section, records: Iterable[RunRecord]) -> list[str]:
    """List what a reader has to know of a section.

    Args:
        section: What the report says of the condition.
        records: Its runs.
    """
    notes = []
    for key, opening in TOLD_NOTES.items():
        for text in sorted({record.notes[key] for record in records if record.notes.get(key)}):
            notes.append(f"{opening}: {text}")
    alone: dict[str, list[str]] = defaultdict(list)
    for budget in section.budgets:
        for row in budget.rows:
            if row.verdict is None and row.arm.method in TRANSFER_METHODS:
                alone[row.name].append(budget.labels)
    for name, labels in alone.items():
        notes.append(
            f"{name} has no finished from-scratch twin at {_name_budgets(labels)}: no verdict there."
            " `sweep.twin=auto` adds it."
        )
    return notes


def list_gaps(section: Section) -> list[str]:
    """List the runs that are missing or did not finish, those of one kind together."""
    groups: dict[tuple[Arm, str, str, str], list[Gap]] = defaultdict(list)
    for gap in section.gaps:
        groups[gap.arm, gap.labels, gap.status, gap.reason].append(gap)
    lines = []
    for (arm, labels, status, reason), gaps in groups.items():
        seeds = sorted({gap.seed for gap in gaps})
        trials = len({gap.trial for gap in gaps})
        because = f": {' '.join(reason.split())}" if reason else ""
        where = f"{section.names.get(arm, arm.label)}, {name_budget(labels)}"
        which = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
        which = f"{which}; {count_words(trials, 'trial')}"
        lines.append(f"{where}: {count_words(len(gaps), 'run')} {status} ({which}){because}")
    for arm, labels in section.left_out:
        lines.append(
            f"{section.names[arm]}, {name_budget(labels)}: left out, no trial finished the seeds compared"
        )
    return lines


def _doubt_baseline(section: Section) -> list[str]:
    """A from-scratch arm below nearest neighbours on pixels is under-trained, which flatters transfer."""
    doubts = []
    for curve in section.curves:
        if not curve.arm.from_scratch:
            continue
        below = []
        for budget in section.budgets:
            row = next((row for row in budget.rows if row.arm == curve.arm), None)
            if row is not None and row.test_accuracy < budget.pixel_1nn:
                below.append(
                    f"{row.test_accuracy:.3f} against {budget.pixel_1nn:.3f} at {name_budget(budget.labels)}"
                )
        if below:
            doubts.append(
                f"{section.names[curve.arm]} has a lower test accuracy than 1-nearest-neighbour on raw pixels"
                f" ({join_words(below)}): the baseline may be under-trained, which flatters transfer."
                " Raise `trainer.min_steps` and run again."
            )
    return doubts


def _doubt_seeds(section: Section) -> list[str]:
    seeds = {budget.labels: len(budget.rows[0].seeds) for budget in section.budgets}
    few = [labels for labels, count in seeds.items() if count < ENOUGH_SEEDS]
    if not few:
        return []
    counts = sorted({seeds[labels] for labels in few})
    said = f"{counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else count_words(counts[0], "seed")
    only_one = " With one seed there is no interval and no verdict." if counts[0] == 1 else ""
    return [
        (
            f"Only {said} at {_name_budgets(few)}: the spread between seeds is badly known.{only_one}"
            " Run more, for example `seed=0,1,2,3,4`."
        )
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
        f" at {_name_budgets(labels)}. Try further:"
        f" add `{rate / 3 if end == 'lowest' else rate * 3:.1g}` to `optim.lr`."
        for (arm, rate, end), labels in edges.items()
    ]


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
        if len({row.trials for row in budget.rows}) > 1:
            by_count: dict[int, list[str]] = defaultdict(list)
            for row in sorted(budget.rows, key=lambda row: (-row.trials, row.name)):
                by_count[row.trials].append(row.name)
            said = "; ".join(
                f"{count_words(count, 'trial')} for {join_words(arms)}" for count, arms in by_count.items()
            )
            groups[said].append(budget.labels)
    return [
        f"Tuning budgets differ at {_name_budgets(labels)}: {said}. Give all arms the same values of `optim`."
        for said, labels in groups.items()
    ]


def _doubt_gaps(section: Section) -> list[str]:
    counts = dict.fromkeys(("missing", "running", "failed", "killed", "diverged"), 0)
    for gap in section.gaps:
        counts[gap.status] += 1
    said = [f"{count} {status}" for status, count in counts.items() if count]
    if not said:
        return []
    total = sum(counts.values())
    again = "Ask for the sweep again: it does only what is missing"
    rates = (
        "; where runs diverged, a lower `optim.lr` or `optim.gradient_clip=1` may help"
        if counts["diverged"]
        else ""
    )
    return [
        f"{count_words(total, 'run')} of the grid cannot be compared ({join_words(said)}). {again}{rates}."
    ]


def _name_budgets(labels: Sequence[str]) -> str:
    """Name several label budgets at once.

    >>> _name_budgets(["2", "5", "all"])
    '2, 5 and all labels per class'
    """
    return name_budget(labels[0]) if len(labels) == 1 else f"{join_words(labels)} labels per class"
