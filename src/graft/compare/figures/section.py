"""All figures of a condition, in the order of the report."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl

from graft.compare.canvas import STYLE, colour_arm
from graft.compare.comparison import Section
from graft.compare.drawing import Drawing
from graft.compare.evidence import Evidence
from graft.compare.figures.arms import draw_arms
from graft.compare.figures.calibration import draw_calibration
from graft.compare.figures.confusion import draw_confusion
from graft.compare.figures.depths import draw_depths, has_profile
from graft.compare.figures.labels import draw_labels
from graft.compare.figures.learning import draw_learning
from graft.compare.figures.pairs import draw_pairs
from graft.compare.figures.pareto import draw_pareto
from graft.compare.figures.rates import draw_rates
from graft.compare.figures.tuning import draw_tuning
from graft.track.record import RunRecord

_NOTHING = Evidence()


def draw_section(
    section: Section, metric: str, records: Sequence[RunRecord] = (), evidence: Evidence = _NOTHING
) -> list[Drawing]:
    """Draw the figures that fit a section; the first is the one that says most.

    Several label budgets give a curve, one gives a plot of arms; a grid of freeze depths its profile too.
    What needs more than the numbers of the runs is drawn where the evidence holds it.

    Args:
        section: One condition of a comparison.
        metric: Name of the metric, without a split.
        records: Runs, those of other conditions are left out.
        evidence: Histories and predictions.
    """
    own = [record for record in records if record.condition == section.condition]
    with mpl.rc_context(STYLE):
        if len(section.budgets) > 1:
            drawings: list[Drawing | None] = [draw_labels(section, metric)]
        else:
            drawings = [draw_arms(section, section.budgets[0].labels, metric)]
        drawings += [
            draw_depths(section, budget.labels, metric)
            for budget in section.budgets
            if has_profile(section, budget.labels)
        ]
        drawings.append(draw_pairs(section, metric))
        drawings.append(draw_rates(section, own, metric))
        drawings.append(draw_tuning(section, metric))
        drawings.append(draw_learning(section, own, evidence.histories, metric))
        drawings.append(draw_pareto(section, metric))
        portrait = evidence.portraits.get(section.condition)
        if portrait is not None:
            headline = next(row for row in section.budgets[-1].rows if row.headline)
            drawings.append(draw_confusion(portrait, section.data))
            drawings.append(draw_calibration(portrait, section.data, colour_arm(headline.arm)))
    return [drawing for drawing in drawings if drawing is not None]
