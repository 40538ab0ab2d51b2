"""How a report is to be read: the rules behind its choices, intervals and verdicts."""

from __future__ import annotations

import math

from graft.compare.comparison import Comparison, Row, Section
from graft.compare.replicates import name_replicate
from graft.config.names import METRICS

#: Stamped on every page of a comparison in which test chose.
ORACLE = "Oracle selection: test itself chose the trials. What could have been, not what can be had."

_FOLDS = (
    "Where there are folds, each is the test set once, and they share training images: they are not"
    " independent. Intervals and p-values are therefore those of the corrected resampled t-test (Nadeau and"
    " Bengio, 2003): the variance over n folds is multiplied by 1/n + 1/(folds - 1) instead of 1/n, with"
    " n - 1 degrees of freedom. The seeds of a fold share its test images, so they are averaged first; n"
    " counts each fold of each repeat once."
)


def explain(comparison: Comparison) -> list[str]:
    """Return what a reader has to know of a report, a rule per line."""
    unit = METRICS[comparison.metric].unit
    said_unit = "A point is 0.01 of the metric." if unit == "fraction" else f"Differences are in {unit}."
    folded = [_is_over_folds(section) for section in comparison.sections]
    lines = [_explain_choice(comparison)]
    if all(folded):
        covers = "for new training and test images"
        lines.append(f"{said_unit} Intervals of a metric are at 95 %, {covers}. Each stands for itself.")
    else:
        lines.append(
            f"{said_unit} Intervals of a metric are 95 % Student-t intervals over seeds, for new seeds on"
            " this test set: they do not cover new test images. Each stands for itself."
        )
    lines += _explain_differences(comparison)
    if any(folded):
        lines.append(_FOLDS)
    family = max((section.family for section in comparison.sections), default=0)
    by = "fold by fold" if all(folded) else "replicate by replicate" if any(folded) else "seed by seed"
    lines.append(
        f"A verdict compares an arm with its twin, {by}: the same data, labels, preprocessing and training"
        ' budget, from scratch. "Helps" and "hurts" need p below 0.05 in the paired test after Holm\'s'
        f" correction over all comparisons with a twin ({family}); differences between transfer arms are"
        " corrected as a family of their own."
    )
    if any(row.verdict == "equivalent" for row in _rows(comparison)):
        margin = (
            f"{100 * comparison.margin:g} points" if unit == "fraction" else f"{comparison.margin:g} {unit}"
        )
        lines.append(
            f'"Equivalent" means that two one-sided tests at 5 % place the difference within {margin}.'
        )
    if any(row.cost and math.isfinite(row.cost.tuned_seconds) for row in _rows(comparison)):
        lines.append(
            "Costs are those of runs that share nothing, pretraining apart. On the Pareto front is an arm"
            " when no other is at least as good on test and as cheap with its trials. It is as good as its"
            " twin when its validation reaches the best one of the twin; the time that saves pays its"
            " pretraining back."
        )
    lines.append("Labels are counted with those of validation.")
    return lines


def _explain_choice(comparison: Comparison) -> str:
    if comparison.selection == "oracle":
        return (
            "Test itself chose the trial of each arm (oracle): every number flatters, most the arm with"
            " most trials. It says what could have been reached, not what can be."
        )
    return (
        "Validation chose the trial of each arm, and the arm that a sentence speaks of (in bold in the"
        " tables). Test was read for chosen trials only; the tables are ordered by it, and name no winner."
    )


def _explain_differences(comparison: Comparison) -> list[str]:
    """Say what the intervals of differences cover, and how wide they are."""
    covered = {row.covers for row in _rows(comparison) if row.to_twin is not None}
    if not covered:
        return []
    if "seeds and images" not in covered:
        return ["Intervals of a difference to the twin are as wide as Holm's correction asks."]
    also = " where the runs kept their predictions, for new seeds alone elsewhere" if len(covered) > 1 else ""
    said = (
        "Intervals of a difference to the twin are for new seeds and new test images, from the predictions of"
        f" every test image{also}, and as wide as Holm's correction asks."
    )
    return [said]


def _rows(comparison: Comparison) -> list[Row]:
    return [row for section in comparison.sections for budget in section.budgets for row in budget.rows]


def _is_over_folds(section: Section) -> bool:
    """Whether intervals and verdicts are over folds: one fold alone is a test set as any other."""
    return any(name_replicate(row.replicates) == "fold" for budget in section.budgets for row in budget.rows)
