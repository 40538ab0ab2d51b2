"""The metric without the test images of which training held a copy, and what the verdicts would then be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from graft.compare.comparison import CopiedBudget, WithoutCopies
from graft.compare.image_tables import IntArray, Table, Tables, read_tables
from graft.compare.judgement import Judgement, judge_pairs
from graft.compare.select import Choice
from graft.plan.arms import Arm
from graft.track.archive import Archive


def weigh_copies(
    choices: Sequence[Choice],
    tables: Tables,
    judged: Mapping[tuple[Arm, str], Judgement],
    margin: float,
    archive: Archive | None,
) -> tuple[CopiedBudget, ...]:
    """Take out the test images that any run of a label budget trained on a copy of, and judge again.

    All runs of a budget lose the same images, so that they stay paired. Over several folds nothing is taken
    out: their test images differ.

    Args:
        choices: The choices of a condition, ascending by label budget.
        tables: Their test metrics by seed and test image.
        judged: What their differences establish with the copies.
        margin: Difference that counts as none, in the unit of the metric.
        archive: Where the predictions are; None: nowhere.

    Returns:
        The label budgets with copies, ascending.

    Raises:
        GraftError: When a chosen run has no test metric.
    """
    copied = _find_copied(choices, tables)
    if not copied:
        return ()
    concerned = [one for one in choices if one.labels in copied]
    read = read_tables(concerned, tables.metric, tables.folds, archive, leave_out=copied)
    untouched = {key: one for key, one in tables.found.items() if key[1] not in copied}
    changed = {key: one for key, one in read.found.items() if key in tables.found}
    rest = replace(tables, found=untouched | changed)
    again = judge_pairs(choices, rest, margin)
    budgets = []
    for labels, images in copied.items():
        keys = [(one.arm, labels) for one in concerned if (one.arm, labels) in tables.found]
        arms = tuple(
            WithoutCopies(
                key[0],
                float(tables.found[key].values.mean()),
                _average(rest.found.get(key)),
                judged[key].verdict if key in judged else None,
                again[key].verdict if key in again and _is_paired(key, rest) else None,
            )
            for key in keys
        )
        total = len(tables.found[keys[0]].images)
        budgets.append(CopiedBudget(labels, len(images), total, arms))
    return tuple(budgets)


def _find_copied(choices: Sequence[Choice], tables: Tables) -> dict[str, IntArray]:
    """Return the test images of which a run of a label budget trained on a copy, where there are any."""
    found: dict[str, IntArray] = {}
    for choice in choices:
        table = tables.found.get((choice.arm, choice.labels))
        if table is not None and table.copied is not None and table.copied.any():
            before = found.get(choice.labels, np.zeros(0, dtype=np.int64))
            found[choice.labels] = np.union1d(before, table.images[table.copied])
    return found


def _is_paired(key: tuple[Arm, str], tables: Tables) -> bool:
    """Whether an arm and its twin both have a table."""
    arm, labels = key
    return key in tables.found and (arm.twin, labels) in tables.found


def _average(table: Table | None) -> float:
    return math.nan if table is None else float(table.values.mean())
