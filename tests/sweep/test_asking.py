"""What the user asks of a sweep, and is told before the first run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from graft.cli import main
from graft.track.store import open_store

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Say:
    def ask(*words: str) -> tuple[int, str, str]:
        code = main(["train", "-m", "trainer.accelerator=cpu", f"paths.root={tmp_path}/runs", *words])
        return (code, *capsys.readouterr())

    return ask


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sweep.workers=0"], "Expected `sweep.workers` at least 1, but got 0."),
        (["sweep.workers=auto"], "Expected `sweep.workers` to be a whole number, or null, but got 'auto'."),
        (
            ["sweep.workers=1000"],
            "but got 1000. To let runs share what there is: `sweep.oversubscribe=true`.",
        ),
        (["seed=range(0)"], "Expected at least one value for `seed`"),
        (["sweep.run_timeout=0"], "Expected `sweep.run_timeout` at least 1, but got 0."),
        (["sweep.retries=-1"], "Expected `sweep.retries` between 0 and 100, but got -1."),
    ],
)
def test_a_mistake_is_said_before_anything_is_written(words, said, say, tmp_path) -> None:
    code, told, complained = say("seed=0,1", *words)
    assert code == 2
    assert said in complained
    assert "Traceback" not in told + complained
    assert not (tmp_path / "runs").exists()


def test_a_run_that_is_asked_for_twice_is_run_once(say) -> None:
    code, told, _ = say("seed=0,1,0", "sweep.dry_run=true")
    assert code == 0
    assert "2 runs, 0 done already; 1 equal run merged." in told
    assert "unknown until the first run has ended" in told


def test_a_dry_run_says_what_would_be_shared_and_records_nothing(say, tmp_path) -> None:
    probes = [
        "transfer=random_features",
        "transfer.freeze_depth=2",
        "optim.lr=0.1,0.2",
        "trainer.min_steps=500",
    ]
    code, told, _ = say("seed=0", "sweep.dry_run=true", "backbone=small_cnn", *probes)
    assert code == 0
    assert "Reuse: " in told
    assert "All runs" not in told
    store = open_store(None, tmp_path / "runs")
    assert all(not store.client.search_runs([one.experiment_id]) for one in store.client.search_experiments())
    assert not (tmp_path / "runs" / "cache" / "activations").exists()


def test_the_cores_may_be_shared_when_asked_for(say) -> None:
    code, told, _ = say("seed=0,1", "sweep.dry_run=true", "sweep.workers=1000", "sweep.oversubscribe=true")
    assert code == 0
    assert "1000 workers share" in told
