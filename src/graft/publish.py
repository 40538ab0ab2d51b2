"""What the usual comparison leaves behind: the verdict in MLflow, the chosen weights, registered models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graft.errors import GraftError

if TYPE_CHECKING:
    from rich.console import Console

    from graft.compare.asked import Asked
    from graft.compare.comparison import Comparison
    from graft.track.record import RunRecord
    from graft.track.store import Store


def settle(
    store: Store,
    comparison: Comparison,
    names: Sequence[str],
    root: Path,
    folder: Path,
    console: Console,
    *,
    ahead: int,
) -> None:
    """Mark the chosen runs; of one experiment also write the verdict to its parent runs and drop weights.

    A report on several belongs to none of them, and each may choose otherwise than all together.

    Args:
        store: Where to write.
        comparison: The usual comparison.
        names: What is compared.
        root: ``paths.root``.
        folder: Folder of the report.
        console: Where to say what was done.
        ahead: Number of planned runs that have not ended; they may change what is chosen.
    """
    from graft.track.results import drop_weights, mark_chosen, unmark_chosen

    known = {record.run_id for record in comparison.records if "chosen" in record.notes}
    mark_chosen(store, set(comparison.chosen) - known)
    if len(names) > 1:
        return
    unmark_chosen(store, known - set(comparison.chosen))  # the dashboard is to show one choice, the last one
    _write_verdict(store, comparison, names[0], folder, console)
    if ahead:
        console.print("Weights of runs that are not chosen stay until the sweep is done.")
        return
    droppable = {record.run_key for record in comparison.records if _is_droppable(record, comparison)}
    dropped = drop_weights(root, droppable)
    if dropped:
        console.print(
            f"Weights of {dropped} runs that were not chosen are deleted (keep them: checkpoint.keep=all)."
        )


def _write_verdict(store: Store, comparison: Comparison, name: str, folder: Path, console: Console) -> None:
    from graft.compare.describe import describe_verdict, list_gains
    from graft.track.parents import link_parent, publish_report, read_parents

    parents = read_parents(store, name)
    budgets = dict.fromkeys(budget.labels for section in comparison.sections for budget in section.budgets)
    text, gains = describe_verdict(comparison), list_gains(comparison)
    publish_report(store, parents, text, gains, folder, list(budgets), comparison.metric)
    for parent in parents[:1]:
        console.print(
            f"In the dashboard: http://127.0.0.1:5000/{link_parent(parent)}", soft_wrap=True, highlight=False
        )


def _is_droppable(record: RunRecord, comparison: Comparison) -> bool:
    """Whether nobody needs the weights of a run: not this comparison, no other one, and not its user."""
    chosen = record.run_id in comparison.chosen or not {"chosen", "kept"}.isdisjoint(record.notes)
    return not chosen and record.notes.get("keep") == "chosen" and record.status == "finished"


def find_obstacle(names: Sequence[str], asked: Asked) -> str:
    """Say why a comparison cannot register its models, empty where it can."""
    if len(names) > 1:
        came = f"{len(names)} experiments: {', '.join(names)}"
    elif not asked.is_usual:
        came = f"`{' '.join(asked.words)}`"
    else:
        return ""
    one = names[0] if names else "<experiment>"
    return (
        f"Expected the usual comparison of one experiment to register its models, but got {came}. "
        f"Type by itself: graft compare {one} tracking.register=true"
    )


def register_models(
    store: Store,
    comparison: Comparison,
    names: Sequence[str],
    asked: Asked,
    root: Path,
    console: Console,
    *,
    typed: bool,
) -> None:
    """Put the chosen models into MLflow's registry, where a person or a run asked for it.

    Args:
        store: Where to write.
        comparison: What was chosen.
        names: What is compared.
        asked: The options.
        root: ``paths.root``, where weights are.
        console: Where to say what was done.
        typed: Whether a person asked just now, and not only the training of a run.

    Raises:
        GraftError: A person asked, and something cannot be registered; what only a run asked for is said.
    """
    if not typed and not any(record.notes.get("register") == "true" for record in comparison.records):
        return
    from graft.deliver.registry import register_chosen  # brings torch, which a comparison does without

    def tell(words: str) -> None:
        console.print(words, highlight=False, markup=False)

    try:
        obstacle = find_obstacle(names, asked)
        if obstacle:
            raise GraftError(obstacle)
        register_chosen(store, root, comparison.experiment, comparison.records, comparison.metric, tell)
    except Exception as error:  # of MLflow or torch: a model that cannot be exported, no registry
        if typed and isinstance(error, GraftError):
            raise
        if typed:
            raise GraftError(f"Expected to register the chosen models, but could not: {error}") from error
        tell(f"Not registered, though runs were trained with `tracking.register=true`: {error}")
