"""What a finished run leaves behind: metrics, split, predictions, confusion matrix, weights."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from graft.config.load import to_plain
from graft.config.schema import Config
from graft.data.copies import find_copied
from graft.data.replay import describe_split
from graft.plan.spec import RunSpec
from graft.track.away import needing_answers
from graft.track.store import Store
from graft.track.writer import RunWriter

if TYPE_CHECKING:
    from torch import Tensor

    from graft.data.image_set import ImageSet
    from graft.data.splits import Split
    from graft.train.fit import Fitted


def record_result(writer: RunWriter, config: Config, images: ImageSet, split: Split, fitted: Fitted) -> None:
    """Record the final numbers of a run, and what is needed to check them.

    Artifacts: ``config.yaml``; ``split.json`` (hashes and indices); ``predictions.npz`` (index, label and
    class scores of every test image and, where a check has looked, whether training held a copy of it);
    ``confusion.json`` (rows are true classes); ``per_class.json`` (precision, recall and F1);
    ``worst_errors.json`` (the surest wrong predictions).
    """
    from graft.train.metrics import describe_classes

    numbers = {f"val/{name}": value for name, value in fitted.validation.items()}
    numbers |= {f"test/{name}": value for name, value in fitted.test_metrics.items()}
    numbers |= {
        "train_seconds": fitted.train_seconds,
        "images_seen": float(fitted.images_seen),
        "best_step": float(fitted.best_step),
    }
    # MLflow shows the number with the highest step: the chosen validation must not hide behind the last one.
    writer.conclude(numbers, fitted.steps)
    writer.note({"graft.split": split.digest})
    index = fitted.test.index.numpy()
    found = find_copied(images, split)
    known: dict[str, Any] = {} if found is None else {"copied": np.isin(index, found)}
    if known:
        writer.note({"graft.test_copies": str(int(known["copied"].sum()))})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.yaml").write_text(yaml.safe_dump(to_plain(config), sort_keys=False))
        _write_json(folder / "split.json", describe_split(split, images.digest))
        confusion = {"class_names": list(images.class_names), "counts": fitted.test.confusion().tolist()}
        _write_json(folder / "confusion.json", confusion)
        _write_json(folder / "per_class.json", describe_classes(fitted.test, images.class_names))
        errors = [
            error | {"item": images.item_ids[int(error["index"])]} for error in fitted.test.worst_errors()
        ]
        _write_json(folder / "worst_errors.json", errors)
        np.savez_compressed(
            folder / "predictions.npz",
            index=index,
            label=fitted.test.label.numpy(),
            scores=fitted.test.scores.numpy(),
            **known,
        )
        writer.log_folder(folder)


def keep_weights(
    root: Path, spec: RunSpec, class_names: tuple[str, ...], state: Mapping[str, Tensor]
) -> None:
    """Write what a run trained under ``root/checkpoints/<run key>``; frozen weights are not held twice.

    Args:
        root: ``paths.root``.
        spec: The run.
        class_names: Names of the classes, in the order of the outputs.
        state: Parameters and buffers that training changed, by name.
    """
    from safetensors.torch import save

    folder = checkpoint_folder(root, spec.key)
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}")
    fresh.mkdir(parents=True, exist_ok=True)
    try:
        content = save({name: tensor.contiguous().cpu() for name, tensor in state.items()})
        (fresh / "weights.safetensors").write_bytes(content)
        sidecar = {
            "run_key": spec.key,
            "arm": spec.arm.text,
            "class_names": list(class_names),
            "preprocessing": dict(spec.facts.preprocessing),
            "backbone_weights_sha256": spec.facts.weights_sha256,
            "sha256": hashlib.sha256(content).hexdigest(),
            "config": to_plain(spec.config),
        }
        _write_json(fresh / "run.json", sidecar)
        for file in fresh.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def checkpoint_folder(root: Path, key: str) -> Path:
    """Return where the weights of the run ``key`` are kept."""
    return root / "checkpoints" / key


def mark_chosen(store: Store, run_ids: Iterable[str]) -> None:
    """Tag the runs whose trial was chosen; what a comparison chose keeps its weights in later ones."""
    for run_id in run_ids:
        store.client.set_tag(run_id, "graft.chosen", "true")


def unmark_chosen(store: Store, run_ids: Iterable[str]) -> None:
    """Take back that trials are the chosen ones; that test was read stays known, and so do their weights."""
    for run_id in run_ids:
        for name, value in (("test_read", "true"), ("kept", "true"), ("chosen", "false")):
            store.client.set_tag(run_id, f"graft.{name}", value)


def mark_read(store: Store, run_ids: Iterable[str]) -> None:
    """Tag the runs whose test metrics a comparison has read without choosing them for good.

    Raises:
        StoreAwayError: When the store does not answer.
    """
    with needing_answers(store.uri):
        for run_id in run_ids:
            store.client.set_tag(run_id, "graft.test_read", "true")


def drop_weights(root: Path, keys: set[str]) -> int:
    """Delete the weights of runs that nobody chose, and return how many there were."""
    dropped = 0
    for key in keys:
        folder = checkpoint_folder(root, key)
        if folder.is_dir():
            shutil.rmtree(folder)
            dropped += 1
    return dropped


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))
