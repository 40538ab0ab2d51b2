"""The chosen model of each arm in MLflow's registry, the best one as its champion."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from graft.deliver.champion import Leader, find_conditions, name_conditions, rank_leaders
from graft.deliver.kept import has_weights, load_kept
from graft.deliver.scorer import Scorer
from graft.errors import GraftError
from graft.track.models import Candidate, name_registered, register_models
from graft.track.record import RunRecord
from graft.track.store import Store


def register_chosen(
    store: Store,
    root: Path,
    experiment: str,
    records: Sequence[RunRecord],
    metric: str,
    tell: Callable[[str], None],
) -> None:
    """Register the chosen model of each arm at the largest label budget, each condition by itself.

    What is registered already is not registered again; the champion is named anew each time. Where there are
    several conditions, the registered model of each has its data set in its name.

    Args:
        store: Where to write.
        root: ``paths.root``, where weights are kept.
        experiment: Names the registered models.
        records: The runs of the experiment.
        metric: What chose, without a split.
        tell: Told what was done, in words.

    Raises:
        GraftError: A champion has no weights (the others are registered), or weights are damaged.
    """
    root = root.resolve()
    conditions = find_conditions(records, metric)
    names = name_conditions(conditions)
    lacking = []
    for one in conditions:
        own = [names[one.condition]] if len(conditions) > 1 else []
        name, leaders = name_registered(experiment, *own), rank_leaders(one, metric, root)
        if has_weights(root, leaders[0].run.run_key):
            tell(_register(store, root, name, leaders, metric))
        else:
            lacking.append(
                f"Expected the weights of the champion, {leaders[0].run.run_id}, under "
                f"{root / 'checkpoints'} to register it as {name}, but they are not there: "
                "`checkpoint.keep=none`, or another `paths.root`?"
            )
    if lacking:
        raise GraftError("\n".join(lacking))


def _register(store: Store, root: Path, name: str, leaders: Sequence[Leader], metric: str) -> str:
    """Register the models of a condition that have weights, and return in words what was done."""
    kept = [one for one in leaders if has_weights(root, one.run.run_key)]
    added = register_models(store, name, [_describe(root, one, metric) for one in kept])
    lacking = f"; {len(leaders) - len(kept)} arms have no weights" if len(kept) < len(leaders) else ""
    champion = leaders[0]
    where = f"{champion.run.arm.label}, {champion.run.replicate.label}, on {champion.run.data}"
    return (
        f"Registered as {name}: {added} new of {len(kept)} models{lacking}. The champion is "
        f"{where}{champion.remark}: models:/{name}@champion"
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
            "graft.data": run.data,
            "graft.condition": run.condition,
            "graft.labels": run.labels,
            "graft.metric": f"val/{metric}={leader.value:.6g}",
            "graft.class_names": json.dumps(names)[:5000],
            "graft.preprocessing": json.dumps(sidecar["preprocessing"]),
        },
        build=lambda: Scorer(load_kept(root, run.run_key)),
        example=np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8),
        classes=len(names),
    )
