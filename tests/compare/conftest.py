"""A small world of runs to compare, without any training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256

import pytest

from graft.plan.arms import Arm
from graft.plan.replicates import Replicate
from graft.track.record import RunRecord

MakeArm = Callable[..., Arm]
MakeRun = Callable[..., RunRecord]


def build_arm(method: str = "from_scratch", freeze_depth: int = 0, **changes: str) -> Arm:
    pretrained = method in ("linear_probe", "fine_tune")
    values = {
        "backbone": "small_cnn",
        "weights": "glyphs@1234abcd" if pretrained else "none",
        "head": "linear",
        "loss": "cross_entropy",
        "augment": "none",
        "input": "32px@ab12",
    } | changes
    return Arm(method=method, freeze_depth=freeze_depth, **values)


def build_run(
    arm: Arm,
    *,
    val: float,
    test: float,
    seed: int = 0,
    fold: int | None = None,
    repeat: int = 0,
    folds: int | None = None,
    labels: str = "2",
    lr: float = 0.001,
    status: str = "finished",
    seconds: float = 1.0,
    condition: str = "c0ffee1234",
    metrics: Mapping[str, float] | None = None,
    notes: Mapping[str, str] | None = None,
    **changes: str,
) -> RunRecord:
    trial = changes.pop("trial", f"batch_size=32 lr={lr:g} name=adamw")
    replicate = Replicate(seed) if fold is None else Replicate(seed, repeat, fold)
    words = replicate.text if fold is not None else str(seed)
    name = sha256(f"{condition}-{labels}-{arm.text}-{trial}-{words}".encode()).hexdigest()[:12]
    values = {"run_id": name, "run_key": name, "data": "digits", "experiment": "demo"} | changes
    own = (
        {"val/accuracy": val, "test/accuracy": test, "train_seconds": seconds} if status == "finished" else {}
    )
    return RunRecord(
        **values,
        status=status,
        arm=arm,
        trial=trial,
        condition=condition,
        labels=labels,
        replicate=replicate,
        metrics=own | dict(metrics or {}),
        notes=dict(notes or {}),
        folds=folds,
    )


@pytest.fixture
def make_arm() -> MakeArm:
    return build_arm


@pytest.fixture
def make_run() -> MakeRun:
    return build_run


@pytest.fixture
def sweep(make_arm: MakeArm, make_run: MakeRun) -> list[RunRecord]:
    """Three arms, two label budgets, two rates, five seeds; the probe wins at 2 labels, fine-tuning at 20."""
    truth = {
        "2": {"from_scratch": 0.60, "fine_tune": 0.75, "linear_probe": 0.80},
        "20": {"from_scratch": 0.93, "fine_tune": 0.97, "linear_probe": 0.931},
    }
    wobble = (0.010, -0.014, 0.003, -0.006, 0.007)
    runs = []
    for labels, means in truth.items():
        for place, (method, mean) in enumerate(means.items()):
            for lr, loss in ((0.001, 0.0), (0.01, 0.02), (0.0001, 0.03)):
                for seed in range(5):
                    value = mean - loss + wobble[seed] + 0.3 * wobble[(seed + 2 * place + 1) % 5]
                    arm = make_arm(method, 5 if method == "linear_probe" else 0)
                    counts = {
                        "labels_train": 10.0 * int(labels),
                        "labels_val": 10.0,
                        "test/pixel_1nn_accuracy": 0.7,
                    }
                    known = {"source_contains_target": "the ten digits as rendered glyphs"}
                    notes = known if method != "from_scratch" else {}
                    run = make_run(
                        arm,
                        val=value,
                        test=round(value, 4),
                        seed=seed,
                        labels=labels,
                        lr=lr,
                        metrics=counts,
                        notes=notes,
                    )
                    runs.append(run)
    return runs
