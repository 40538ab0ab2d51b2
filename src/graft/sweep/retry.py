"""Which runs that did not finish are tried again: a deterministic error would only come again."""

from __future__ import annotations

from dataclasses import dataclass, replace

from graft.plan.spec import RunSpec, specify
from graft.sweep.outcome import MEMORY, Outcome


@dataclass(frozen=True)
class Attempt:
    """One try of a run.

    Attributes:
        spec: The run, as it is tried.
        earlier: Why earlier tries did not finish, and what was changed.
    """

    spec: RunSpec
    earlier: tuple[str, ...] = ()


def plan_retry(attempt: Attempt, outcome: Outcome, retries: int) -> Attempt | None:
    """Return the next try of a run, or None when there is none.

    Args:
        attempt: The try that ended.
        outcome: How it ended.
        retries: How many tries there may be after the first.
    """
    if not outcome.cause or len(attempt.earlier) >= retries:
        return None
    if outcome.cause != MEMORY:
        return Attempt(attempt.spec, (*attempt.earlier, outcome.reason))
    smaller = split_batch(attempt.spec)
    if smaller is None:
        return None
    was, now = attempt.spec.config.trainer.accumulate, smaller.config.trainer.accumulate
    return Attempt(smaller, (*attempt.earlier, f"{outcome.reason}; trainer.accumulate {was} -> {now}"))


def split_batch(spec: RunSpec) -> RunSpec | None:
    """Return the run with micro-batches of half the size, or None where its result would mean something else.

    The effective batch stays. A BatchNorm that trains takes the statistics of a micro-batch, and dropout and
    augmentation draw for it: where there is any of them, another number of micro-batches is another run.
    """
    from graft.data.preprocessing import Preprocessing
    from graft.train.statistics import count_statistics

    config = spec.config
    more = replace(config, trainer=replace(config.trainer, accumulate=2 * config.trainer.accumulate))
    if more.trainer.accumulate > config.data.batch_size:
        return None
    seen = Preprocessing.from_dict(spec.facts.preprocessing)
    if count_statistics(more, channels=seen.channels, image_size=seen.size) != spec.facts.processes:
        return None
    return specify(more, spec.facts)


def advise(spec: RunSpec, outcome: Outcome) -> str:
    """Return what else the user may do about a run that will not be tried again, empty for nothing."""
    if outcome.cause != MEMORY:
        return ""
    doubled = 2 * spec.config.trainer.accumulate
    return f"Try a smaller `data.batch_size` or `data.image_size`, or `trainer.accumulate={doubled}`" + (
        "." if split_batch(spec) else ": another run, as the network sees each micro-batch by itself."
    )
