"""What one run works with: its images, its batches, its network, and what the user should know of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from graft.config.names import CHECKED_DATA_SETS
from graft.config.schema import Config
from graft.plan.spec import RunSpec

if TYPE_CHECKING:
    from graft.data.batches import Activations
    from graft.data.datamodule import ImageDataModule
    from graft.data.image_set import ImageSet, UInt8Array
    from graft.data.preprocessing import Preprocessing
    from graft.data.splits import Split
    from graft.model.classifier import Classifier
    from graft.model.weights import WeightsSource
    from graft.reuse.share import Shared
    from graft.train.fit import Budget

#: Image sets kept open, the latest ones.
_KEPT_OPEN = 4
_OPENED: dict[tuple[object, Path], ImageSet] = {}

#: Images that go through frozen stages at once; a larger number is hardly faster.
_SHARED_BATCH = 64

#: Told (done, total).
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Inputs:
    """What a run works with.

    Attributes:
        images: The data set.
        pixels: Its images, as the network sees them.
        split: Which of them train, choose and test.
        batches: The batches of the run.
        budget: How long it trains.
        classifier: Frozen as the run wants, with its weights.
        notes: What the user should know.
        about: Tags for the record.
        shared: Activations of its frozen stages that are read instead of computed, None for none.
    """

    images: ImageSet
    pixels: UInt8Array
    split: Split
    batches: ImageDataModule
    budget: Budget
    classifier: Classifier
    notes: list[str]
    about: dict[str, str]
    shared: Shared | None


def gather_inputs(spec: RunSpec) -> Inputs:
    """Gather what a run works with, in flow order: data, model.

    Raises:
        GraftError: When the images or the weights are not there, not sound, or do not go together.
    """
    from graft.data.divide import divide_images
    from graft.data.pixels import prepare_pixels
    from graft.data.preprocessing import Preprocessing
    from graft.model.classifier import build_classifier, describe_model
    from graft.model.weights import load_weights
    from graft.train.fit import seed_everything
    from graft.train.statistics import explain_statistics

    config = spec.config
    images = open_run_images(config)
    preprocessing = Preprocessing.from_dict(spec.facts.preprocessing)
    pixels = prepare_pixels(images, preprocessing, Path(config.paths.root).resolve() / "cache")
    split = divide_images(images, config.data, config.seed)

    seed_everything(config.seed)
    source = find_weights(config) if spec.facts.weights_sha256 else None
    classifier, notes = build_classifier(
        config,
        num_classes=len(images.class_names),
        channels=preprocessing.channels,
        image_size=preprocessing.size,
        weights=load_weights(source, config.backbone.name) if source else None,
    )
    notes += describe_input(config, images, preprocessing) + explain_statistics(spec.facts.processes)
    shared, path = share_frozen(spec, classifier, pixels, split)
    notes += [f"Damaged, and computed again: {fault}." for fault in (shared.faults if shared else ())]
    batches, budget = _plan_batches(
        config, images, preprocessing, pixels, split, shared.activations if shared else None
    )
    about = describe_model(classifier) | {"path": path}
    about |= {"data_warnings": "; ".join(images.notes)} if images.notes else {}
    about |= _describe_choices(config) | _describe_source(source, images)
    return Inputs(images, pixels, split, batches, budget, classifier, notes, about, shared)


def _plan_batches(
    config: Config,
    images: ImageSet,
    preprocessing: Preprocessing,
    pixels: UInt8Array,
    split: Split,
    activations: Activations | None,
) -> tuple[ImageDataModule, Budget]:
    """Return the batches of a run, and how long it trains on them."""
    from graft.data.datamodule import ImageDataModule
    from graft.data.schedule import count_steps_per_pass
    from graft.train.fit import plan_budget

    budget = plan_budget(config.trainer, count_steps_per_pass(len(split.train), config.data.batch_size))
    batches = ImageDataModule(
        pixels=pixels,
        labels=images.labels,
        split=split,
        preprocessing=preprocessing,
        batch_size=config.data.batch_size,
        seed=config.seed,
        augment=config.augment,
        balance=config.data.balance,
        accumulate=config.trainer.accumulate,
        workers=config.data.workers,
        limit_batches=config.trainer.limit_batches,
        steps_per_round=budget.steps_per_round,
        total_steps=budget.total_steps,
        image_weights=images.weights,
        activations=activations,
    )
    return batches, budget


def share_frozen(
    spec: RunSpec, classifier: Classifier, pixels: UInt8Array, split: Split
) -> tuple[Shared | None, str]:
    """Return the activations of the frozen stages of a run, and in words which path it takes.

    The classifier then begins behind them.
    """
    from graft.data.preprocessing import Preprocessing
    from graft.model.features import choose_device
    from graft.plan.groups import find_obstacle, find_prefix
    from graft.reuse.prefix import Prefix
    from graft.reuse.share import name_entries, share_activations
    from graft.reuse.store import ActivationStore

    config, found = spec.config, find_prefix(spec)
    if found is None or not config.reuse.enabled:
        return None, f"plain: {find_obstacle(config) or 'reuse=off'}"
    prefix = Prefix(
        backbone=classifier.backbone,
        depth=config.transfer.freeze_depth,
        name=name_entries(found),
        pixels=pixels,
        preprocessing=Preprocessing.from_dict(spec.facts.preprocessing),
        precision=spec.facts.precision,
        batch_size=_SHARED_BATCH,
        device=choose_device(config.trainer),
    )
    root = Path(config.paths.root).resolve()
    shared = share_activations(
        ActivationStore(root / "cache" / "activations", int(config.reuse.disk_gb * 1e9)),
        prefix,
        found,
        split.train,
        np.concatenate([split.val, split.test]),
        augmentation=config.augment.name,
        views=config.augment.views or 0,
        seed=config.seed,
    )
    classifier.train()
    if shared is None:
        return None, "plain: the activations do not fit under `reuse.disk_gb`, or cannot be written"
    classifier.backbone.entry = prefix.depth
    return shared, f"shared: stages 1 to {prefix.depth} were computed once"


def open_run_images(config: Config, progress: Progress | None = None) -> ImageSet:
    """Open the images of a run; a sweep asks for the same ones again and again.

    Raises:
        GraftError: When the images are not there, or the check of a user's own images finds errors.
    """
    names = ("name", "root", "table", "on_error", "render_count", "render_seed")
    same = tuple((name, getattr(config.data, name)) for name in names)
    root = Path(config.paths.root).resolve()
    if (same, root) not in _OPENED:
        while len(_OPENED) >= _KEPT_OPEN:
            _OPENED.pop(next(iter(_OPENED)))
        _OPENED[same, root] = _open_images(config, root, progress)
    return _OPENED[same, root]


def _open_images(config: Config, root: Path, progress: Progress | None) -> ImageSet:
    """Open a known set as it is, and a user's own after the pre-flight."""
    from graft.data.catalog import open_images
    from graft.data.sound import describe_findings, open_sound_images

    if config.data.name not in CHECKED_DATA_SETS:
        return open_images(config.data, root / "cache", progress)
    images, report, left_out = open_sound_images(
        replace(config.data, labels_per_class=None),  # whether there are enough is the split's to say
        root / "cache",
        functools.partial(find_preprocessing, config),
        root / "reports",
        (lambda _: progress) if progress else None,
    )
    return replace(images, notes=images.notes + describe_findings(report, left_out))


def find_weights(config: Config) -> WeightsSource | None:
    """Return where the weights come from that the configuration names, None for none."""
    from graft.model.weights import resolve_weights

    return resolve_weights(config.backbone.weights, config.backbone.name, Path(config.paths.root).resolve())


def find_preprocessing(config: Config, channels: int) -> Preprocessing:
    """Return what the weights, or the architecture, expect of images with so many channels; overridden."""
    from graft.model.weights import default_preprocessing, preprocessing_of_weights

    data, root = config.data, Path(config.paths.root).resolve()
    found = preprocessing_of_weights(config.backbone.weights, config.backbone.name, root)
    if found is None:
        found = default_preprocessing(config.backbone.name, channels, data.image_size)
    return found.override(data.image_size, data.mean, data.std, data.resize)


def describe_input(config: Config, images: ImageSet, preprocessing: Preprocessing) -> list[str]:
    """Say what a user may not expect of how the network sees the images."""
    lines = list(images.notes)
    if images.channels < preprocessing.channels:
        lines.append(
            f"Gray images are repeated to the {preprocessing.channels} channels of {config.backbone.name}."
        )
    if images.channels > preprocessing.channels:
        lines.append(f"Colour images become luma for the one channel of {config.backbone.name}.")
    return lines


def _describe_choices(config: Config) -> dict[str, str]:
    """Return what a user chose against what the weights say, for the record and the report."""
    if config.backbone.weights == "none":
        return {}
    names = [
        name for name in ("image_size", "resize", "mean", "std") if getattr(config.data, name) is not None
    ]
    listed = ", ".join(f"data.{name}={getattr(config.data, name)}" for name in names)
    told = {"preprocessing_override": listed} if names else {}
    if config.backbone.allow_partial:
        told["partial_weights"] = f"{config.backbone.name} took what fits of {config.backbone.weights}"
    return told


def _describe_source(source: WeightsSource | None, images: ImageSet) -> dict[str, str]:
    """Say when the source domain may hold the very classes that are to be learned."""
    known = set(source.classes or ()) if source else set()
    shared = [name for name in images.class_names if name in known]
    if source is None or not shared:
        return {}
    listed = ", ".join(shared[:10]) + (", ..." if len(shared) > 10 else "")
    counted = f"{len(shared)} of the {len(images.class_names)} target classes"
    said = f"the source domain of {source.name} has {counted} under the same name: {listed}"
    return {"source_contains_target": said}
