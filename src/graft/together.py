"""Runs of a sweep whose heads train in one pass; each is then recorded by itself."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from graft.conclude import record_cut
from graft.errors import RunInterrupted
from graft.inputs import Inputs, View, assemble_inputs, build_model, open_view
from graft.meter import Meter
from graft.plan.groups import Sharing
from graft.plan.spec import RunSpec
from graft.sharing import share_rows

if TYPE_CHECKING:
    from graft.model.backbone import Backbone
    from graft.model.classifier import Classifier
    from graft.reuse.fused import Cut
    from graft.train.fit import Fitted
    from graft.train.task import Recorder

#: Told (done, total) optimizer steps.
Progress = Callable[[int, int], None]


@dataclass
class Rounds:
    """Keeps the numbers of every validation, for a record that is opened later."""

    kept: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def record(self, metrics: Mapping[str, float], step: int) -> None:
        """Take ``metrics`` as they stand after ``step`` optimizer steps."""
        self.kept.append((step, dict(metrics)))

    def flush(self) -> None:
        """Do nothing: there is nowhere to send them to yet."""


@dataclass(frozen=True)
class Trained:
    """A run that has trained with its siblings and is still to be recorded.

    Attributes:
        inputs: What it worked with.
        outcome: What came out of it, or why it diverged.
        rounds: The numbers of its validations.
    """

    inputs: Inputs
    outcome: Fitted | Cut
    rounds: Rounds

    def replay(self, recorder: Recorder | None, meter: Meter) -> Fitted:
        """Hand over the numbers of its validations, and return what came out of it.

        Raises:
            DivergedError: The loss became NaN or infinite.
        """
        from graft.reuse.fused import Cut

        if recorder is not None:
            for step, metrics in self.rounds.kept:
                recorder.record(metrics, step)
        if isinstance(self.outcome, Cut):
            if recorder is not None:
                record_cut(recorder, meter, self.outcome.seconds, self.outcome.steps)
            raise self.outcome.failure
        return self.outcome


#: What this process has trained and not recorded yet, by run key; one group at a time.
_trained: dict[str, Trained] = {}


#: Why runs of the group before train alone, by run key.
_fallen: dict[str, str] = {}


def why_alone(key: str) -> list[str]:
    """Return what the user should know of a run whose group could not train together; nothing for others."""
    reason = _fallen.get(key)
    return [f"Its head trains alone: together with others it failed ({reason})."] if reason else []


def take_trained(key: str) -> Trained | None:
    """Return what a run gave when it trained with its siblings, and forget it; None when it did not."""
    return _trained.pop(key, None)


def train_siblings(
    specs: Sequence[RunSpec], sharing: Sharing | None, progress: Progress | None = None
) -> list[str]:
    """Train the heads of a group and keep what came out until it is taken.

    A group that fails is no group: each of its runs then trains alone, and fails or not by itself.

    Args:
        specs: Runs that `graft.plan.groups.group_runs` put together.
        sharing: What the sweep decided for them.
        progress: Told the optimizer steps done.

    Returns:
        The keys of the runs that have trained.

    Raises:
        RunInterrupted: A signal asked to stop.
    """
    _trained.clear()
    _fallen.clear()
    fresh = [spec for spec in specs if not _was_begun(spec)]
    if len(fresh) < 2:
        return []
    try:
        _trained.update(_train(fresh, sharing, progress))
    except (RunInterrupted, KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:  # each run then fails, or not, by itself; its record says why it was alone
        traceback.print_exc()
        _fallen.update(dict.fromkeys((spec.key for spec in fresh), f"{type(error).__name__}: {error}"))
    return list(_trained)


def _was_begun(spec: RunSpec) -> bool:
    """Whether a run was interrupted while it trained alone; it goes on from there, or says why it cannot."""
    folder = Path(spec.config.paths.root).resolve() / "resume" / spec.key
    return any(folder.glob("*.safetensors"))


def _train(
    specs: Sequence[RunSpec], sharing: Sharing | None, progress: Progress | None
) -> dict[str, Trained]:
    from graft.reuse.fused import HeadRun, fit_group
    from graft.train.stop import StopRequest

    with StopRequest() as stop:
        gathered = _gather(specs, sharing)
        rounds = [Rounds() for _ in specs]
        draws: dict[object, int] = {}
        runs = []
        for spec, inputs, kept in zip(specs, gathered, rounds, strict=True):
            data = spec.config.data
            same = (inputs.split.digest, spec.seed, data.balance, data.balance_beta)
            draw = draws.setdefault(same, len(draws))
            runs.append(HeadRun(spec.config, inputs.classifier, inputs.batches, draw, kept))
        budget = gathered[0].budget
        outcomes = fit_group(
            runs,
            budget,
            stop=stop,
            progress=(lambda step: progress(step, budget.total_steps)) if progress else None,
        )
    parts = zip(specs, gathered, outcomes, rounds, strict=True)
    return {spec.key: Trained(inputs, outcome, kept) for spec, inputs, outcome, kept in parts}


def _gather(specs: Sequence[RunSpec], sharing: Sharing | None) -> list[Inputs]:
    """Gather what the runs of a group work with: one backbone for all, a head for each.

    Raises:
        RuntimeError: Their features cannot be kept.
    """
    views = [open_view(spec) for spec in specs]
    models = _build_models(specs, views)
    train = np.unique(np.concatenate([view.split.train for view in views]))
    evaluated = np.unique(
        np.concatenate([part for view in views for part in (view.split.val, view.split.test)])
    )
    shared, path = share_rows(specs[0], models[0][0], views[0].pixels, train, evaluated, sharing)
    if shared is None:
        raise RuntimeError(path)
    share = replace(shared, seconds=shared.seconds / len(specs))
    said = f"{path}; {len(specs)} heads trained in one pass"
    return [
        assemble_inputs(spec, view, classifier, notes, share, said)
        for spec, view, (classifier, notes) in zip(specs, views, models, strict=True)
    ]


def _build_models(specs: Sequence[RunSpec], views: Sequence[View]) -> list[tuple[Classifier, list[str]]]:
    """Build the network of each run; what is drawn depends on the seed and the head, and is drawn once."""
    from graft.model.classifier import Classifier

    drawn: dict[str, tuple[Classifier, list[str]]] = {}
    backbone: Backbone | None = None
    models = []
    for spec, view in zip(specs, views, strict=True):
        config = spec.config
        same = repr((config.seed, config.backbone, config.head, config.loss, config.transfer))
        if same not in drawn:
            drawn[same] = build_model(spec, view.images)
        first, notes = drawn[same]
        backbone = backbone or first.backbone  # equal in all of them: that is what makes them siblings
        models.append((Classifier(backbone, copy.deepcopy(first.head)), list(notes)))
    return models
