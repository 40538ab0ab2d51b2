"""Which run speaks for an experiment: chosen on validation, like everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graft.compare.select import Choice, select_trials
from graft.config.names import METRICS
from graft.deliver.kept import has_weights
from graft.errors import GraftError, expected_one_of
from graft.track.reader import find_run, finished_runs, name_experiments, read_experiment
from graft.track.record import RunRecord
from graft.track.store import Store

_HOW_TO_KEEP = (
    "`graft compare` keeps the weights of the trials that it chooses and deletes those of the others, "
    "unless they were trained with `checkpoint.keep=all`; with `checkpoint.keep=none` there are none. A "
    "finished run is not trained again: to have its weights, train with `checkpoint.keep=all` under another "
    "`paths.root`."
)


@dataclass(frozen=True)
class Leader:
    """The chosen trial of an arm at the largest label budget, and its best replicate on validation.

    Attributes:
        choice: What validation chose for the arm.
        run: Its best run on validation.
        value: The validation metric of that run.
    """

    choice: Choice
    run: RunRecord
    value: float


def rank_leaders(records: Sequence[RunRecord], metric: str) -> list[Leader]:
    """Return the leader of each arm at the largest label budget, the best arm on validation first.

    Arms are ranked by the mean over their replicates; of arms that tie the one that trains less goes first.
    From scratch takes part: where transfer does not pay, it is the champion. Random features do not, they are
    a control.

    Args:
        records: Runs of one experiment.
        metric: What chooses, without a split.

    Raises:
        GraftError: When no run can be compared.
    """
    selection = select_trials(records, metric)[0]
    largest = selection.choices[-1].labels  # the choices ascend by label budget
    sign = -1.0 if METRICS[metric].higher_is_better else 1.0

    def best_first(choice: Choice) -> tuple[float, int, str]:
        return sign * round(choice.validation, 12), -choice.arm.freeze_depth, choice.arm.text

    found = [one for one in selection.choices if one.labels == largest]
    counted = [one for one in found if one.arm.method != "random_features"] or found
    leaders = []
    for choice in sorted(counted, key=best_first):
        key = f"val/{metric}"
        replicate = min(choice.runs, key=lambda one: (sign * choice.runs[one].metrics[key], one))
        run = choice.runs[replicate]
        leaders.append(Leader(choice, run, run.metrics[key]))
    return leaders


def choose_run(store: Store, root: Path, reference: str) -> tuple[str, str]:
    """Find the run that a person means, whose weights are kept.

    Args:
        store: Where runs are recorded.
        root: ``paths.root``, where their weights are.
        reference: Id of a run, an experiment, or id of a sweep's parent run.

    Returns:
        The run key, and in words which run it is.

    Raises:
        GraftError: There is no such run, or it has no weights.
    """
    record, said = _find(store, reference)
    if not has_weights(root, record.run_key):
        raise GraftError(
            f"Expected the weights of {said} under {root / 'checkpoints'}, but they are not there. "
            f"{_HOW_TO_KEEP}"
        )
    return record.run_key, said


def _find(store: Store, reference: str) -> tuple[RunRecord, str]:
    experiments = name_experiments(store)
    if reference not in experiments.values():
        # A run key names its newest finished run.
        record = find_run(store, finished_runs(store).get(reference, reference))
        if record is not None:
            return record, f"the run {_describe(record)}"
    try:
        records = read_experiment(store, reference)
    except GraftError as error:
        known = sorted(set(experiments.values()) - {"Default"})
        raise GraftError(
            expected_one_of("an experiment, or the id or key of a run", reference, known)
        ) from error
    metrics = sorted({record.notes["metric"] for record in records if "metric" in record.notes})
    if len(metrics) > 1:
        raise GraftError(
            f"Expected runs of one metric in {reference!r}, but they have {len(metrics)}: "
            f"{', '.join(metrics)}. Give the id of a run instead; `graft ui` shows them."
        )
    metric = metrics[0] if metrics else "accuracy"
    leader = rank_leaders(records, metric)[0]
    said = f"the champion of {reference}, {_describe(leader.run)} (val/{metric} {leader.value:.4g})"
    return leader.run, said


def _describe(record: RunRecord) -> str:
    return f"{record.run_id}: {record.arm.label}, {record.labels} labels, {record.replicate.label}"
