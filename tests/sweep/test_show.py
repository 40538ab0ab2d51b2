"""What a person sees of a plan: seeds without folds, folds where there are some."""

from __future__ import annotations

import itertools
from io import StringIO

import pytest
from rich.console import Console

from graft.plan.spec import Facts, specify
from graft.sweep.planner import Plan
from graft.sweep.show import show_failures, show_plan
from graft.sweep.worker import Outcome

FACTS = Facts("d", (), None, "none", {"size": 16}, "32")


@pytest.fixture(scope="module")
def plan_of(build_config):
    def make(**axes):
        base = {"transfer.method": ["from_scratch"]} | {
            key.replace("__", "."): values for key, values in axes.items()
        }
        configs = [
            build_config(dict(zip(base, point, strict=True))) for point in itertools.product(*base.values())
        ]
        return Plan(tuple(specify(config, FACTS) for config in configs), frozenset(), 0, 0)

    return make


def print_plan(plan: Plan) -> str:
    console = Console(file=StringIO(), width=120, color_system=None)
    show_plan(console, plan)
    return console.file.getvalue()


def test_seeds_are_counted(plan_of) -> None:
    said = print_plan(plan_of(seed=[0, 1, 2], data__labels_per_class=[10, 2, None]))
    assert "labels per class" in said
    assert "seeds" in said
    assert "2, 10, all" in said
    assert "replicates" not in said


def test_folds_and_shares_are_said(plan_of) -> None:
    said = print_plan(
        plan_of(seed=[0, 1], data__folds=[5], data__fold=list(range(5)), data__label_fraction=[0.3, 0.05])
    )
    assert "2 seeds x 5 folds" in said
    assert "5%, 30%" in said
    assert "replicates" in said
    assert "labels per class" not in said


def test_a_failed_fold_is_named(plan_of) -> None:
    plan = plan_of(data__folds=[5], data__fold=[3])
    console = Console(file=StringIO(), width=160, color_system=None)
    outcome = Outcome(plan.specs[0].key, "failed", "out of memory")
    show_failures(console, plan.specs, [outcome], "graft train")
    assert "seed=0 repeat=0 fold=3" in console.file.getvalue()
