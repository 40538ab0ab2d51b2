"""What is known of one recorded run, free of MLflow: the value that `compare` works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graft.plan.arms import Arm
from graft.plan.replicates import Replicate

#: Statuses of a run, as people read them.
STATUSES = ("finished", "running", "failed", "killed", "diverged", "pruned")


@dataclass(frozen=True)
class RunRecord:
    """One run as MLflow holds it.

    Attributes:
        run_id: MLflow's id.
        run_key: Hash of everything that can change the result.
        status: One of `STATUSES`.
        arm: What is compared.
        trial: Canonical text of the tuning values.
        condition: Hash of data, splits and training budget; only runs of one condition are compared.
        labels: Label budget: images per class as text, a percentage, ``all`` or ``replayed``.
        replicate: Seed, and fold where there are folds.
        data: Name of the data set.
        experiment: Name of the experiment.
        metrics: Final values by key (``val/accuracy``, ``test/accuracy``, ``train_seconds``).
        notes: Further tags without the prefix ``graft.``, such as ``reason`` of a failure.
        folds: Number of folds of the cross-validation, None without.
    """

    run_id: str
    run_key: str
    status: str
    arm: Arm
    trial: str
    condition: str
    labels: str
    replicate: Replicate
    data: str
    experiment: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    folds: int | None = None

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.replicate.seed
