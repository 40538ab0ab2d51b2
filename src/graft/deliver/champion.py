"""Which run speaks for an experiment: chosen on validation, like everything."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graft.compare.select import Choice, Selection, select_trials
from graft.compare.where import Where
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
    """The chosen trial of an arm at the largest label budget, and the replicate that stands for it.

    Attributes:
        choice: What validation chose for the arm.
        run: Its best run on validation among those whose weights are kept; of all where none has weights.
        value: The validation metric of that run.
        best: Its best run on validation, with weights or without.
    """

    choice: Choice
    run: RunRecord
    value: float
    best: RunRecord

    @property
    def remark(self) -> str:
        """What to say where the best run has lost its weights, empty elsewhere."""
        if self.best is self.run:
            return ""
        return f"; {self.best.replicate.label} is better on validation, but its weights are not there"


def find_conditions(records: Sequence[RunRecord], metric: str) -> list[Selection]:
    """Return the conditions of which something can be compared: each has a champion of its own.

    Raises:
        GraftError: When no run can be compared.
    """
    return [one for one in select_trials(records, metric) if one.choices]


def name_conditions(conditions: Sequence[Selection]) -> dict[str, str]:
    """Return names that tell conditions apart: the data set, with the hash where it has several."""
    counts = Counter(one.data for one in conditions)
    return {
        one.condition: one.data if counts[one.data] == 1 else f"{one.data}-{one.condition[:6]}"
        for one in conditions
    }


def rank_leaders(condition: Selection, metric: str, root: Path) -> list[Leader]:
    """Return the leader of each arm at the largest label budget, the best arm on validation first.

    Arms are ranked by the mean over their replicates; of arms that tie the one that trains less goes first.
    From scratch takes part: where transfer does not pay, it is the champion. Random features do not, they are
    a control.

    Args:
        condition: What was chosen in a condition: validation is never compared between several.
        metric: What chose, without a split.
        root: ``paths.root``, where weights are.
    """
    largest = condition.choices[-1].labels  # the choices ascend by label budget
    sign = -1.0 if METRICS[metric].higher_is_better else 1.0

    def best_first(choice: Choice) -> tuple[float, int, str]:
        return sign * round(choice.validation, 12), -choice.arm.freeze_depth, choice.arm.text

    found = [one for one in condition.choices if one.labels == largest]
    counted = [one for one in found if one.arm.method != "random_features"] or found
    leaders = []
    for choice in sorted(counted, key=best_first):
        key = f"val/{metric}"
        replicates = sorted(choice.runs, key=lambda one: (sign * choice.runs[one].metrics[key], one))
        runs = [choice.runs[one] for one in replicates]
        run = next((one for one in runs if has_weights(root, one.run_key)), runs[0])
        leaders.append(Leader(choice, run, run.metrics[key], runs[0]))
    return leaders


def choose_run(store: Store, root: Path, reference: str, where: Where | None = None) -> tuple[str, str]:
    """Find the run that a person means, whose weights are kept.

    Args:
        store: Where runs are recorded.
        root: ``paths.root``, where their weights are.
        reference: Id of a run, an experiment, or id of a sweep's parent run.
        where: Which runs of the experiment count, None for all.

    Returns:
        The run key, and in words which run it is.

    Raises:
        GraftError: There is no such run, it has no weights, or there is no saying which one is meant.
    """
    record, said = _find(store, root, reference, where)
    if not has_weights(root, record.run_key):
        raise GraftError(
            f"Expected the weights of {said} under {root / 'checkpoints'}, but they are not there. "
            f"{_HOW_TO_KEEP}"
        )
    return record.run_key, said


def _find(store: Store, root: Path, reference: str, where: Where | None) -> tuple[RunRecord, str]:
    experiments = name_experiments(store)
    if reference not in experiments.values():
        # A run key names its newest finished run.
        record = find_run(store, finished_runs(store).get(reference, reference))
        if record is not None and where is not None:
            raise GraftError(
                f"Expected an experiment with `--where`, but {reference!r} is one run. Leave out `--where`."
            )
        if record is not None:
            return record, f"the run {_describe(record)}"
    try:
        records = read_experiment(store, reference)
    except GraftError as error:
        known = sorted(set(experiments.values()) - {"Default"})
        raise GraftError(
            expected_one_of("an experiment, or the id or key of a run", reference, known)
        ) from error
    return find_champion(records if where is None else where.match(records), reference, root)


def find_champion(records: Sequence[RunRecord], name: str, root: Path) -> tuple[RunRecord, str]:
    """Return the champion of an experiment, and in words which run it is.

    Args:
        records: The runs that count.
        name: The experiment for people.
        root: ``paths.root``, where weights are.

    Raises:
        GraftError: The runs have several metrics or several conditions, or none can be compared.
    """
    metrics = sorted({record.notes["metric"] for record in records if "metric" in record.notes})
    if len(metrics) > 1:
        raise GraftError(
            f"Expected runs of one metric in {name!r}, but they have {len(metrics)}: "
            f"{', '.join(metrics)}. Give the id of a run instead; `graft ui` shows them."
        )
    metric = metrics[0] if metrics else "accuracy"
    conditions = find_conditions(records, metric)
    if len(conditions) > 1:
        raise GraftError(_ask_for_condition(conditions, name))
    leader = rank_leaders(conditions[0], metric, root)[0]
    numbers = f"val/{metric} {leader.value:.4g}{leader.remark}"
    return leader.run, f"the champion of {name}, {_describe(leader.run)} ({numbers})"


def _ask_for_condition(conditions: Sequence[Selection], name: str) -> str:
    names = name_conditions(conditions)
    lines = []
    for one in conditions:
        runs = sum(len(choice.runs) for choice in one.choices)
        plain = names[one.condition] == one.data and re.fullmatch(r"[\w.@+-]+", one.data)
        word = f"data={one.data}" if plain else f"condition={one.condition}"
        lines.append(f"  {_say_place(one.data, one.condition)}, {runs} chosen runs: --where {word}")
    return (
        f"Expected runs of one condition in {name!r}, but they have {len(conditions)} (other data, splits or "
        "training budgets), which are never compared with each other. Say which one is meant:\n"
        + "\n".join(lines)
        + "\nThe id of a run, or of a sweep's parent run, does as well."
    )


def _describe(record: RunRecord) -> str:
    what = f"{record.arm.label}, {record.labels} labels, {record.replicate.label}"
    return f"{record.run_id}: {what}, on {_say_place(record.data, record.condition)}"


def _say_place(data: str, condition: str) -> str:
    return f"{data} (condition {condition[:6]})"
