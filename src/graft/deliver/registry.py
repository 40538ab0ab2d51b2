"""The chosen model of each arm in MLflow's registry, the best one as its champion."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from graft.deliver.champion import Leader, rank_leaders
from graft.deliver.kept import has_weights, load_kept
from graft.deliver.scorer import Scorer
from graft.errors import GraftError
from graft.track.models import Candidate, name_registered, register_models
from graft.track.record import RunRecord
from graft.track.store import Store


def register_chosen(
    store: Store, root: Path, experiment: str, records: Sequence[RunRecord], metric: str
) -> str:
    """Register the chosen model of each arm at the largest label budget.

    What is registered already is not registered again; the champion is named anew each time.

    Args:
        store: Where to write.
        root: ``paths.root``, where weights are kept.
        experiment: Names the registered model.
        records: The runs of the experiment.
        metric: What chose, without a split.

    Returns:
        What was done, in words.

    Raises:
        GraftError: The champion has no weights, or weights are damaged.
    """
    root = root.resolve()
    leaders = rank_leaders(records, metric)
    kept = [one for one in leaders if has_weights(root, one.run.run_key)]
    if leaders[0] not in kept:
        raise GraftError(
            f"Expected the weights of the champion, {leaders[0].run.run_id}, under {root / 'checkpoints'} to "
            "register it, but they are not there: `checkpoint.keep=none`, or another `paths.root`?"
        )
    added = register_models(store, experiment, [_describe(root, one, metric) for one in kept])
    lacking = f"; {len(leaders) - len(kept)} arms have no weights" if len(kept) < len(leaders) else ""
    name = name_registered(experiment)
    return (
        f"Registered as {name}: {added} new of {len(kept)} models{lacking}. The champion is "
        f"{leaders[0].run.arm.label}: models:/{name}@champion"
    )


def _describe(root: Path, leader: Leader, metric: str) -> Candidate:
    """Return what to register of a leader; its network is built only when it is needed."""
    run = leader.run
    sidecar = json.loads((root / "checkpoints" / run.run_key / "run.json").read_text())
    shape = [sidecar["preprocessing"][name] for name in ("channels", "size", "size")]
    names = sidecar["class_names"]
    return Candidate(
        run_id=run.run_id,
        tags={
            "graft.run_key": run.run_key,
            "graft.arm": run.arm.text,
            "graft.labels": run.labels,
            "graft.metric": f"val/{metric}={leader.value:.6g}",
            "graft.class_names": json.dumps(names)[:5000],
            "graft.preprocessing": json.dumps(sidecar["preprocessing"]),
        },
        build=lambda: Scorer(load_kept(root, run.run_key)),
        example=np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8),
        classes=len(names),
    )
