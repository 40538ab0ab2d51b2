"""Reasons to doubt a verdict, each with what to do about it, and what a reader has to know."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

from graft.compare.comparison import TRANSFER_METHODS, Section
from graft.compare.gaps import Gap
from graft.compare.left_out import doubt_left_out, list_left_out
from graft.compare.naming import (
    count_words,
    join_few,
    join_words,
    name_budget,
    name_budgets,
    write_margin,
)
from graft.compare.origins import doubt_origins, note_origins
from graft.compare.replicates import count_range, find_divisions
from graft.compare.search import doubt_search
from graft.compare.select import Selection
from graft.plan.arms import Arm
from graft.plan.replicates import Replicate
from graft.track.record import RunRecord

#: Fewer seeds or folds than these leave the spread between them badly known.
ENOUGH_REPLICATES = 5

#: Notes of runs that belong into the report, with the words that introduce them.
TOLD_NOTES = {
    "partial_weights": "Weights loaded partly",
    "data_warnings": "Data",
}


def list_doubts(
    section: Section, selection: Selection, records: Sequence[RunRecord], metric: str
) -> list[str]:
    """List what speaks against the verdicts of a section.

    Args:
        section: What the report says of the condition.
        selection: What it was chosen from.
        records: Its runs.
        metric: Name of the metric, without a split.
    """
    return [
        *_doubt_baseline(section),
        *_doubt_rising(section, metric),
        *_doubt_majority(section),
        *_doubt_probe(section),
        *_doubt_replicates(section),
        *doubt_search(section, selection),
        *_doubt_gaps(section),
        *doubt_left_out(section),
        *doubt_origins(section, records, metric),
    ]


def list_notes(section: Section, records: Sequence[RunRecord]) -> list[str]:
    """List what a reader has to know of a section.

    Args:
        section: What the report says of the condition.
        records: Its runs.
    """
    notes = []
    for key, opening in TOLD_NOTES.items():
        told = [line for record in records for line in record.notes.get(key, "").splitlines()]
        notes += [f"{opening}: {line}" for line in sorted(filter(None, set(map(str.strip, told))))]
    left_out = {(one.arm, one.labels): one.finished for one in section.left_out}
    alone: dict[str, list[str]] = defaultdict(list)
    fallen: dict[str, list[str]] = defaultdict(list)
    for budget in section.budgets:
        for row in budget.rows:
            if row.verdict is not None or row.arm.method not in TRANSFER_METHODS:
                continue
            twin = (row.arm.twin, budget.labels)
            if twin not in left_out:
                alone[row.name].append(budget.labels)
            elif not left_out[twin]:
                fallen[row.name].append(budget.labels)
    for name, labels in alone.items():
        notes.append(
            f"{name} has no finished from-scratch twin at {name_budgets(labels)}: no verdict there."
            " `sweep.twin=auto` adds it."
        )
    for name, labels in fallen.items():
        notes.append(
            f"No trial of the from-scratch twin of {name} at {name_budgets(labels)} can be compared, as its"
            " runs diverged, failed or have not ended: no verdict there. Where they diverged, a lower"
            " `optim.lr` or `optim.gradient_clip=1` may help."
        )
    return notes + note_origins(section, records)


def list_gaps(section: Section) -> list[str]:
    """List the runs that are missing or did not finish, those of one kind together; then arms left out."""
    groups: dict[tuple[Arm, str, str, str], list[Gap]] = defaultdict(list)
    for gap in section.gaps:
        groups[gap.arm, gap.labels, gap.status, gap.reason].append(gap)
    lines = []
    for (arm, labels, status, reason), gaps in groups.items():
        trials = len({gap.trial for gap in gaps})
        because = f": {' '.join(reason.split())}" if reason else ""
        where = f"{section.names.get(arm, arm.label)}, {name_budget(labels)}"
        which = f"{_name_replicates({gap.replicate for gap in gaps})}; {count_words(trials, 'trial')}"
        lines.append(f"{where}: {count_words(len(gaps), 'run')} {status} ({which}){because}")
    return lines + list_left_out(section)


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


def _doubt_rising(section: Section, metric: str) -> list[str]:
    """A baseline that is still getting better is under-trained."""
    if not section.rising:
        return []
    said = join_few(
        [
            f"{write_margin(metric, round(rise, 3))} in the last {100 * share:.0f} % at {name_budget(labels)}"
            for labels, rise, share in section.rising
        ]
    )
    when = f"at the end of its training (by {said})"
    why = "it may be under-trained, which flatters transfer"
    return [f"From scratch still improved on validation {when}: {why}. Raise `trainer.min_steps`, run again."]


def _doubt_majority(section: Section) -> list[str]:
    """What is not above always saying the largest class has learned nothing that its accuracy shows."""
    below: dict[str, list[str]] = defaultdict(list)
    for budget in section.budgets:
        for row in budget.rows:
            if row.test_accuracy <= budget.majority:
                said = (
                    f"{row.test_accuracy:.3f} against {budget.majority:.3f} at {name_budget(budget.labels)}"
                )
                below[row.name].append(said)
    return [
        f"{name} has no higher test accuracy than always saying the largest class ({join_few(said)}): it may"
        " have learned nothing. Look at `--metric balanced_accuracy`, and raise `trainer.min_steps` or widen"
        " `optim.lr`."
        for name, said in below.items()
    ]


def _doubt_probe(section: Section) -> list[str]:
    """A head below nearest neighbours on the very features it is trained on is under-trained."""
    below: dict[str, list[str]] = defaultdict(list)
    for budget in section.budgets:
        for row in budget.rows:
            if row.test_accuracy < row.feature_knn:
                said = (
                    f"{row.test_accuracy:.3f} against {row.feature_knn:.3f} at {name_budget(budget.labels)}"
                )
                below[row.name].append(said)
    return [
        f"{name} has a lower test accuracy than nearest neighbours on its own frozen features"
        f" ({join_few(said)}): its head may be under-trained. Raise `trainer.min_steps` or widen `optim.lr`."
        for name, said in below.items()
    ]


def _doubt_replicates(section: Section) -> list[str]:
    """Few seeds or folds leave the spread between them badly known; seeds of one fold are no new folds."""
    groups = {budget.labels: set(budget.rows[0].replicates) for budget in section.budgets}
    if section.folds is not None:
        groups = {
            labels: {Replicate(0, *division) for division in find_divisions(own)}
            for labels, own in groups.items()
        }
    enough = max(ENOUGH_REPLICATES, section.folds or 0)
    few = {labels: own for labels, own in groups.items() if len(own) < enough}
    if not few:
        return []
    noun, more = "seed", "seed=0,1,2,3,4"
    if section.folds is not None:
        seen = {fold for own in few.values() for _, fold in find_divisions(own)}
        noun = "fold"
        more = f"data.fold='range({section.folds})'" if len(seen) < section.folds else "data.fold_repeat=0,1"
    doubt = f"Only {count_range(few.values())} at {name_budgets(list(few))}:"
    doubt += f" the spread between {noun}s is badly known."
    if any(len(budget.rows[0].replicates) == 1 for budget in section.budgets):
        doubt += f" With one {noun} there is no interval and no verdict."
    return [f"{doubt} Run more, for example `{more}`."]


def _doubt_gaps(section: Section) -> list[str]:
    counts = dict.fromkeys(("missing", "running", "failed", "killed", "diverged", "pruned"), 0)
    for gap in section.gaps:
        counts[gap.status] += 1
    pruned = counts.pop("pruned")
    cut = (
        f"Cut early by `sweep.prune=asha`: {count_words(pruned, 'run')} of the grid. Arms were chosen among "
        "the trials that went on, by the same rule for all; `sweep.prune=off` trains the others, too."
    )
    said = [f"{count} {status}" for status, count in counts.items() if count]
    if not said:
        return [cut] if pruned else []
    total = sum(counts.values())
    again = "Ask for the sweep again: it does only what is missing"
    rates = (
        "; where runs diverged, a lower `optim.lr` or `optim.gradient_clip=1` may help"
        if counts["diverged"]
        else ""
    )
    return [
        f"{count_words(total, 'run')} of the grid cannot be compared ({join_words(said)}). {again}{rates}.",
        *([cut] if pruned else []),
    ]


def _name_replicates(replicates: Collection[Replicate]) -> str:
    """Name some replicates, those without folds by their seeds."""
    ordered = sorted(replicates)
    if any(one.division for one in ordered):
        return join_few([one.text for one in ordered])
    return f"seed{'s' if len(ordered) > 1 else ''} {', '.join(str(one.seed) for one in ordered)}"
