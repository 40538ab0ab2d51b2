"""Arms that are not compared, because they lack replicates that the others share: what is said of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from graft.compare.comparison import Section
from graft.compare.gaps import LeftOut
from graft.compare.naming import join_few, name_budget
from graft.compare.replicates import count_replicates, find_divisions
from graft.plan.replicates import Replicate


def list_left_out(section: Section) -> list[str]:
    """List the arms that are not compared, each with the replicates that it has."""
    return [_describe(section, one) for one in section.left_out]


def doubt_left_out(section: Section) -> list[str]:
    """An arm that is not compared may be the best one."""
    groups: dict[str, list[LeftOut]] = defaultdict(list)
    for one in section.left_out:
        if one.finished:  # what never finished is counted with the runs that failed
            groups[_name_sweep(one.compared)].append(one)
    doubts = []
    for sweep, group in groups.items():
        said = join_few([f"{section.names[one.arm]} at {name_budget(one.labels)}" for one in group])
        twins = any(one.arm.from_scratch for one in group)
        why = f"Left out of the comparison, as too few of their runs are there: {said}"
        cost = "; without its twin an arm has no verdict" if twins else ""
        doubts.append(f"{why}{cost}. Ask for them again with `{sweep}`: it does only what is missing.")
    return doubts


def _describe(section: Section, one: LeftOut) -> str:
    where = f"{section.names[one.arm]}, {name_budget(one.labels)}"
    if not one.finished:
        return f"{where}: left out, no trial finished without a diverged run"
    has = len(set(one.finished) & set(one.compared))
    return f"{where}: left out, has {has} of the {count_replicates(one.compared)} compared"


def _name_sweep(replicates: Sequence[Replicate]) -> str:
    """Write what a sweep has to ask for to have some replicates.

    >>> _name_sweep([Replicate(0), Replicate(1)])
    'seed=0,1'
    >>> _name_sweep([Replicate(0, 0, 1), Replicate(0, 0, 2)])
    'seed=0 data.fold=1,2'
    """
    divisions = find_divisions(replicates)
    axes = {
        "seed": {one.seed for one in replicates},
        "data.fold": {fold for _, fold in divisions},
        "data.fold_repeat": {repeat for repeat, _ in divisions} - {0},
    }
    if axes["data.fold_repeat"]:
        axes["data.fold_repeat"] = {repeat for repeat, _ in divisions}
    return " ".join(f"{name}={','.join(map(str, sorted(own)))}" for name, own in axes.items() if own)
