"""What a person sees of a plan: seeds without folds, folds where there are some."""

from __future__ import annotations

import itertools
from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console

from graft.plan.spec import Facts, specify
from graft.sweep.grid import Cell
from graft.sweep.planner import Plan, make_plan
from graft.sweep.show import show_failures, show_gain, show_plan
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


def test_the_gain_counts_what_pruned_runs_cost_too() -> None:
    console = Console(file=StringIO(), width=120, color_system=None)
    costs = {"finished": (600.0, 100.0), "pruned": (90.0, 20.0), "failed": None}
    records = [
        SimpleNamespace(
            status=status,
            metrics=dict(zip(("train_seconds", "amortised_seconds"), cost, strict=True)) if cost else {},
        )
        for status, cost in costs.items()
    ]
    show_gain(console, records)
    assert console.file.getvalue() == "Training took 2 min of work; without reuse about 12 min (5.8x).\n"


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


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        (
            {
                "transfer__method": ["linear_probe"], "head__name": ["linear", "ridge"],
                "optim__lr": [0.1, 0.2],
            },
            "1 equal run merged (a ridge head is solved, whatever the rate and the batch size).",
        ),
        (
            {"transfer__method": ["from_scratch", "fine_tune"], "transfer__freeze_depth": [0, 3]},
            "1 equal run merged (from scratch has no weights, freeze depth or ridge head).",
        ),
        (
            {"transfer__method": ["linear_probe"], "transfer__freeze_depth": [3, 5]},
            "1 equal run merged (a linear probe freezes all stages).",
        ),
        (
            {
                "transfer__method": ["from_scratch", "linear_probe"], "transfer__freeze_depth": [5],
                "head__name": ["ridge"], "optim__lr": [0.1, 0.2],
            },
            "1 equal run merged (a ridge head is solved, whatever the rate and the batch size).",
        ),
        (
            {"transfer__method": ["fine_tune"], "optim__name": ["adamw"], "optim__momentum": [0.8, 0.9]},
            "1 equal run merged.",
        ),
        ({"transfer__method": ["from_scratch"], "seed": [0, 0, 0]}, "2 equal runs merged."),
    ],
    ids=["ridge", "scratch", "probe", "ridge beside scratch", "no effect", "twice"],
)  # fmt: skip
def test_why_runs_are_equal_is_said_of_those_that_are(build_config, axes, said) -> None:
    base = {"transfer.freeze_depth": [5 if "linear_probe" in axes["transfer__method"] else 0]}
    base |= {"backbone.weights": ["glyphs"], "sweep.twin": ["off"]}
    base |= {key.replace("__", "."): values for key, values in axes.items()}
    points = itertools.product(*base.values())
    cells = [Cell(build_config(dict(zip(base, point, strict=True))), ()) for point in points]
    facts = Facts("d", (), "a" * 64, "glyphs", {"size": 16}, "32")
    assert said in " ".join(print_plan(make_plan(cells, lambda _: facts, ())).split())


def test_a_failed_fold_is_named(plan_of) -> None:
    plan = plan_of(data__folds=[5], data__fold=[3])
    console = Console(file=StringIO(), width=160, color_system=None)
    outcome = Outcome(plan.specs[0].key, "failed", "out of memory")
    show_failures(console, plan.specs, [outcome], "graft train")
    assert "seed=0 repeat=0 fold=3" in console.file.getvalue()
