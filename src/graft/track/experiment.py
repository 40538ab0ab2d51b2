"""One experiment, one question: its runs share a data set and the metric that chooses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graft.config.running import TrackingConfig
from graft.errors import GraftError
from graft.plan.spec import RunSpec
from graft.track.away import needing_answers
from graft.track.store import Store

#: Where runs go that nobody gave a name.
_UNNAMED = TrackingConfig().experiment


def check_experiment(store: Store, experiment: str, specs: Sequence[RunSpec]) -> None:
    """Refuse runs that have nothing to do with what an experiment of this name holds.

    More arms, rates, seeds, label budgets or a further data set extend an experiment. None of its data sets
    in common, or another selection metric, make it another question under the same name. Runs that nobody
    gave a name are never refused.

    Args:
        store: Where it may be recorded.
        experiment: ``tracking.experiment``.
        specs: The planned runs.

    Raises:
        GraftError: When they are another question.
        StoreAwayError: When the store does not answer.
    """
    if experiment == _UNNAMED:
        return
    with needing_answers(store.uri):
        found = store.client.get_experiment_by_name(experiment)
        if found is None:
            return
        names = {spec.facts.data_digest: spec.config.data.name for spec in specs}
        other = _find_other(store, found.experiment_id, "data_digest", names)
        metric = _find_other(store, found.experiment_id, "metric", {spec.config.metric for spec in specs})
    if other is not None:
        digest, name = next(iter(names.items()))
        same = name == other["graft.data"]
        raise GraftError(
            f"Expected the data set of the experiment {experiment!r}, which is "
            f"{_name_data(other['graft.data'], other['graft.data_digest'])}, but got "
            f"{_name_data(name, digest)}{': its images or labels have changed' if same else ''}. Give these "
            f"runs an experiment of their own: `tracking.experiment={_propose(experiment, name)}`."
        )
    if metric is not None:
        wanted = specs[0].config.metric
        raise GraftError(
            f"Expected `metric={metric['graft.metric']}`, which chooses in the experiment {experiment!r}, "
            f"but got {wanted!r}. Give these runs an experiment of their own: "
            f"`tracking.experiment={_propose(experiment, wanted)}`."
        )


def _find_other(store: Store, experiment_id: str, tag: str, values: Iterable[str]) -> dict[str, str] | None:
    """Return the tags of a finished run whose ``tag`` has another value, unless one has one of ``values``."""
    finished = "tags.`graft.kind` = 'run' and attributes.status = 'FINISHED'"
    for value in values:
        wanted = f"{finished} and tags.`graft.{tag}` = '{value}'"
        if store.client.search_runs([experiment_id], wanted, max_results=1):
            return None
    wanted = f"{finished} and tags.`graft.{tag}` != ''"
    others = store.client.search_runs([experiment_id], wanted, max_results=1)
    return dict(others[0].data.tags) if others else None


def _name_data(name: str, digest: str) -> str:
    return f"{name} ({digest[:8]})"


def _propose(experiment: str, word: str) -> str:
    return f"{experiment}_{word}" if not experiment.endswith(word) else f"{experiment}_2"
