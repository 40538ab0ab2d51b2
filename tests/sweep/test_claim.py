"""One process at a time executes a run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft.plan.spec import Facts, RunSpec, specify
from graft.sweep.claim import claiming
from graft.track.store import open_store
from graft.track.writer import start_run


@pytest.fixture
def spec(build_config: Callable[..., Any], tmp_path: Path) -> RunSpec:
    config = build_config({"paths.root": str(tmp_path), "metric": "accuracy"})
    return specify(config, Facts("d", (), None, "none", {"size": 16}, "32"))


def lock_of(spec: RunSpec) -> Path:
    return Path(spec.config.paths.root) / "locks" / f"{spec.key}.lock"


def test_the_second_waits_and_finds_it_finished(spec: RunSpec) -> None:
    waiting, found = threading.Event(), list[float | None]()

    def ask() -> None:
        with claiming(spec, waiting.set) as known:
            found.append(known)

    with claiming(spec) as known:
        assert known is None
        second = threading.Thread(target=ask)
        second.start()
        assert waiting.wait(timeout=30)
        assert not found, "it waits as long as the run is executed"
        store = open_store(None, Path(spec.config.paths.root))
        writer = start_run(store, spec, parent_id=None, notes={})
        writer.record({"val/accuracy": 0.625}, 1)
        writer.end("finished")
    second.join(timeout=30)
    assert found == [0.625]
    assert not lock_of(spec).exists(), "a finished run leaves no lock behind"


def test_a_run_that_falls_leaves_the_lock_free(spec: RunSpec) -> None:
    with pytest.raises(ValueError, match="no more"), claiming(spec):
        raise ValueError("no more")
    with claiming(spec, lambda: pytest.fail("it is free")) as known:
        assert known is None
    assert lock_of(spec).exists(), "somebody may wait for it"


@pytest.mark.parametrize(("name", "value"), [("LOCAL_RANK", "0"), ("SLURM_NTASKS", "2")])
def test_processes_of_one_run_do_not_wait_for_each_other(
    name: str, value: str, spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with claiming(spec), claiming(spec, lambda: pytest.fail("it waits for itself")) as known:
        assert known is None
