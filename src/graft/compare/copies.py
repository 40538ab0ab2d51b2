"""The metric without the test images of which training held a copy, and what the verdicts would then be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from graft.compare.comparison import CopiedBudget, WithoutCopies
from graft.compare.image_tables import IntArray, Table, Tables, read_tables
from graft.compare.judgement import Judgement
from graft.compare.select import Choice
from graft.plan.arms import Arm
from graft.track.archive import Archive


def leave_out_copies(choices: Sequence[Choice], tables: Tables, archive: Archive | None) -> Tables:
    """Return the test metrics without the images that any run of a label budget trained on a copy of.

    All runs of a budget lose the same images, so that they stay paired. Over several folds nothing is taken
    out: their test images differ.

    Args:
        choices: The choices of a condition.
        tables: Their test metrics by seed and test image.
        archive: Where the predictions are; None: nowhere.

    Returns:
        The tables; where training held no copies, the same ones.
    """
    copied = _find_copied(choices, tables)
    if not copied:
        return tables
    concerned = [one for one in choices if one.labels in copied]
    read = read_tables(concerned, tables.metric, tables.folds, archive, leave_out=copied)
    untouched = {key: one for key, one in tables.found.items() if key[1] not in copied}
    changed = {key: one for key, one in read.found.items() if key in tables.found}
    return replace(tables, found=untouched | changed)


def weigh_copies(
    choices: Sequence[Choice],
    tables: Tables,
    rest: Tables,
    judged: Mapping[tuple[Arm, str], Judgement],
    again: Mapping[tuple[Arm, str], Judgement],
) -> tuple[CopiedBudget, ...]:
    """Say what each arm reached, and what its difference establishes, with and without the copies.

    Args:
        choices: The choices of a condition, ascending by label budget.
        tables: Their test metrics by seed and test image.
        rest: The same without the copies.
        judged: What their differences establish with the copies.
        again: The same without the copies.

    Returns:
        The label budgets with copies, ascending.
    """
    budgets = []
    for labels, images in _find_copied(choices, tables).items():
        keys = [key for one in choices if one.labels == labels and (key := (one.arm, labels)) in tables.found]
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
