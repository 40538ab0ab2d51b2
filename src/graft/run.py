"""One run on one page, in flow order: config, plan, data, model, train, track."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from graft.config.names import PRETRAINED, STAGES
from graft.config.schema import Config
from graft.errors import DivergedError, RunFailedError
from graft.inputs import Inputs, Progress, find_preprocessing, find_weights, gather_inputs, open_run_images
from graft.plan.spec import Facts, RunSpec

if TYPE_CHECKING:
    from graft.data.image_set import ImageSet, UInt8Array
    from graft.data.splits import Split
    from graft.model.classifier import Classifier
    from graft.track.writer import RunWriter
    from graft.train.checkpoint import Checkpoints, State
    from graft.train.fit import Fitted


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
    weights = find_weights(config) if config.transfer.method in PRETRAINED else None
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


def execute(
    spec: RunSpec,
    *,
    parent_id: str | None = None,
    progress: Progress | None = None,
    on_start: Callable[[str], None] | None = None,
) -> float:
    """Execute a planned run, record it, and return its validation metric.

    A run that was interrupted before goes on from its newest checkpoint.

    Args:
        spec: The run.
        parent_id: MLflow id of the sweep it belongs to.
        progress: Told how far the training is, in optimizer steps.
        on_start: Told the MLflow id of the run, in the process that records it.

    Raises:
        GraftError: When the run cannot be done as asked, or its loss diverged.
        RunInterrupted: When a signal asked it to stop.
    """
    from graft.track.store import open_store
    from graft.track.writer import recording
    from graft.train.fit import fit
    from graft.train.stop import StopRequest

    started = time.perf_counter()
    config, root = spec.config, Path(spec.config.paths.root).resolve()
    with StopRequest() as stop:
        inputs = gather_inputs(spec)
        checkpoints = _open_checkpoints(spec, root)
        start = checkpoints.newest()
        notes = inputs.notes + _describe_start(checkpoints, start)
        store = open_store(config.tracking.uri, root) if _records() else None
        about = inputs.about | {"notes": "\n".join(notes)}
        going_on = recording(store, spec, parent_id, notes=about, goes_on=start is not None)
        with _ending(checkpoints), going_on as recorder:
            if recorder is not None and on_start is not None:
                on_start(recorder.run_id)
            fitted = fit(
                inputs.classifier,
                inputs.batches,
                config,
                inputs.budget,
                recorder=recorder,
                progress=(lambda step: progress(step, inputs.budget.total_steps)) if progress else None,
                checkpoints=checkpoints,
                start=start,
                stop=stop,
            )
            if recorder is not None:
                if fitted.notes:
                    recorder.tag({"graft.notes": "\n".join([*notes, *fitted.notes])})
                _record_end(recorder, spec, inputs, fitted, started)
                _keep_weights(root, spec, inputs)
    return fitted.validation[config.metric]


def _open_checkpoints(spec: RunSpec, root: Path) -> Checkpoints:
    """Return where a run writes down how far it is."""
    from graft.train.checkpoint import Checkpoints

    knobs = spec.config.checkpoint
    return Checkpoints(
        root / "resume" / spec.key, spec.key, every_seconds=knobs.every_seconds, keep_last=knobs.keep_last
    )


def _describe_start(checkpoints: Checkpoints, start: State | None) -> list[str]:
    """Say where a run goes on that was interrupted, and which checkpoints could not be used."""
    where = [f"Interrupted, and gone on with from step {start.step}."] if start else []
    return [*checkpoints.notes, *where]


@contextlib.contextmanager
def _ending(checkpoints: Checkpoints) -> Iterator[None]:
    """Delete the checkpoints of a run that has ended for good: finished, or diverged."""
    try:
        yield
    except DivergedError:
        if _records():
            checkpoints.delete()
        raise
    if _records():
        checkpoints.delete()


def _record_end(recorder: RunWriter, spec: RunSpec, inputs: Inputs, fitted: Fitted, started: float) -> None:
    """Record what came out of a run, and what it is to be compared with."""
    from graft.data.baselines import count_labels, measure_baselines
    from graft.track.results import record_result

    inputs.classifier.backbone.entry = 0  # from here on it sees images again
    alone, really = count_seconds(inputs, fitted)
    fitted = replace(fitted, train_seconds=alone)
    record_result(recorder, spec.config, inputs.images, inputs.split, fitted)
    numbers: dict[str, float] = dict(count_labels(inputs.split)) | {"amortised_seconds": really}
    numbers |= measure_baselines(inputs.pixels, inputs.images.labels, inputs.split)
    numbers |= _measure_features(spec, inputs.classifier, inputs.images, inputs.pixels, inputs.split)
    recorder.record(numbers, fitted.best_step)
    seconds = fitted.earlier_seconds + time.perf_counter() - started
    recorder.record({"run_seconds": seconds}, fitted.best_step)


def count_seconds(inputs: Inputs, fitted: Fitted) -> tuple[float, float]:
    """Return the seconds that training takes a run alone, and those that it really took.

    Alone it sends every image that it sees through its frozen stages; their time is measured where it reads
    activations instead.
    """
    shared = inputs.shared
    if shared is None:
        return fitted.train_seconds, fitted.train_seconds
    validations = -(-fitted.steps // inputs.budget.steps_per_round)
    images = fitted.images_seen + validations * len(inputs.split.val)
    alone = fitted.train_seconds + images * shared.seconds_per_image
    return alone, fitted.train_seconds + shared.seconds


def _keep_weights(root: Path, spec: RunSpec, inputs: Inputs) -> None:
    """Write the weights of a run.

    Raises:
        RunFailedError: They cannot be written: a run without them has not done what was asked.
    """
    from graft.track.results import checkpoint_folder, keep_weights

    if spec.config.checkpoint.keep == "none":
        return
    try:
        keep_weights(root, spec, inputs.images.class_names, inputs.classifier.trainable_state())
    except OSError as error:
        raise RunFailedError(
            f"Expected to write the weights of the run to {checkpoint_folder(root, spec.key)}, but could "
            f"not: {error.strerror or error}. The same command tries again without training again; "
            "`checkpoint.keep=none` does without them."
        ) from error


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


def _records() -> bool:
    """Whether this process writes the record: the first one of a run on several devices."""
    ranks = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    return all(int(os.environ.get(name, "0")) == 0 for name in ranks)
