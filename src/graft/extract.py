"""Extract features as a step of its own: for clustering, for search, for other tools."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from graft import __version__
from graft.config.names import PRETRAINED, STAGES
from graft.config.schema import Config
from graft.errors import GraftError
from graft.progress import show_progress

if TYPE_CHECKING:
    from graft.data.image_set import ImageSet
    from graft.data.preprocessing import Preprocessing
    from graft.model.backbone import Backbone
    from graft.model.feature_files import FeatureTable
    from graft.model.features import Float32Array
    from graft.plan.spec import Facts


@dataclass(frozen=True)
class Extraction:
    """What is asked for beside the configuration.

    Attributes:
        stage: The stage after which features are read, 1 to 5.
        out: The file to write; ``None`` for one under ``paths.root/features``.
    """

    stage: int = STAGES
    out: Path | None = None


def read_extraction(words: Sequence[str]) -> tuple[Extraction, list[str]]:
    """Take ``stage=`` and ``out=`` out of the words of a command line.

    Raises:
        GraftError: The stage is not 1 to 5, or a sweep is asked for.
    """
    given = {"stage": str(STAGES), "out": ""}
    rest = []
    for word in words:
        key, sign, value = word.partition("=")
        if word in ("-m", "--multirun"):
            raise GraftError(f"Expected one extraction, but got {word}: call `graft extract` once for each.")
        if sign and key in given:
            given[key] = value
        else:
            rest.append(word)
    stages = [str(number) for number in range(1, STAGES + 1)]
    if given["stage"] not in stages:
        raise GraftError(f"Expected `stage` between 1 and {STAGES}, but got {given['stage']!r}.")
    out = Path(given["out"]).expanduser() if given["out"] else None
    return Extraction(int(given["stage"]), out), rest


def write_extraction(config: Config, asked: Extraction, console: Console) -> Path:
    """Send all images of a data set through a backbone and write what comes out after a stage.

    Images are prepared exactly as a run prepares them, without augmentation.

    Args:
        config: A valid configuration; what concerns training has no effect.
        asked: Stage and file.
        console: Where to say what was done.

    Returns:
        The file that was written.

    Raises:
        GraftError: The images, the weights or the file cannot be had.
    """
    from graft.data.pixels import prepare_pixels
    from graft.data.preprocessing import Preprocessing
    from graft.inputs import open_run_images
    from graft.model.feature_files import open_beside, require_known_ending, write_features
    from graft.model.features import choose_device, extract_features
    from graft.run import gather_facts

    root = Path(config.paths.root).resolve()
    until = config.transfer.freeze_until
    end = f"stage{asked.stage}" + (f"-{until}" if until else "")
    name = f"{config.data.name}-{config.backbone.name}-{end}.parquet"
    out = (asked.out or root / "features" / name).resolve()
    require_known_ending(out)
    device = choose_device(config.trainer)
    with open_beside(out) as file:  # first, so that nobody waits for what cannot be written
        with show_progress(console, "reading images") as progress:
            facts = gather_facts(config, progress)
        _check_end(config, asked, facts)
        images = open_run_images(config)
        preprocessing = Preprocessing.from_dict(facts.preprocessing)
        backbone, notes = _build(config, images, preprocessing)
        node = backbone.plan.boundaries[asked.stage - 1]
        table = _describe(config, asked.stage, node, images, facts)
        with show_progress(console, "decoding images") as progress:
            pixels = prepare_pixels(images, preprocessing, root / "cache", progress)
        batches = extract_features(
            backbone,
            pixels[: len(table.item_ids)],
            preprocessing,
            stage=asked.stage,
            batch_size=config.data.batch_size,
            device=device,
            precision=facts.precision,
        )
        with show_progress(console, "extracting features") as progress:
            write_features(file, out.suffix, table, _count(batches, len(table.item_ids), progress))
    for line in (f"preprocessing: {preprocessing.summary}", *notes):
        console.print(f"  {escape(line)}", highlight=False)
    console.print(
        f"Features of {len(table.item_ids):,} images after stage {asked.stage}, node {escape(node)}, of "
        f"{config.backbone.name} (weights: {facts.weights_name}) are written: {escape(str(out))}",
        highlight=False,
    )
    return out


def _build(config: Config, images: ImageSet, preprocessing: Preprocessing) -> tuple[Backbone, list[str]]:
    """Build the backbone as a run with this seed would, and load its weights."""
    from graft.model.classifier import build_classifier
    from graft.model.weights import load_weights, resolve_weights
    from graft.train.fit import seed_everything

    source = None
    if config.transfer.method in PRETRAINED:
        root = Path(config.paths.root).resolve()
        source = resolve_weights(config.backbone.weights, config.backbone.name, root)
    seed_everything(config.seed)
    classifier, notes = build_classifier(
        config,
        num_classes=len(images.class_names),
        channels=preprocessing.channels,
        image_size=preprocessing.size,
        weights=load_weights(source, config.backbone.name) if source else None,
    )
    return classifier.backbone, notes


def _check_end(config: Config, asked: Extraction, facts: Facts) -> None:
    """Refuse a stage whose end ``transfer.freeze_until`` does not move.

    Raises:
        GraftError: The node ends another stage than the one that is asked for.
    """
    ended, until = facts.cut_depth, config.transfer.freeze_until
    if ended not in (None, asked.stage):
        raise GraftError(
            f"Expected `stage={ended}` beside `transfer.freeze_until={until}`, which ends that stage of "
            f"{config.backbone.name}, but got `stage={asked.stage}`. Leave out `transfer.freeze_until` for "
            "the features after another stage."
        )


def _describe(config: Config, stage: int, node: str, images: ImageSet, facts: Facts) -> FeatureTable:
    """Return what the file says of each image, and where the features come from."""
    import numpy as np

    from graft.data.divide import divide_images
    from graft.model.feature_files import FeatureTable

    limit = config.trainer.limit_batches
    count = len(images) if limit is None else min(len(images), limit * config.data.batch_size)
    split = divide_images(images, config.data, config.seed)
    splits = np.full(len(images), "unused", dtype=object)
    for name in ("train", "val", "test"):
        splits[getattr(split, name)] = name
    return FeatureTable(
        item_ids=images.item_ids[:count],
        labels=images.labels[:count],
        class_names=images.class_names,
        splits=tuple(splits[:count]),
        about={
            "backbone": config.backbone.name,
            "stage": stage,
            "node": node,
            "weights": facts.weights_name,
            "weights_sha256": facts.weights_sha256,
            "preprocessing": dict(facts.preprocessing),
            "data": config.data.name,
            "data_digest": facts.data_digest,
            "batch_size": config.data.batch_size,
            "precision": facts.precision,
            "graft_version": __version__,
        },
    )


def _count(
    batches: Iterator[Float32Array], total: int, progress: Callable[[int, int], None]
) -> Iterator[Float32Array]:
    """Hand on batches, and tell how many images are done."""
    done = 0
    for batch in batches:
        yield batch
        done += len(batch)
        progress(done, total)
