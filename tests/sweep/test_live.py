"""Counts, the best so far and a calm log."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from graft.plan.spec import Facts, RunSpec, specify
from graft.sweep.live import SweepView, find_best
from graft.sweep.outcome import Outcome

FACTS = Facts("d", (), None, "none", {"size": 16}, "32")


@pytest.fixture(scope="module")
def spec_of(build_config: Callable[..., Any]) -> Callable[..., RunSpec]:
    return lambda **changes: specify(
        build_config(
            {"metric": "accuracy"} | {key.replace("__", "."): value for key, value in changes.items()}
        ),
        FACTS,
    )


def test_the_best_trial_of_each_arm_is_chosen_by_its_mean_over_seeds(spec_of) -> None:
    values = [
        (spec_of(optim__lr=0.1, seed=0), 0.9),
        (spec_of(optim__lr=0.1, seed=1), 0.1),
        (spec_of(optim__lr=0.2, seed=0), 0.6),
        (spec_of(optim__lr=0.2, seed=1), 0.6),
        (spec_of(backbone__name="cnn2"), 0.3),
    ]
    best = find_best(values)
    assert [(spec.config.backbone.name, spec.config.optim.lr, count) for spec, _, count in best] == [
        ("cnn2", 1e-3, 1), ("small_cnn", 0.2, 2)
    ]  # fmt: skip
    assert best[1][1] == pytest.approx(0.6)


def test_the_smallest_loss_is_the_best(spec_of) -> None:
    values = [(spec_of(metric="loss", optim__lr=lr), lr) for lr in (0.1, 0.2)]
    assert [mean for _, mean, _ in find_best(values)] == [0.1]


def test_piped_it_says_failures_at_once_and_the_rest_now_and_then(spec_of) -> None:
    console = Console(file=StringIO(), width=200, color_system=None)
    with SweepView(console, 3) as view:
        view.advance(1, 0.5)
        view.end(spec_of(seed=0), Outcome("a", "finished", val=0.5))
        view.retry(spec_of(seed=1), "its process was ended by SIGKILL")
        view.end(spec_of(seed=1), Outcome("b", "failed", "ValueError: [no] more"))
        view.end(spec_of(seed=2), Outcome("c", "finished", val=0.5))
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("tried again: from scratch · small_cnn")
    assert lines[0].endswith("its process was ended by SIGKILL")
    assert lines[1].startswith("failed: ")
    assert lines[1].endswith("ValueError: [no] more")
    assert lines[2] == "3 of 3 runs, about 0 s left"


def test_on_a_terminal_it_shows_counts_and_the_best(spec_of) -> None:
    console = Console(file=StringIO(), width=200, height=30, color_system=None, force_terminal=True)
    with SweepView(console, 3, [(spec_of(seed=7), 0.75)]) as view:
        view.advance(1, 0.5)
        view.end(spec_of(seed=0), Outcome("a", "finished", val=0.25))
        view.end(spec_of(seed=1), Outcome("b", "failed", "why"))
        view.advance(1, 0.5)
    said = console.file.getvalue()
    assert "1 done, 1 running, 1 failed" in said
    assert "val/accuracy, mean over seeds" in said
    assert "0.5000" in said
