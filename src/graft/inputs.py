"""What one run works with: its images, its batches, its network, and what the user should know of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from graft.config.names import CHECKED_DATA_SETS
from graft.config.schema import Config, DataConfig
from graft.plan.groups import Sharing
from graft.plan.obstacles import effective_rounding
from graft.plan.spec import RunSpec
from graft.sharing import share_frozen

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

#: Splits kept, the latest ones.
_KEPT_DIVIDED = 64
_DIVIDED: dict[tuple[str, str, int], Split] = {}

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


@dataclass(frozen=True)
class View:
    """The images of a run as its network sees them.

    Attributes:
        images: The data set.
        preprocessing: How the network sees it.
        pixels: The network's inputs, uint8 ``(N, C, H, W)``.
        split: Which of them train, choose and test.
    """

    images: ImageSet
    preprocessing: Preprocessing
    pixels: UInt8Array
    split: Split


def open_view(spec: RunSpec) -> View:
    """Open the images of a run, decoded, and divide them.

    Raises:
        GraftError: When the images are not there, or not sound.
    """
    from graft.data.pixels import prepare_pixels
    from graft.data.preprocessing import Preprocessing

    config = spec.config
    images = open_run_images(config)
    preprocessing = Preprocessing.from_dict(spec.facts.preprocessing)
    pixels = prepare_pixels(images, preprocessing, Path(config.paths.root).resolve() / "cache")
    return View(images, preprocessing, pixels, _divide_once(images, config))


def _divide_once(images: ImageSet, config: Config) -> Split:
    """Divide a set; runs of other arms and trials divide it alike, which takes a second for a large one."""
    from graft.data.divide import divide_images

    if config.data.split_file is not None:  # may change between two runs
        return divide_images(images, config.data, config.seed)
    same = (images.digest, repr(config.data), config.seed)
    if same not in _DIVIDED:
        while len(_DIVIDED) >= _KEPT_DIVIDED:
            _DIVIDED.pop(next(iter(_DIVIDED)))
        _DIVIDED[same] = divide_images(images, config.data, config.seed)
    return _DIVIDED[same]


def build_model(spec: RunSpec, images: ImageSet) -> tuple[Classifier, list[str]]:
    """Build the network of a run, drawn from its seed, with its weights, and say what the user should know.

    Raises:
        GraftError: When the weights are not there, not sound, or do not fit.
    """
    from graft.model.classifier import build_classifier
    from graft.model.weights import load_weights
    from graft.train.fit import seed_everything

    seed_everything(spec.config.seed)
    source = find_weights(spec.config) if spec.facts.weights_sha256 else None
    return build_classifier(
        spec.config,
        num_classes=len(images.class_names),
        channels=int(spec.facts.preprocessing["channels"]),
        image_size=int(spec.facts.preprocessing["size"]),
        weights=load_weights(source, spec.config.backbone.name) if source else None,
    )


def gather_inputs(spec: RunSpec, sharing: Sharing | None = None) -> Inputs:
    """Gather what a run works with, in flow order: data, model, what it shares.

    Args:
        spec: The run.
        sharing: What the sweep decided for it; None: it shares all that it can.

    Raises:
        GraftError: When the images or the weights are not there, not sound, or do not go together.
    """
    view = open_view(spec)
    classifier, notes = build_model(spec, view.images)
    shared, path = share_frozen(spec, classifier, view.pixels, view.split, sharing)
    return assemble_inputs(spec, view, classifier, notes, shared, path)


def assemble_inputs(
    spec: RunSpec, view: View, classifier: Classifier, notes: list[str], shared: Shared | None, path: str
) -> Inputs:
    """Put together what a run works with, and what is to be said of it.

    Args:
        spec: The run.
        view: Its images.
        classifier: Its network.
        notes: What the user should know of the network.
        shared: What it reads in the place of images.
        path: In words which path it takes.
    """
    from graft.model.classifier import describe_model
    from graft.train.statistics import explain_statistics

    config, images = spec.config, view.images
    notes = notes + describe_input(config, images, view.preprocessing)
    notes += explain_statistics(spec.facts.processes) + describe_arithmetic(spec)
    notes += [f"Damaged, and computed again: {fault}." for fault in (shared.faults if shared else ())]
    batches, budget = _plan_batches(config, view, shared.activations if shared else None)
    about = describe_model(classifier) | {"path": path}
    about |= {"data_warnings": "; ".join(images.notes)} if images.notes else {}
    source = find_weights(config) if spec.facts.weights_sha256 else None
    about |= _describe_choices(config, source) | _describe_source(source, images)
    return Inputs(images, view.pixels, view.split, batches, budget, classifier, notes, about, shared)


def _plan_batches(
    config: Config, view: View, activations: Activations | None
) -> tuple[ImageDataModule, Budget]:
    """Return the batches of a run, and how long it trains on them."""
    from graft.data.datamodule import ImageDataModule

    images, budget = view.images, count_budget(config, view.split)
    batches = ImageDataModule(
        pixels=view.pixels,
        labels=images.labels,
        split=view.split,
        preprocessing=view.preprocessing,
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


def count_budget(config: Config, split: Split) -> Budget:
    """Return how long a run trains on so many images."""
    from graft.data.schedule import count_steps_per_pass
    from graft.train.fit import plan_budget

    return plan_budget(config.trainer, count_steps_per_pass(len(split.train), config.data.batch_size))


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
    from graft.data.copies import add_likenesses
    from graft.data.sound import describe_findings, open_sound_images

    if config.data.name not in CHECKED_DATA_SETS:
        return add_likenesses(open_images(config.data, root / "cache", progress), root / "cache")
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


def describe_arithmetic(spec: RunSpec) -> list[str]:
    """Say what a run computes otherwise than in plain float32, where the user may not expect it."""
    rounding = effective_rounding(spec.config)
    lines = [spec.facts.precision_reason] if spec.facts.precision_reason else []
    if rounding:
        lines.append(f"What leaves the frozen stages is rounded to {rounding} (`reuse.dtype`).")
    return lines


def _find_overridden(data: DataConfig, expected: Preprocessing) -> list[str]:
    """Return what the user asked for of preprocessing that is not what the weights expect."""
    field_of = {"image_size": "size", "resize": "resize", "mean": "mean", "std": "std"}
    asked = [name for name in field_of if getattr(data, name) is not None]
    # all at once: a resize may fit the size asked for and not that of the weights
    seen = expected.override(data.image_size, data.mean, data.std, data.resize)
    return [name for name in asked if getattr(seen, field_of[name]) != getattr(expected, field_of[name])]


def _describe_choices(config: Config, source: WeightsSource | None) -> dict[str, str]:
    """Return what a user chose against what the weights say, for the record and the report."""
    if source is None:
        return {}
    # A file without a sidecar says nothing: what the user gives is then all that is known.
    expected = None if source.kind == "file" else source.preprocessing
    names = _find_overridden(config.data, expected) if expected else []
    listed = ", ".join(f"data.{name}={getattr(config.data, name)}" for name in names)
    told = {"preprocessing_override": listed} if names else {}
    if config.backbone.allow_partial:
        told["partial_weights"] = f"{config.backbone.name} took what fits of {config.backbone.weights}"
    return told


def _describe_source(source: WeightsSource | None, images: ImageSet) -> dict[str, str]:
    """Say what the weights cost, and when their source may hold the very classes that are to be learned."""
    took = source.train_seconds if source else None
    told = {} if took is None else {"pretrain_seconds": f"{took:.1f}"}
    told |= _name_source(source) if source else {}
    known = set(source.classes or ()) if source else set()
    shared = [name for name in images.class_names if name in known]
    if source is None or not shared:
        return told
    listed = ", ".join(shared[:10]) + (", ..." if len(shared) > 10 else "")
    counted = f"{len(shared)} of the {len(images.class_names)} target classes"
    said = f"the source domain of {source.name} has {counted} under the same name: {listed}"
    return told | {"source_contains_target": said}


def _name_source(source: WeightsSource) -> dict[str, str]:
    """Name the data that all of a bundle was trained on; of other weights nobody wrote that down."""
    from graft.model.bundle import read_sidecar

    if source.kind != "bundle":
        return {}
    sidecar = read_sidecar(source.path.parent)
    return {} if sidecar.parent else {"source_data": sidecar.data}
