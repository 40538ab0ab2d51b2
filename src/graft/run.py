"""One run on one page, in flow order: config, plan, data, model, train, track."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from graft.config.names import CHECKED_DATA_SETS, PRETRAINED, STAGES
from graft.config.schema import Config
from graft.plan.spec import Facts, RunSpec

if TYPE_CHECKING:
    from graft.data.datamodule import ImageDataModule
    from graft.data.image_set import ImageSet, UInt8Array
    from graft.data.preprocessing import Preprocessing
    from graft.data.splits import Split
    from graft.model.classifier import Classifier
    from graft.model.weights import WeightsSource
    from graft.train.fit import Budget

#: Image sets kept open, the latest ones.
_KEPT_OPEN = 4
_OPENED: dict[tuple[object, Path], ImageSet] = {}

#: Told (done, total).
Progress = Callable[[int, int], None]


def gather_facts(config: Config, progress: Progress | None = None) -> Facts:
    """Return what the run key needs to know of data, weights and device.

    Args:
        config: A valid configuration.
        progress: Told how many images are read, where that takes long.

    Raises:
        GraftError: When the images or the weights are not there, or not sound.
    """
    from graft.data.balance import choose_metric
    from graft.data.divide import divide_images
    from graft.model.classifier import check_fit
    from graft.train.statistics import check_hardware, check_precision, count_statistics

    check_hardware(config.trainer)
    check_precision(config.trainer)
    images = open_run_images(config, progress)
    replayed = config.data.split_file is not None
    preprocessing = find_preprocessing(config, images.channels)
    size, channels = preprocessing.size, preprocessing.channels
    check_fit(config, num_classes=len(images.class_names), channels=channels, image_size=size)
    weights = _find_weights(config) if config.transfer.method in PRETRAINED else None
    return Facts(
        data_digest=images.digest,
        official_splits=images.official_names,
        grouped=images.groups is not None,
        split_sha256=divide_images(images, config.data, config.seed).digest if replayed else None,
        weights_sha256=weights.sha256 if weights else None,
        weights_name=weights.name if weights else "none",
        preprocessing=preprocessing.to_dict(),
        precision=config.trainer.precision,
        processes=count_statistics(config, channels=channels, image_size=size),
        metric=choose_metric(images, config.metric),
    )


def decode_images(spec: RunSpec, progress: Progress | None = None) -> None:
    """Decode the images of a run once, for all runs that see them the same way.

    Raises:
        GraftError: When an image cannot be decoded, or the cache cannot be written.
    """
    from graft.data.pixels import prepare_pixels
    from graft.data.preprocessing import Preprocessing

    cache = Path(spec.config.paths.root).resolve() / "cache"
    preprocessing = Preprocessing.from_dict(spec.facts.preprocessing)
    prepare_pixels(open_run_images(spec.config), preprocessing, cache, progress)


def execute(spec: RunSpec, *, parent_id: str | None = None, progress: Progress | None = None) -> float:
    """Execute a planned run, record it, and return its validation metric.

    Args:
        spec: The run.
        parent_id: MLflow id of the sweep it belongs to.
        progress: Told how far the training is, in optimizer steps.

    Raises:
        GraftError: When the run cannot be done as asked, or its loss diverged.
    """
    from graft.data.baselines import count_labels, measure_baselines
    from graft.data.divide import divide_images
    from graft.data.pixels import prepare_pixels
    from graft.data.preprocessing import Preprocessing
    from graft.model.classifier import build_classifier, describe_model
    from graft.model.weights import load_weights
    from graft.track.results import keep_weights, record_result
    from graft.track.store import open_store
    from graft.track.writer import recording
    from graft.train.fit import fit, seed_everything
    from graft.train.statistics import explain_statistics

    started = time.perf_counter()
    config, root = spec.config, Path(spec.config.paths.root).resolve()

    # data
    images = open_run_images(config)
    preprocessing = Preprocessing.from_dict(spec.facts.preprocessing)
    pixels = prepare_pixels(images, preprocessing, root / "cache")
    split = divide_images(images, config.data, config.seed)
    batches, budget = _plan_batches(config, images, preprocessing, pixels, split)

    # model
    seed_everything(config.seed)
    source = _find_weights(config) if spec.facts.weights_sha256 else None
    classifier, notes = build_classifier(
        config,
        num_classes=len(images.class_names),
        channels=preprocessing.channels,
        image_size=preprocessing.size,
        weights=load_weights(source, config.backbone.name) if source else None,
    )

    # train, track
    store = open_store(config.tracking.uri, root) if _records() else None
    notes += describe_input(config, images, preprocessing) + explain_statistics(spec.facts.processes)
    about = describe_model(classifier) | {"notes": "\n".join(notes)}
    about |= {"data_warnings": "; ".join(images.notes)} if images.notes else {}
    about |= _describe_choices(config) | _describe_source(source, images)
    with recording(store, spec, parent_id, notes=about) as recorder:
        steps_done = (lambda step: progress(step, budget.total_steps)) if progress else None
        fitted = fit(classifier, batches, config, budget, recorder=recorder, progress=steps_done)
        if recorder is not None:
            record_result(recorder, config, images, split, fitted)
            baselines = measure_baselines(pixels, images.labels, split)
            baselines |= _measure_features(spec, classifier, images, pixels, split)
            recorder.record(count_labels(split) | baselines, fitted.best_step)
            recorder.record({"run_seconds": time.perf_counter() - started}, fitted.best_step)
            if config.checkpoint.keep != "none":
                keep_weights(root, spec, images.class_names, classifier.trainable_state())
    return fitted.validation[config.metric]


def _measure_features(
    spec: RunSpec, classifier: Classifier, images: ImageSet, pixels: UInt8Array, split: Split
) -> dict[str, float]:
    """Return what nearest neighbours on the features reach, where a whole pretrained backbone is frozen."""
    config, facts = spec.config, spec.facts
    frozen = facts.weights_sha256 is not None and config.transfer.freeze_depth == STAGES
    if not frozen or config.trainer.limit_batches is not None:
        return {}
    from graft.data.preprocessing import Preprocessing
    from graft.train.neighbours import measure_neighbours

    seen_as = json.dumps(dict(facts.preprocessing), sort_keys=True)
    # What partial weights lack is drawn from the seed.
    whole = str(facts.weights_sha256) + (f"+{config.seed}" if config.backbone.allow_partial else "")
    same = (config.backbone.name, whole, facts.data_digest, seen_as, facts.precision)
    preprocessing = Preprocessing.from_dict(facts.preprocessing)
    return measure_neighbours(
        classifier.backbone, pixels, images.labels, split, preprocessing, config.trainer, same
    )


def _plan_batches(
    config: Config, images: ImageSet, preprocessing: Preprocessing, pixels: UInt8Array, split: Split
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
    )
    return batches, budget


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


def _find_weights(config: Config) -> WeightsSource | None:
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


def _records() -> bool:
    """Whether this process writes the record: the first one of a run on several devices."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0 and int(os.environ.get("SLURM_PROCID", "0")) == 0
