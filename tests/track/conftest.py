from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from graft.config.load import to_config
from graft.plan.spec import Facts, RunSpec, specify
from graft.track.store import Store, open_store

Plan = Callable[..., RunSpec]

PREPROCESSING = {
    "channels": 1, "size": 16, "resize": None, "interpolation": "bilinear", "antialias": True,
    "mean": [0.5], "std": [0.5],
}  # fmt: skip


def plan_run(experiment: str = "default", **knobs: Any) -> RunSpec:
    """Return a planned run, without any data."""
    tree: dict[str, Any] = {
        "data": {"name": "digits"},
        "backbone": {"name": "cnn2"},
        "transfer": {"method": "from_scratch"},
        "tracking": {"experiment": experiment},
    }
    facts = Facts(
        data_digest="d" * 64,
        official_splits=(),
        weights_sha256=None,
        weights_name="none",
        preprocessing=PREPROCESSING,
        precision="32",
    )
    return specify(to_config(tree | knobs), facts)


@pytest.fixture(scope="session", autouse=True)
def no_heartbeats() -> Iterator[None]:
    """Let no thread of a run that a test left open work beside the tests after it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("graft.track.heartbeat._BEAT_SECONDS", 1e6)
        yield


@pytest.fixture(scope="session")
def plan() -> Plan:
    return plan_run


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a database without any run, to be copied: making one costs seconds."""
    root = tmp_path_factory.mktemp("database")
    open_store(None, root)
    return root / "mlflow.db"


@pytest.fixture(scope="module")
def store(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Open one database for the tests of a module; each uses an experiment of its own."""
    root = tmp_path_factory.mktemp("store")
    shutil.copy(database, root)
    return open_store(None, root)
