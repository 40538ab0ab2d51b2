"""Knobs of how runs are carried out and kept: none of them changes a result, `reuse.dtype` excepted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from graft.config.knob import knob


@dataclass
class TrackingConfig:
    """Where runs are recorded."""

    experiment: str = knob(
        "default", "name of the experiment; its report goes under paths.root/reports/<name>", keyed=False
    )
    uri: str | None = knob(
        None,
        "MLflow tracking URI; null = MLFLOW_TRACKING_URI, else a SQLite file under paths.root",
        keyed=False,
    )
    register: bool = knob(
        False,
        "whether `graft compare` puts the chosen model of each arm into MLflow's registry, the best one as "
        "`champion`",
        keyed=False,
    )


@dataclass
class SweepConfig:
    """How many runs go together."""

    twin: str = knob(
        "auto",
        "auto = add the from-scratch twin of every transfer arm, off = do not",
        choices=("auto", "off"),
        keyed=False,
    )
    workers: int | None = knob(
        None,
        "runs side by side; null = one per GPU (or per `trainer.devices` GPUs), else one",
        low=1,
        keyed=False,
    )
    oversubscribe: bool = knob(
        False, "whether more workers may be asked for than there are GPUs, or cores without GPUs", keyed=False
    )
    run_timeout: float | None = knob(
        None,
        "a run that takes longer hangs: it is ended and recorded as failed; null = never",
        unit="s",
        low=1,
        keyed=False,
    )
    retries: int = knob(
        2,
        "times a run is tried again when its process was killed, the store was away or memory ran out",
        low=0,
        high=100,
        keyed=False,
    )
    prune: str = knob(
        "off",
        "asha = of the trials of an arm the worse two thirds are cut at a ninth and at a third of their "
        "training; off = every trial runs to its end",
        choices=("off", "asha"),
        keyed=False,
    )
    dry_run: bool = knob(False, "print the plan and stop", keyed=False)
    parent: str | None = knob(
        None, "MLflow id of the sweep that a run belongs to; set by the sweep itself", keyed=False
    )


@dataclass
class CheckpointConfig:
    """Which runs keep their weights, and how a run that is under way is kept on disk."""

    keep: str = knob(
        "chosen",
        "weights of finished runs after `graft compare`: chosen = the chosen trials' only",
        choices=("chosen", "all", "none"),
        keyed=False,
    )
    every_seconds: float = knob(
        300.0,
        "a run writes where it is at validations, and at least so often between them",
        unit="s",
        low=0,
        keyed=False,
    )
    keep_last: int = knob(
        2, "such states kept of a run until it has finished; 1 = none to fall back on", low=1, keyed=False
    )


@dataclass
class ReuseConfig:
    """What runs compute once and share."""

    enabled: bool = knob(
        True, "whether activations of equal frozen stages are computed once and shared", keyed=False
    )
    disk_gb: float = knob(
        20.0,
        "most that shared activations may take under paths.root/cache; the least recently used make room",
        unit="GB",
        low=0,
        keyed=False,
    )
    memory_gb: float = knob(
        2.0,
        "most memory for heads that train in one pass, with the scores they give; less = fewer at once",
        unit="GB",
        low=0,
        keyed=False,
    )
    dtype: str = knob(
        "float32",
        "what leaves the frozen stages is rounded to it; float32 = not at all, float16 and bfloat16 take "
        "half the disk and change the result a little",
        choices=("float32", "float16", "bfloat16"),
    )


@dataclass
class BundleConfig:
    """What `graft pretrain` writes."""

    name: str | None = knob(
        None, "name of the weights bundle under paths.root/weights; null = <data>-<backbone>", keyed=False
    )


@dataclass
class PathsConfig:
    """Where graft writes."""

    root: str = knob("./runs", "everything that graft writes goes under it", keyed=False)


def say_place(root: str) -> str:
    """Return the option that leads a command to this root, empty for the usual one."""
    return "" if Path(root) == Path("runs") else f" paths.root={root}"
