"""One run on one page, in flow order: config, plan, data, model, train, track."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from graft.conclude import keep_run_weights, record_cut, record_end
from graft.config.names import PRETRAINED
from graft.config.schema import Config
from graft.errors import DivergedError, PrunedError
from graft.inputs import Progress, find_preprocessing, find_weights, gather_inputs, open_run_images
from graft.meter import Meter
from graft.plan.arms import place_cut
from graft.plan.groups import Sharing
from graft.plan.halving import Halving
from graft.plan.spec import Facts, RunSpec

if TYPE_CHECKING:
    from graft.together import Trained
    from graft.track.writer import RunWriter
    from graft.train.checkpoint import Checkpoints, State


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
    from graft.model.classifier import check_fit, find_cut
    from graft.train.probe import choose_precision
    from graft.train.statistics import check_compiler, check_hardware, check_precision, count_statistics

    check_hardware(config.trainer)
    check_precision(config.trainer)
    check_compiler(config.trainer)
    images = open_run_images(config, progress)
    replayed = config.data.split_file is not None
    preprocessing = find_preprocessing(config, images.channels)
    size, channels = preprocessing.size, preprocessing.channels
    check_fit(config, num_classes=len(images.class_names), channels=channels, image_size=size)
    cut_depth, cut_is_natural = find_cut(config, channels=channels, image_size=size)
    config = place_cut(config, cut_depth, cut_is_natural)
    weights = find_weights(config) if config.transfer.method in PRETRAINED else None
    cache = Path(config.paths.root).resolve() / "cache"
    precision, reason = choose_precision(config, channels=channels, image_size=size, cache_root=cache)
    return Facts(
        data_digest=images.digest,
        official_splits=images.official_names,
        grouped=images.groups is not None,
        split_sha256=divide_images(images, config.data, config.seed).digest if replayed else None,
        weights_sha256=weights.sha256 if weights else None,
        weights_name=weights.name if weights else "none",
        preprocessing=preprocessing.to_dict(),
        precision=precision,
        precision_reason=reason,
        processes=count_statistics(config, channels=channels, image_size=size),
        metric=choose_metric(images, config.metric),
        cut_depth=cut_depth,
        cut_is_natural=cut_is_natural,
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
    sharing: Sharing | None = None,
    trained: Trained | None = None,
    halving: Halving | None = None,
    progress: Progress | None = None,
    on_start: Callable[[str], None] | None = None,
) -> float:
    """Execute a planned run, record it, and return its validation metric.

    A run that was interrupted before goes on from its newest checkpoint.

    Args:
        spec: The run.
        parent_id: MLflow id of the sweep it belongs to.
        sharing: What the sweep decided that it shares; None: all that it can.
        trained: What came out when it trained with its siblings; None: it is still to train.
        halving: Decides at validations whether it goes on; None: it does.
        progress: Told how far the training is, in optimizer steps.
        on_start: Told the MLflow id of the run, in the process that records it.

    Raises:
        GraftError: When the run cannot be done as asked, its loss diverged, or it was pruned.
        RunInterrupted: When a signal asked it to stop.
    """
    from graft.together import why_alone
    from graft.track.store import open_store
    from graft.track.writer import recording
    from graft.train.checkpoint import open_checkpoints
    from graft.train.ridge_fit import choose_fit
    from graft.train.stop import StopRequest

    started = time.perf_counter()
    config, root = spec.config, Path(spec.config.paths.root).resolve()
    with StopRequest() as stop:
        inputs = trained.inputs if trained else gather_inputs(spec, sharing)
        checkpoints = open_checkpoints(config, spec.key)
        start = checkpoints.newest()
        notes = inputs.notes + why_alone(spec.key) + _describe_start(checkpoints, start)
        store = open_store(config.tracking.uri, root) if _records() else None
        meter = Meter(inputs, sharing, start if trained is None else None)
        about = inputs.about | {"notes": "\n".join(notes)}
        going_on = recording(store, spec, parent_id, notes=about, goes_on=start is not None)
        with _ending(checkpoints), going_on as recorder:
            if recorder is not None and on_start is not None:
                on_start(recorder.run_id)
            if trained is not None:
                fitted = trained.replay(recorder, meter)
            else:
                with _counting_cost(recorder, meter, progress) as tell:
                    fitted = choose_fit(config)(
                        inputs.classifier,
                        inputs.batches,
                        config,
                        inputs.budget,
                        recorder=recorder,
                        progress=tell,
                        checkpoints=checkpoints,
                        start=start,
                        stop=stop,
                        halving=halving,
                        price=meter.price,
                    )
            if recorder is not None:
                if fitted.notes:
                    recorder.note({"graft.notes": "\n".join([*notes, *fitted.notes])})
                seconds = fitted.earlier_seconds + time.perf_counter() - started
                record_end(recorder, spec, inputs, fitted, meter, seconds, in_group=trained is not None)
                keep_run_weights(root, spec, inputs)
    return fitted.validation[config.metric]


@contextlib.contextmanager
def _counting_cost(
    recorder: RunWriter | None, meter: Meter, progress: Progress | None
) -> Iterator[Callable[[int], None]]:
    """Yield what takes the optimizer steps done; record what a run cost that is cut before its end."""
    begun, done = time.perf_counter(), meter.start.step if meter.start else 0

    def tell(step: int) -> None:
        nonlocal done
        done = step
        if progress is not None:
            progress(step, meter.inputs.budget.total_steps)

    try:
        yield tell
    except (DivergedError, PrunedError):
        if recorder is not None:
            earlier = meter.start.seconds if meter.start else 0.0
            record_cut(recorder, meter, earlier + time.perf_counter() - begun, done)
        raise


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


def _records() -> bool:
    """Whether this process writes the record: the first one of a run on several devices."""
    ranks = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    return all(int(os.environ.get(name, "0")) == 0 for name in ranks)
