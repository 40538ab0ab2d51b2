"""What a planned run is, as MLflow's tags and parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping

from graft.config.load import flatten, to_plain
from graft.plan.spec import RESULT_VERSION, RunSpec
from graft.track.process import describe_process
from graft.track.store import provenance

#: What a run is in a comparison; all others use pretrained weights.
_ROLES = {"from_scratch": "twin", "random_features": "control"}


def describe_params(spec: RunSpec) -> dict[str, str]:
    """Return every knob of the run as a parameter."""
    return {key: "" if value is None else str(value) for key, value in flatten(to_plain(spec.config)).items()}


def describe_run(spec: RunSpec, parent_id: str | None, notes: Mapping[str, str]) -> dict[str, str]:
    """Return everything that a run is found by, and what it takes to repeat it, as tags."""
    tags = {
        "mlflow.runName": _name_run(spec),
        "graft.kind": "run",
        "graft.run_key": spec.key,
        "graft.result_version": str(RESULT_VERSION),
        "graft.arm": spec.arm.text,
        "graft.backbone": spec.arm.backbone,
        "graft.weights": spec.arm.weights,
        "graft.method": spec.arm.method,
        "graft.freeze_depth": str(spec.arm.freeze_depth),
        "graft.role": _ROLES.get(spec.arm.method, "transfer"),
        "graft.chosen": "false",  # until a comparison chooses it
        "graft.register": str(spec.config.tracking.register).lower(),
        "graft.trial": spec.trial,
        "graft.condition": spec.condition,
        "graft.labels": spec.labels,
        "graft.seed": str(spec.seed),
        "graft.replicate": spec.replicate.text,
        "graft.data": spec.config.data.name,
        "graft.metric": spec.config.metric,
        "graft.keep": spec.config.checkpoint.keep,
        "graft.data_digest": spec.facts.data_digest,
        "graft.preprocessing": json.dumps(dict(spec.facts.preprocessing)),
        **{f"graft.{name}": value for name, value in notes.items()},
        **provenance(),
        **describe_process(),
    }
    if spec.folds is not None:
        tags["graft.folds"] = str(spec.folds)
    if parent_id is not None:
        tags["mlflow.parentRunId"] = parent_id
    return tags


def _name_run(spec: RunSpec) -> str:
    """Return what people read in the list of runs: arm, labels, rate and replicate."""
    rate = "" if spec.config.head.name == "ridge" else f" · lr {spec.config.optim.lr:g}"
    return f"{spec.arm.label} · {spec.labels} labels{rate} · {spec.replicate.label}"
