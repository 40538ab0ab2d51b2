"""What is recorded when a run has ended: its numbers, what they are to be compared with, its weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from graft.config.names import STAGES
from graft.errors import RunFailedError
from graft.inputs import Inputs
from graft.meter import Meter, count_validated
from graft.plan.obstacles import effective_rounding
from graft.plan.spec import RunSpec

if TYPE_CHECKING:
    from graft.data.image_set import Int64Array
    from graft.track.writer import RunWriter
    from graft.train.fit import Fitted
    from graft.train.neighbours import Float32Array
    from graft.train.task import Recorder


def record_end(
    recorder: RunWriter,
    spec: RunSpec,
    inputs: Inputs,
    fitted: Fitted,
    meter: Meter,
    seconds: float,
    *,
    in_group: bool,
) -> None:
    """Record what came out of a run, and what it is to be compared with.

    Args:
        recorder: Of the run.
        spec: The run.
        inputs: What it worked with.
        fitted: What came out of it.
        meter: Says what its training cost.
        seconds: What the run took since its record was begun, earlier processes included.
        in_group: Whether its head trained together with others, before that.
    """
    from graft.data.baselines import count_labels
    from graft.track.results import record_result

    inputs.classifier.backbone.entry = 0  # from here on it sees images again
    cost = meter.price(fitted.train_seconds, fitted.steps, seen=fitted.images_seen)
    told = replace(fitted, train_seconds=cost.alone)
    record_result(recorder, spec.config, inputs.images, inputs.split, told)
    # At the last step: MLflow shows the newest one, and a run that was pruned before has one at its cut.
    recorder.record({"amortised_seconds": cost.amortised}, fitted.steps)
    numbers: dict[str, float] = dict(count_labels(inputs.split))
    numbers["train_flops"] = _count_flops(spec, inputs, fitted)
    recorder.record(numbers | _measure_baselines(spec, inputs), fitted.best_step)
    if in_group:  # it trained before its record was begun
        seconds += fitted.train_seconds
    recorder.record({"run_seconds": seconds}, fitted.best_step)


def record_cut(recorder: Recorder, meter: Meter, seconds: float, steps: int) -> None:
    """Record what a run cost that was pruned or diverged: the search for the best trial paid for it, too.

    Args:
        recorder: Of the run.
        meter: Says what its training cost.
        seconds: Spent on training, earlier processes included.
        steps: Optimizer steps done.
    """
    from graft.train.fit import count_images

    cost, seen = meter.price(seconds, steps), count_images(meter.inputs.batches, steps)
    numbers = {"train_seconds": cost.alone, "amortised_seconds": cost.amortised, "images_seen": float(seen)}
    recorder.record(numbers, steps)


def _count_flops(spec: RunSpec, inputs: Inputs, fitted: Fitted) -> float:
    """Return the floating-point operations that training takes a run alone, in its backbone.

    A backward pass counts as two forward ones, where anything trains.
    """
    from graft.data.measured import measure_once
    from graft.model.flops import count_flops
    from graft.plan.arms import effective_backbone

    folder = Path(spec.config.paths.root).resolve() / "cache" / "measured"
    seen, backbone = spec.facts.preprocessing, inputs.classifier.backbone
    channels, size = int(seen["channels"]), int(seen["size"])
    cut = spec.config.transfer.freeze_until
    same = (spec.config.backbone.name, effective_backbone(spec.config), channels, size, cut)
    stages = measure_once(folder, "flops", same, lambda: count_flops(backbone, channels, size))
    whole = sum(stages.values())
    trained = sum(value for stage, value in stages.items() if int(stage) > backbone.frozen_depth)
    images = fitted.images_seen + count_validated(inputs, fitted.steps)
    return images * whole + 2 * fitted.images_seen * trained


def keep_run_weights(root: Path, spec: RunSpec, inputs: Inputs) -> None:
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
            f"not: {error.strerror or error}. The same command tries again, without training again where "
            "that took long; `checkpoint.keep=none` does without them."
        ) from error


def _measure_baselines(spec: RunSpec, inputs: Inputs) -> dict[str, float]:
    """Return what a run is to be compared with; runs of the same images and split share it."""
    from graft.data.baselines import measure_baselines
    from graft.data.measured import measure_once
    from graft.train.neighbours import measure_neighbours

    images, split, facts = inputs.images, inputs.split, spec.facts
    folder = Path(spec.config.paths.root).resolve() / "cache" / "measured"
    same = (images.digest, dict(facts.preprocessing), split.digest)
    pixels = inputs.pixels
    numbers = measure_once(folder, "baselines", same, lambda: measure_baselines(pixels, images.labels, split))
    config = spec.config
    frozen = facts.weights_sha256 is not None and config.transfer.freeze_depth == STAGES
    if not frozen or config.trainer.limit_batches is not None:
        return numbers
    # What partial weights lack is drawn from the seed.
    whole = str(facts.weights_sha256) + (f"+{config.seed}" if config.backbone.allow_partial else "")
    rounding = effective_rounding(config) if config.reuse.enabled else None
    seen_as = (facts.precision, rounding, config.trainer.channels_last)
    features = (config.backbone.name, whole, seen_as, *same)
    read = _find_features(spec, inputs, tuple(str(part) for part in features[:-1]))
    return numbers | measure_once(
        folder, "neighbours", features, lambda: measure_neighbours(read, images.labels, split)
    )


def _find_features(
    spec: RunSpec, inputs: Inputs, same: tuple[str, ...]
) -> Callable[[Int64Array], Float32Array]:
    """Return what reads the features of a whole frozen backbone: from the store where they are there."""
    from graft.data.preprocessing import Preprocessing
    from graft.train.neighbours import read_features

    shared = inputs.shared
    # With views the store has training images as they are augmented, and not as they are.
    if shared is not None and shared.boundary == STAGES and not shared.activations.views:
        return lambda rows: shared.activations.plain.read(rows).float().numpy()
    return functools.partial(
        read_features,
        backbone=inputs.classifier.backbone,
        pixels=inputs.pixels,
        preprocessing=Preprocessing.from_dict(spec.facts.preprocessing),
        trainer=spec.config.trainer,
        same=same,
    )
