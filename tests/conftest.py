"""What every room's tests start from: quiet, offline, one thread, reproducible."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, which reads it once
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ASYNC_LOGGING", "false")
os.environ.pop("MLFLOW_TRACKING_URI", None)  # a developer's own server is not for tests

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from graft.config import names
from graft.config.schema import Config

settings.register_profile("graft", deadline=None, derandomize=True, database=None, max_examples=30)
settings.load_profile("graft")

#: Names that a registry allows, where the schema itself lists no choices.
REGISTRIES = {
    "data.name": names.DATA_SETS,
    "backbone.name": names.BACKBONES,
    "head.name": names.HEADS,
    "loss.name": names.LOSSES,
    "augment.name": names.AUGMENTATIONS,
    "metric": tuple(names.METRICS),
}


def put(config: Any, key: str, value: Any) -> Any:
    first, _, rest = key.partition(".")
    return replace(config, **{first: put(getattr(config, first), rest, value) if rest else value})


def walk_knobs(section: type, prefix: str = "") -> dict[str, tuple[Any, Mapping[str, Any]]]:
    found: dict[str, tuple[Any, Mapping[str, Any]]] = {}
    kinds = get_type_hints(section)
    for item in fields(section):
        kind = kinds[item.name]
        if is_dataclass(kind):
            found |= walk_knobs(kind, f"{prefix}{item.name}.")
        else:
            found[f"{prefix}{item.name}"] = (kind, item.metadata)
    return found


def values_of(key: str, kind: Any, metadata: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Return valid values of a knob, read from the schema; never null."""
    choices = metadata["choices"] or REGISTRIES.get(key)
    if choices:
        return st.sampled_from(choices)
    low, high = metadata["low"], metadata["high"]
    if get_origin(kind) is list:
        return st.lists(values_of(key, get_args(kind)[0], metadata), min_size=1, max_size=3)
    if None.__class__ in get_args(kind):
        return values_of(key, get_args(kind)[0], metadata)
    if kind is bool:
        return st.booleans()
    if kind is int:
        return st.integers(low or 0, int(high) if high is not None else int(low or 0) + 5000)
    if kind is float:
        top = min(high, 0.99) if high is not None else 0.99
        return st.floats(low or 0, top if low is None or low < top else low + 100)
    return st.text("abcxyz_-", min_size=1, max_size=8)


@pytest.fixture(scope="session")
def knobs() -> dict[str, tuple[Any, Mapping[str, Any]]]:
    """Every dotted knob of the schema, with its type and its metadata."""
    return walk_knobs(Config)


@pytest.fixture(scope="session")
def knob_values(knobs: dict[str, tuple[Any, Mapping[str, Any]]]) -> dict[str, st.SearchStrategy[Any]]:
    """Valid values of every knob."""
    return {key: values_of(key, kind, metadata) for key, (kind, metadata) in knobs.items()}


@pytest.fixture(scope="session")
def build_config() -> Callable[..., Config]:
    """Build a valid from-scratch configuration, with dotted knobs replaced."""

    def build(changes: Mapping[str, Any] | None = None) -> Config:
        config = Config()
        usual = {"data.name": "digits", "backbone.name": "small_cnn", "transfer.method": "from_scratch"}
        for key, value in (usual | dict(changes or {})).items():
            config = put(config, key, value)
        return config

    return build


@pytest.fixture(scope="session")
def runs_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for everything that graft writes, shared by the tests of a session."""
    return tmp_path_factory.mktemp("runs")


#: The preprocessing that the bundle below brings: not what any backbone would choose by itself.
TOY_PREPROCESSING = {
    "channels": 1, "size": 20, "resize": None, "interpolation": "nearest", "antialias": True,
    "mean": [0.3], "std": [0.7],
}  # fmt: skip


@pytest.fixture(scope="module")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a weights bundle `toy`, as `graft pretrain` would write it."""
    import torch

    from graft import __version__
    from graft.model.backbone import build_backbone, build_network
    from graft.model.bundle import Sidecar, bundle_folder
    from graft.model.weights import write_bundle

    root = tmp_path_factory.mktemp("root")
    torch.manual_seed(7)
    network = build_network("cnn2", num_classes=4, image_size=20, channels=1)
    state = build_backbone(network, "cnn2", 20, 1).network_state_dict()
    sidecar = Sidecar(
        architecture="cnn2", options={}, classes=["a", "b", "c", "d"], channels=1, image_size=20,
        preprocessing=TOY_PREPROCESSING, data="toy", data_digest="t" * 64, metrics={},
        graft_version=__version__, run_key="r" * 20,
    )  # fmt: skip
    write_bundle(bundle_folder(root, "toy"), state, {}, sidecar)
    return root


@pytest.fixture
def describe(toy_root: Path, build_config: Callable[..., Config]) -> Callable[..., Config]:
    """Return a maker of configurations of short runs under `toy_root`."""

    def describe(**changes: Any) -> Config:
        usual = {
            "paths.root": str(toy_root), "backbone.name": "cnn2", "data.labels_per_class": 4,
            "data.test_size": 200.0, "data.image_size": 12, "data.batch_size": 16, "optim.name": "sgd",
            "optim.lr": 0.1, "trainer.epochs": 2, "trainer.accelerator": "cpu",
        }  # fmt: skip
        return build_config(usual | {key.replace("__", "."): value for key, value in changes.items()})

    return describe
