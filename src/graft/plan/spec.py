"""The run key: a hash of everything that can change a run's result, and of nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from graft.config.names import AUTO_METRIC, PRETRAINED, ROW_BACKBONES
from graft.config.schema import Config
from graft.plan.arms import (
    Arm,
    describe_arm,
    describe_trial,
    effective_augment,
    effective_backbone,
    effective_balance,
    effective_head,
    effective_loss,
    effective_tuning,
    normalise,
    place_cut,
)
from graft.plan.replicates import Replicate

#: Raised by hand when a change of code changes results: finished runs of the version before are not reused.
RESULT_VERSION = 1

#: Knobs whose meaning reaches the key through facts or through the effective knobs of their section.
_KEYED_ELSEWHERE = frozenset(
    f"{section}.{name}"
    for section, names in {
        "data": (
            "name", "image_size", "resize", "mean", "std", "render_count", "render_seed", "batch_size",
            "balance", "balance_beta",
        ),
        "augment": ("name", "mixup", "cutmix", "views"),
        "backbone": ("weights", "hidden_size", "layers"),
        "trainer": ("precision", "channels_last", "compile"),
        "reuse": ("dtype",),
    }.items()
    for name in names
)  # fmt: skip

#: Knobs that decide which images train, choose and test.
_SPLIT_KNOBS = (
    "labels_per_class", "val_labels_per_class", "label_fraction", "test_size", "val_size", "split_seed",
    "folds", "fold", "fold_repeat",
)  # fmt: skip

#: Knobs of the split that differ inside one comparison: label budgets, and the replicates beside the seed.
_AXES = ("labels_per_class", "label_fraction", "fold", "fold_repeat")


@dataclass(frozen=True)
class Facts:
    """What the key needs to know of the world, handed to planning as values.

    Attributes:
        data_digest: Hash of images, labels and class names.
        official_splits: Names of the splits that the data set brings.
        weights_sha256: Hash of the pretrained weights, None without.
        weights_name: Name for people, without a path.
        preprocessing: The preprocessing in effect, from the weights or overridden.
        precision: Arithmetic after ``auto`` was resolved.
        precision_reason: How ``auto`` was resolved, for people; empty where nobody asked for it.
        grouped: Whether the images have groups, which splits do not divide.
        split_sha256: Hash of the split that is replayed, None where a split is made.
        metric: What ``metric=auto`` means for these images.
        processes: Processes times micro-batches where a BatchNorm trains on the statistics of each, else 1.
        cut_depth: The stage that the node of ``transfer.freeze_until`` ends, None where none is named.
        cut_is_natural: Whether that stage ends there anyway.
    """

    data_digest: str
    official_splits: tuple[str, ...]
    weights_sha256: str | None
    weights_name: str
    preprocessing: Mapping[str, Any]
    precision: str
    processes: int = 1
    grouped: bool = False
    split_sha256: str | None = None
    metric: str = "accuracy"
    precision_reason: str = ""
    cut_depth: int | None = None
    cut_is_natural: bool = False


@dataclass(frozen=True)
class RunSpec:
    """One run, planned: what it is and the names under which it is found again."""

    config: Config
    facts: Facts
    key: str
    arm: Arm
    trial: str
    condition: str
    labels: str
    replicate: Replicate
    folds: int | None

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.config.seed


def specify(config: Config, facts: Facts, *, grid: bool = False) -> RunSpec:
    """Return the plan of one run.

    Args:
        config: A valid configuration.
        facts: What the key needs to know of data, weights and device.
        grid: Whether the configuration is a cell of a grid, see `normalise`.
    """
    config = normalise(config, grid=grid)
    if config.transfer.freeze_until is not None:
        config = normalise(place_cut(config, facts.cut_depth, facts.cut_is_natural), grid=grid)
    if config.metric == AUTO_METRIC:
        config = replace(config, metric=facts.metric)
    laid_out = config.trainer.channels_last and config.backbone.name not in ROW_BACKBONES
    trainer = replace(config.trainer, precision=facts.precision, channels_last=laid_out)
    config = replace(config, trainer=trainer)
    facts = (
        facts
        if config.transfer.method in PRETRAINED
        else replace(facts, weights_sha256=None, weights_name="none")
    )
    folds = None if facts.split_sha256 else config.data.folds  # a replayed split reads no folds
    weights_name = f"{facts.weights_name}@{facts.weights_sha256[:8]}" if facts.weights_sha256 else "none"
    return RunSpec(
        config=config,
        facts=facts,
        key=_hash(_keyed(config, facts)),
        arm=describe_arm(
            config, weights_name, f"{facts.preprocessing['size']}px@{_hash(facts.preprocessing)[:4]}"
        ),
        trial=describe_trial(config),
        condition=_hash(_condition(config, facts)),
        labels=describe_labels(config),
        replicate=_describe_replicate(config, folds),
        folds=folds,
    )


def describe_labels(config: Config) -> str:
    """Return the label budget as text: images per class, a percentage, ``all`` or ``replayed``."""
    data = config.data
    if data.split_file is not None:
        return "replayed"
    if data.label_fraction is not None:
        return f"{100 * data.label_fraction:.12g}%"
    return "all" if data.labels_per_class is None else str(data.labels_per_class)


def _describe_replicate(config: Config, folds: int | None) -> Replicate:
    if folds is None:
        return Replicate(config.seed)
    return Replicate(config.seed, config.data.fold_repeat, config.data.fold)


def _keyed(config: Config, facts: Facts) -> dict[str, Any]:
    """Return everything that can change the result of the run."""
    knobs = _keyed_knobs(config, "")
    for section in ("head", "loss", "optim"):
        knobs = {key: value for key, value in knobs.items() if not key.startswith(f"{section}.")}
    knobs |= {f"augment.{key}": value for key, value in effective_augment(config.augment).items()}
    knobs |= {f"data.{key}": value for key, value in effective_balance(config.data).items()}
    tuning = effective_tuning(config)
    knobs |= {name: tuning.pop(name) for name in ("batch_size",) if name in tuning}
    knobs |= {
        "backbone.options": effective_backbone(config),
        "head": effective_head(config.head),
        "loss": effective_loss(config.loss),
        "optim": tuning,
        "result_version": RESULT_VERSION,
    }
    if config.transfer.freeze_until is None:
        knobs.pop("transfer.freeze_until")
    for name in ("channels_last", "compile"):  # they move last digits only: in the key, not in the condition
        knobs |= {f"trainer.{name}": True} if getattr(config.trainer, name) else {}
    if facts.weights_sha256 is None:
        knobs.pop("backbone.allow_partial")
    return knobs | _fact_values(config, facts, knobs)


def _fact_values(config: Config, facts: Facts, knobs: dict[str, Any]) -> dict[str, Any]:
    """Return what the facts say, and drop from ``knobs`` what they leave without effect."""
    for name in _unread_split_knobs(config, facts):
        knobs.pop(f"data.{name}", None)
    replayed = {"split": facts.split_sha256} if facts.split_sha256 else {}
    return replayed | {
        "data": facts.data_digest,
        "weights": facts.weights_sha256,
        "preprocessing": dict(facts.preprocessing),
        "precision": facts.precision,
        "processes": facts.processes,
    }


def _unread_split_knobs(config: Config, facts: Facts) -> set[str]:
    """Return the knobs of the split that nothing reads, because of the data set or of another knob."""
    data = config.data
    if facts.split_sha256 is not None:
        return set(_SPLIT_KNOBS)
    unread = {name for name in ("folds", "label_fraction") if getattr(data, name) is None}
    if data.folds is not None:
        unread.add("test_size")  # the held-out fold is the test set, and validation comes from the others
    else:
        unread |= {"fold", "fold_repeat"}
        if "test" in facts.official_splits:  # nothing is carved out
            unread |= {"test_size", "split_seed"}
        if "val" in facts.official_splits:
            unread.add("val_size")
    if data.val_labels_per_class is not None and not facts.grouped:
        unread.add("val_size")
    return unread


def _condition(config: Config, facts: Facts) -> dict[str, Any]:
    """Return what all runs of one comparison share: data, splits, training budget, selection metric.

    Seed, fold and label budget are axes of a comparison; backbone, weights and preprocessing belong to the
    arm.
    """
    knobs = _keyed_knobs(config, "")
    kept = {
        key: value for key, value in knobs.items() if key.startswith(("data.", "trainer.")) or key == "metric"
    }
    values = _fact_values(config, facts, kept)
    for axis in _AXES:
        kept.pop(f"data.{axis}", None)
    return kept | {key: values[key] for key in ("data", "precision", "split") if key in values}


def _keyed_knobs(section: Any, prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in fields(section):
        key, value = f"{prefix}{item.name}", getattr(section, item.name)
        if is_dataclass(value):
            found |= _keyed_knobs(value, f"{key}.")
        elif item.metadata["keyed"] and key not in _KEYED_ELSEWHERE:
            found[key] = value
    return found


def _hash(values: Mapping[str, Any]) -> str:
    canonical = json.dumps(_canonical(values), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:20]


def _canonical(value: Any) -> Any:
    """Write numbers the one way, so that 1 and 1.0 are the same."""
    if isinstance(value, Mapping):
        return {key: _canonical(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(entry) for entry in value]
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
