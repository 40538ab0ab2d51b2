"""Only what may pass is tried again, and a smaller micro-batch only where the result means the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from graft.plan.spec import RunSpec, specify
from graft.run import gather_facts
from graft.sweep.outcome import Outcome
from graft.sweep.retry import Attempt, advise, plan_retry, split_batch


@pytest.fixture
def spec_of(build_config: Callable[..., Any], runs_root: Any) -> Callable[..., RunSpec]:
    def make(**changes: Any) -> RunSpec:
        knobs = {key.replace("__", "."): value for key, value in changes.items()}
        config = build_config({"paths.root": str(runs_root), "trainer.accelerator": "cpu"} | knobs)
        return specify(config, gather_facts(config))

    return make


@pytest.mark.parametrize("cause", ["killed", "away"])
def test_what_may_pass_is_tried_again_so_often(cause: str, spec_of: Callable[..., RunSpec]) -> None:
    attempt: Attempt | None = Attempt(spec_of())
    tries = 0
    while attempt is not None:
        attempt, before = plan_retry(attempt, Outcome("k", "failed", "why", cause=cause), 2), attempt
        tries += 1
    assert tries == 3
    assert before.earlier == ("why", "why")


@pytest.mark.parametrize("status", ["failed", "diverged", "finished"])
def test_a_deterministic_end_never_is(status: str, spec_of: Callable[..., RunSpec]) -> None:
    assert plan_retry(Attempt(spec_of()), Outcome("k", status, "why"), 5) is None


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_run(spec_of: Callable[..., RunSpec]) -> None:
    outcome = Outcome("k", "failed", "out of memory", cause="memory")
    attempt: Attempt | None = Attempt(spec_of(backbone__name="cnn2", data__batch_size=6))
    first = attempt
    seen = []
    while attempt is not None:
        seen.append(attempt.spec.config.trainer.accumulate)
        assert attempt.spec.key == first.spec.key
        assert attempt.spec.config.data.batch_size == 6
        attempt, last = plan_retry(attempt, outcome, 9), attempt
    assert seen == [1, 2, 4], "at most one micro-batch for each image"
    assert last.earlier == (
        "out of memory; trainer.accumulate 1 -> 2", "out of memory; trainer.accumulate 2 -> 4"
    )  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [{"backbone__name": "small_cnn"}, {"backbone__name": "cnn2", "augment__name": "flip_crop"}],
    ids=["batch norm", "augmentation"],
)
def test_not_where_the_result_would_be_another(
    changes: dict[str, Any], spec_of: Callable[..., RunSpec]
) -> None:
    spec = spec_of(**changes)
    assert split_batch(spec) is None
    outcome = Outcome("k", "failed", "out of memory", cause="memory")
    assert plan_retry(Attempt(spec), outcome, 2) is None
    advice = advise(spec, outcome)
    assert "`trainer.accumulate=2`: another run" in advice
    assert "`data.batch_size`" in advice
    assert advise(spec, Outcome("k", "failed", "else")) == ""


def test_a_frozen_batch_norm_is_no_obstacle(spec_of: Callable[..., RunSpec]) -> None:
    frozen = {"transfer__method": "random_features", "transfer__freeze_depth": 5}
    smaller = split_batch(spec_of(backbone__name="small_cnn", **frozen))
    assert smaller is not None
    assert smaller.config.trainer.accumulate == 2
