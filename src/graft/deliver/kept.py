"""The model of a finished run, put together again from what it kept: checked, nothing guessed."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from graft.config.load import to_config
from graft.config.schema import Config
from graft.data.preprocessing import Preprocessing
from graft.errors import GraftError
from graft.model.bundle import sha256_of
from graft.model.classifier import Classifier, build_classifier
from graft.model.tensor_files import read_safetensors
from graft.model.weights import LoadedWeights, load_weights, resolve_weights
from graft.plan.obstacles import effective_rounding
from graft.reuse.prefix import round_after
from graft.reuse.store import DTYPES
from graft.track.results import checkpoint_folder
from graft.train.fit import seed_everything


@dataclass(frozen=True)
class KeptModel:
    """A model as its run chose it.

    Attributes:
        run_key: Key of the run.
        arm: Canonical text of what was compared.
        class_names: In the order of the scores.
        preprocessing: How an image becomes its input.
        config: The configuration of the run.
        classifier: In eval mode, on the CPU.
    """

    run_key: str
    arm: str
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    config: Config
    classifier: Classifier


def has_weights(root: Path, run_key: str) -> bool:
    """Whether the weights of a run are kept under ``root``."""
    return (checkpoint_folder(root, run_key) / "run.json").is_file()


def load_kept(root: Path, run_key: str) -> KeptModel:
    """Load the model of a run.

    What the run trained comes from its own file; frozen stages come from the weights that the run began with,
    or are drawn from its seed again where it had none.

    Args:
        root: ``paths.root``.
        run_key: Key of the run.

    Raises:
        GraftError: The weights are not there, damaged, or not those that the run had.
    """
    folder = checkpoint_folder(root, run_key)
    sidecar = _read_sidecar(folder)
    path = folder / "weights.safetensors"
    if not path.is_file() or sha256_of(path) != sidecar["sha256"]:
        raise GraftError(
            f"Expected {path} to have the sha256 {sidecar['sha256'][:16]}... of its sidecar, but it is "
            "missing, changed or damaged. Copy it again."
        )
    config = to_config(sidecar["config"])
    config = replace(config, paths=replace(config.paths, root=str(root)))
    names = tuple(str(name) for name in sidecar["class_names"])
    preprocessing = Preprocessing.from_dict(sidecar["preprocessing"])
    frozen = config.transfer.freeze_depth > 0
    begun_with = sidecar["backbone_weights_sha256"] if frozen else None
    weights = _load_frozen(config, root, begun_with) if begun_with else None
    if weights is None:  # nothing is left of the weights that a head may have begun with
        config = replace(config, head=replace(config.head, init="new"))
    seed_everything(config.seed)
    classifier, _ = build_classifier(
        config,
        num_classes=len(names),
        channels=preprocessing.channels,
        image_size=preprocessing.size,
        weights=weights,
    )
    _take_over(classifier, read_safetensors(path), path)
    rounding = effective_rounding(config)
    if rounding and config.reuse.enabled:
        round_after(classifier.backbone, config.transfer.freeze_depth, DTYPES[rounding])
    classifier.eval().requires_grad_(False)
    return KeptModel(run_key, str(sidecar["arm"]), names, preprocessing, config, classifier)


def _read_sidecar(folder: Path) -> dict[str, Any]:
    path = folder / "run.json"
    needed = {"arm", "class_names", "preprocessing", "backbone_weights_sha256", "sha256", "config"}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise GraftError(f"Expected the weights of a run in {folder}, but there are none.") from error
    except (OSError, ValueError) as error:
        raise GraftError(
            f"Expected {path} to say what was trained, but it cannot be read: {error}."
        ) from error
    if not isinstance(content, dict) or not needed <= set(content):
        raise GraftError(f"Expected {path} to have the fields {', '.join(sorted(needed))}. Copy it again.")
    return content


def _load_frozen(config: Config, root: Path, sha256: str) -> LoadedWeights:
    """Load the weights that a run began with, and refuse others of the same name.

    Raises:
        GraftError: They are not there, or others now.
    """
    reference, name = config.backbone.weights, config.backbone.name
    try:
        source = resolve_weights(reference, name, root)
    except GraftError as error:
        raise GraftError(
            f"The frozen stages of this run are those of `backbone.weights={reference}`, which are needed "
            f"beside what it trained. {error}"
        ) from error
    if source is None or source.sha256 != sha256:
        came = "none" if source is None else f"{source.sha256[:16]}..."
        raise GraftError(
            f"Expected `backbone.weights={reference}` with the sha256 {sha256[:16]}... that the run began "
            f"with, but got {came}: the file is another one now. Put the old one back."
        )
    return load_weights(source, name)


def _take_over(classifier: Classifier, state: dict[str, Tensor], path: Path) -> None:
    """Put what a run trained into its network: all of it, and nothing else.

    Raises:
        GraftError: Names or shapes differ.
    """
    own = classifier.trainable_state()
    wrong = sorted(
        name for name in own.keys() | state.keys()
        if name not in own or name not in state or own[name].shape != state[name].shape
    )  # fmt: skip
    if wrong:
        raise GraftError(
            f"Expected {path} to hold what the run trained, but {len(wrong)} tensors differ: "
            f"{', '.join(wrong[:5])}. It was written by another version of graft, or is another file."
        )
    classifier.load_state_dict(state, strict=False)
