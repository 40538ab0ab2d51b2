"""Rank backbones before anything is trained: labelled images through each once, and closed forms."""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from graft.config.schema import Config
from graft.errors import GraftError
from graft.inputs import View, find_weights, open_view
from graft.plan.spec import RunSpec, specify
from graft.progress import show_progress
from graft.run import gather_facts
from graft.sharing import share_rows

if TYPE_CHECKING:
    from graft.data.image_set import Int64Array
    from graft.model.classifier import Classifier
    from graft.train.neighbours import Float32Array

#: What decides the order, in words; ties go to LogME.
RANKED_BY = "validation accuracy of a ridge probe"


@dataclass(frozen=True)
class Ranking:
    """What is asked for beside the configurations.

    Attributes:
        as_json: Whether to print the record instead of a table.
        download: Whether weights that are not here may be fetched.
    """

    as_json: bool = False
    download: bool = False


@dataclass(frozen=True)
class Standing:
    """What one backbone promises.

    Attributes:
        backbone: Name as in the arms of a sweep.
        weights: Name and short hash as in the arms of a sweep.
        features: Length of its features.
        ridge_accuracy: Of a ridge probe on validation, the best of its strengths.
        knn_accuracy: Of nearest neighbours among the training images, on validation.
        logme: See `graft.train.transferability`.
        h_score: See there.
        leep: See there; None where the weights bring no head that can be used.
        seconds: Of its pass and all the measures; decoding the images is not counted.
        path: Where the features came from, in words.
    """

    backbone: str
    weights: str
    features: int
    ridge_accuracy: float
    knn_accuracy: float
    logme: float
    h_score: float
    leep: float | None
    seconds: float
    path: str


def read_ranking(words: Sequence[str]) -> tuple[Ranking, list[list[str]]]:
    """Read the words after the verb.

    Returns:
        What is asked for, and the overrides of each candidate.

    Raises:
        GraftError: No backbone is named, or the weights do not go with the backbones.
    """
    lists: dict[str, list[str]] = {"backbone": [], "backbone.weights": ["default"]}
    rest, flags = list[str](), {"--json": False, "--download": False}
    for word in words:
        key, sign, value = word.partition("=")
        if word in ("-m", "--multirun"):
            raise GraftError(f"Expected backbones in one list, but got {word}: graft rank backbone=a,b,c")
        if word in flags:
            flags[word] = True
        elif sign and key in lists:
            lists[key] = [name.strip() for name in value.split(",") if name.strip()]
        else:
            rest.append(word)
    names, weights = lists["backbone"], lists["backbone.weights"]
    if not names:
        raise GraftError("Expected backbones to rank: graft rank data=digits backbone=resnet18,vit_b_16")
    many = max(len(names), len(weights))
    if not {len(names), len(weights)} <= {1, many}:
        raise GraftError(
            "Expected one `backbone.weights` for all backbones, or one for each in their order, but got "
            f"{len(weights)} for {len(names)}."
        )
    pairs = zip(names * (many // len(names)), weights * (many // len(weights)), strict=True)
    candidates = [[*rest, f"backbone.name={name}", f"backbone.weights={given}"] for name, given in pairs]
    return Ranking(flags["--json"], flags["--download"]), candidates


def rank_backbones(configs: Sequence[Config], asked: Ranking) -> int:
    """Measure backbones, print them best first, and write the record under ``paths.root/reports/rank``.

    Args:
        configs: Valid configurations of linear probes that differ in the backbone and its weights.
        asked: How to say it.

    Raises:
        GraftError: The images or weights are not there.
    """
    if not configs:  # Hydra was asked to show the configuration
        return 0
    if not asked.download:
        _require_local(configs)
    console = Console(stderr=asked.as_json, soft_wrap=True)
    with show_progress(console, "reading images") as progress:
        specs = [specify(config, gather_facts(config, progress)) for config in configs]
    specs = list({spec.arm: spec for spec in specs}.values())
    standings = []
    with show_progress(console, "backbones") as progress:
        for done, spec in enumerate(specs):
            progress(done, len(specs))
            view = open_view(spec)
            standings.append(measure_backbone(spec, view))
    standings.sort(key=lambda one: (-one.ridge_accuracy, -one.logme))
    record = _describe(specs[0], view, standings)
    places = _write(Path(configs[0].paths.root).resolve() / "reports" / "rank", record)
    if asked.as_json:
        print(json.dumps(record, indent=1))
        return 0
    console.print(_render(record, standings))
    console.print(f"Ranked by the {RANKED_BY}; test was not read. The record: {places}", highlight=False)
    return 0


def measure_backbone(spec: RunSpec, view: View) -> Standing:
    """Send the training and validation images through a backbone, and measure its features.

    Args:
        spec: A linear probe.
        view: Its images.

    Raises:
        GraftError: The weights do not fit, or give features that are no numbers or too many for the memory.
    """
    import numpy as np

    from graft.train.neighbours import vote
    from graft.train.ridge import require_memory
    from graft.train.transferability import measure_h_score, measure_logme, measure_ridge

    started = time.perf_counter()
    split, labels = view.split, view.images.labels
    classifier, has_head = _build(spec, view)
    require_memory(len(split.train), len(split.val), classifier.backbone.feature_dim)
    read, path = _find_features(spec, view, classifier)
    features = {name: np.asarray(read(rows)) for name, rows in (("train", split.train), ("val", split.val))}
    if not all(np.isfinite(values).all() for values in features.values()):
        raise GraftError(
            f"Expected finite features of {spec.arm.backbone}, but got NaN or infinity. Use "
            "`trainer.precision=32`, or other weights."
        )
    train = features["train"].astype(np.float64), labels[split.train]
    val = features["val"].astype(np.float64), labels[split.val]
    leep = _measure_leep(classifier, features["train"], train[1]) if has_head else None
    return Standing(
        backbone=spec.arm.backbone,
        weights=spec.arm.weights,
        features=train[0].shape[1],
        ridge_accuracy=measure_ridge(train, val, spec.config.head.strengths),
        knn_accuracy=vote(features["train"], train[1], features["val"], val[1]),
        logme=measure_logme(*train),
        h_score=measure_h_score(*train),
        leep=leep,
        seconds=time.perf_counter() - started,
        path=path,
    )


def _require_local(configs: Sequence[Config]) -> None:
    """Refuse, before anything is computed, weights that would have to be fetched.

    Raises:
        GraftError: Names all of them.
    """
    from graft.config.models import list_models, weights_cache

    known = {model.name: model for model in list_models()}
    missing = {}
    for config in configs:
        model = known.get(config.backbone.name)
        published = {entry.name: entry for entry in model.weights} if model else {}
        if model and published:
            published["default"] = model.weights[0]
        entry = published.get(config.backbone.weights)
        if model and entry and not entry.cached:
            missing[entry.file] = f"{model.name}/{entry.name} ({4e-6 * (model.parameters or 0):.0f} MB)"
    if missing:
        raise GraftError(
            f"Expected the weights of all backbones in {weights_cache()}, but {len(missing)} are not there: "
            f"{', '.join(missing.values())}. Fetch them with --download, or leave these backbones out."
        )


def _build(spec: RunSpec, view: View) -> tuple[Classifier, bool]:
    """Build a frozen backbone with the head that its weights bring, and say whether they bring one."""
    from graft.model.classifier import build_classifier
    from graft.model.weights import load_weights

    config, source = spec.config, find_weights(spec.config)
    assert source is not None  # a linear probe has weights
    loaded = load_weights(source, config.backbone.name)
    build = functools.partial(
        build_classifier,
        channels=view.preprocessing.channels,
        image_size=view.preprocessing.size,
        weights=loaded,
    )
    for name in ("linear", "pretrained_classifier") if source.classes else ():
        head = replace(config.head, name=name, init="from_weights")
        try:
            return build(replace(config, head=head), num_classes=len(source.classes or ()))[0], True
        except GraftError:  # another kind of head, or none
            continue
    return build(config, num_classes=len(view.images.class_names))[0], False


def _find_features(
    spec: RunSpec, view: View, classifier: Classifier
) -> tuple[functools.partial[Float32Array], str]:
    """Return what reads features: from the store that linear probes share, or through the backbone."""
    from graft.train.neighbours import read_features

    shared, path = share_rows(spec, classifier, view.pixels, view.split.train, view.split.val, None)
    if shared is not None:
        plain = shared.activations.plain

        def read(rows: Int64Array) -> Float32Array:
            return plain.read(rows).float().numpy()

        return functools.partial(read), path
    return functools.partial(
        read_features,
        backbone=classifier.backbone,
        pixels=view.pixels,
        preprocessing=view.preprocessing,
        trainer=spec.config.trainer,
        same=(spec.key, "rank"),
    ), path


def _measure_leep(classifier: Classifier, features: Float32Array, labels: Int64Array) -> float:
    import torch

    from graft.train.losses import class_scores
    from graft.train.transferability import measure_leep

    with torch.no_grad():
        outputs = classifier.eval().cpu().head(torch.from_numpy(features))
    return measure_leep(class_scores(outputs).double().softmax(dim=1).numpy(), labels)


def _describe(spec: RunSpec, view: View, standings: Sequence[Standing]) -> dict[str, object]:
    return {
        "data": spec.config.data.name,
        "data_digest": view.images.digest,
        "split": view.split.digest,
        "labels": spec.labels,
        "train_images": len(view.split.train),
        "val_images": len(view.split.val),
        "ranked_by": "ridge_accuracy",
        "backbones": [asdict(one) for one in standings],
    }


def _write(folder: Path, record: Mapping[str, object]) -> str:
    """Write the record as JSON and CSV, under the digest of the data, and return both names."""
    from graft.model.bundle import write_atomically

    rows = record["backbones"]
    assert isinstance(rows, list)
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    name = str(record["data_digest"])
    content = {f"{name}.json": json.dumps(record, indent=1), f"{name}.csv": table.getvalue()}
    write_atomically(folder, {name: text.encode() for name, text in content.items()})
    return f"{folder / name}.json, .csv"


def _render(record: Mapping[str, object], standings: Sequence[Standing]) -> Table:
    images = f"{record['train_images']} training and {record['val_images']} validation images"
    title = f"Backbones on {record['data']}, {images}"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    table.add_column("", justify="right", no_wrap=True)
    for name in ("backbone", "weights"):
        table.add_column(name, overflow="fold")
    for name in ("features", "ridge", "k-NN", "LogME", "H-score", "LEEP", "s"):  # never cut short
        table.add_column(name, justify="right", no_wrap=True)
    for place, one in enumerate(standings, start=1):
        table.add_row(str(place), *_write_cells(one))
    return table


def _write_cells(one: Standing) -> Iterator[str]:
    yield from (one.backbone, one.weights.partition("@")[0], str(one.features))
    leep = math.nan if one.leep is None else one.leep
    for value in (one.ridge_accuracy, one.knn_accuracy, one.logme, one.h_score, leep):
        yield "–" if math.isnan(value) else f"{value:.3f}"
    yield f"{one.seconds:.1f}"
