"""Where weights come from: a reference becomes a checked file, and a checked file becomes tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors.torch import save
from torch import Tensor

from graft.data.preprocessing import Preprocessing
from graft.errors import GraftError
from graft.model.backbone import torchvision_names
from graft.model.bundle import (
    SIDECAR_FILE,
    WEIGHTS_FILE,
    Sidecar,
    bundle_folder,
    describe_unknown,
    read_sidecar,
    sha256_of,
    verify,
    write_files,
)
from graft.model.download import fetch
from graft.model.tensor_files import read_pickle, read_safetensors

HEAD_PREFIX = "graft_head."
_SUFFIXES = (".safetensors", ".pth", ".pt")


@dataclass(frozen=True)
class WeightsSource:
    """A checked file of weights, not loaded yet.

    Attributes:
        kind: ``torchvision``, ``bundle`` or ``file``.
        name: What people call it.
        path: The file of tensors.
        sha256: Of that file.
        preprocessing: What the weights expect; ``None`` where nothing says it.
        classes: Class names of the source data, where they are known.
        notes: Lines that the user should read.
        train_seconds: What training them took, None where nobody wrote it down.
    """

    kind: str
    name: str
    path: Path
    sha256: str
    preprocessing: Preprocessing | None
    classes: tuple[str, ...] | None
    notes: tuple[str, ...] = ()
    train_seconds: float | None = None


@dataclass(frozen=True)
class LoadedWeights:
    """Weights as tensors.

    Attributes:
        state: Tensors by the names that the file has for them.
        head: The head that a bundle carries, by the names of that head; empty where there is none.
        source: Where they came from.
    """

    state: dict[str, Tensor]
    head: dict[str, Tensor]
    source: WeightsSource


def resolve_weights(reference: str, backbone_name: str, root: Path) -> WeightsSource | None:
    """Find and check the file that ``backbone.weights`` means; no tensor is loaded.

    Args:
        reference: ``none``, ``default``, the name of published weights, of a bundle, or a path.
        backbone_name: The architecture that the weights are for.
        root: Where graft writes; bundles are under it.

    Raises:
        GraftError: There is no such file, it is damaged, or it is for another architecture.
    """
    if reference == "none":
        return None
    published = _published(backbone_name)
    if reference == "default" or reference in published:
        return _resolve_published(reference, backbone_name, published)
    named = bundle_folder(root, reference)
    path = Path(reference).expanduser()
    if (named / SIDECAR_FILE).is_file():
        return _resolve_bundle(named, backbone_name)
    if path.is_dir():
        return _resolve_bundle(path, backbone_name)
    if path.suffix in _SUFFIXES or path.is_file():
        if path.name == WEIGHTS_FILE and (path.parent / SIDECAR_FILE).is_file():
            return _resolve_bundle(path.parent, backbone_name)
        return _resolve_file(path, backbone_name)
    raise GraftError(describe_unknown(root, reference, list(published)))


def preprocessing_of_weights(reference: str, backbone_name: str, root: Path) -> Preprocessing | None:
    """Return the preprocessing that ``backbone.weights`` names; published weights are not fetched for it.

    Returns:
        None where the weights say nothing about it.

    Raises:
        GraftError: There are no such weights.
    """
    published = _published(backbone_name)
    if reference in published:
        return _preprocessing_of(published[reference])
    if reference == "default" and published:
        return _preprocessing_of(torchvision.models.get_model_weights(backbone_name).DEFAULT)
    source = resolve_weights(reference, backbone_name, root)
    return source.preprocessing if source else None


def load_weights(source: WeightsSource, backbone_name: str) -> LoadedWeights:
    """Load the tensors of a source; no code in a file is ever run.

    Raises:
        GraftError: The file holds no weights, or more than weights.
    """
    state = (
        read_safetensors(source.path) if source.path.suffix == ".safetensors" else read_pickle(source.path)
    )
    head = {
        name.removeprefix(HEAD_PREFIX): value for name, value in state.items() if name.startswith(HEAD_PREFIX)
    }
    body = {name: value for name, value in state.items() if not name.startswith(HEAD_PREFIX)}
    return LoadedWeights(body, head, source)


def write_bundle(
    folder: Path, state: dict[str, Tensor], head: dict[str, Tensor], sidecar: Sidecar
) -> Sidecar:
    """Write a weights bundle, whole or not at all.

    Args:
        folder: Folder of the bundle.
        state: Backbone's tensors by the names of the network.
        head: Head's tensors by the names of the head or of its layers.
        sidecar: What to say about them; hash and size are filled in.

    Returns:
        The sidecar as it was written.
    """
    tensors = state | {HEAD_PREFIX + name.removeprefix("layers."): value for name, value in head.items()}
    content = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
    return write_files(folder, content, sidecar)


def default_preprocessing(backbone_name: str, channels: int, image_size: int | None = None) -> Preprocessing:
    """Return the preprocessing of a network whose weights say nothing about it.

    Args:
        backbone_name: A torchvision network takes what its published weights expect; another 32 px, mean and
            std 0.5.
        channels: Channels of the images; torchvision's networks take 3 whatever they are.
        image_size: Side of the network's input in px, where the user chose one.
    """
    if backbone_name in torchvision_names():
        found = _preprocessing_of(torchvision.models.get_model_weights(backbone_name).DEFAULT)
        return found.override(image_size, None, None)
    half = (0.5,) * channels
    return Preprocessing(
        channels=channels,
        size=image_size or 32,
        resize=None,
        interpolation="bilinear",
        antialias=True,
        mean=half,
        std=half,
    )


def _published(backbone_name: str) -> dict[str, Any]:
    if backbone_name not in torchvision_names():
        return {}
    return {entry.name: entry for entry in torchvision.models.get_model_weights(backbone_name)}


def _preprocessing_of(entry: Any) -> Preprocessing:
    transform = entry.transforms()
    return Preprocessing(
        channels=3,
        size=transform.crop_size[0],
        resize=transform.resize_size[0],
        interpolation=transform.interpolation.value,
        antialias=bool(transform.antialias),
        mean=tuple(transform.mean),
        std=tuple(transform.std),
    )


def _resolve_published(reference: str, backbone_name: str, published: dict[str, Any]) -> WeightsSource:
    if not published:
        raise GraftError(
            f"Expected a weights bundle or a path for `backbone.name={backbone_name}`, but got "
            "`backbone.weights=default`: this network has no published "
            "weights. `graft pretrain` makes a bundle."
        )
    entry = (
        published[reference]
        if reference in published
        else torchvision.models.get_model_weights(backbone_name).DEFAULT
    )
    path = fetch(entry.url, Path(torch.hub.get_dir()) / "checkpoints")
    return WeightsSource(
        kind="torchvision",
        name=f"{backbone_name}/{entry.name}",
        path=path,
        sha256=sha256_of(path),
        preprocessing=_preprocessing_of(entry),
        classes=tuple(entry.meta["categories"]),
    )


def _resolve_bundle(folder: Path, backbone_name: str) -> WeightsSource:
    sidecar = read_sidecar(folder)
    verify(folder, sidecar)
    if sidecar.architecture != backbone_name:
        raise GraftError(
            f"Expected weights of {backbone_name}, but the bundle {folder.name!r} holds "
            f"{sidecar.architecture}. Use `backbone.name={sidecar.architecture}`, or other weights."
        )
    return WeightsSource(
        kind="bundle",
        name=folder.name,
        path=folder / WEIGHTS_FILE,
        sha256=sidecar.sha256,
        preprocessing=Preprocessing.from_dict(sidecar.preprocessing),
        classes=tuple(sidecar.classes),
        train_seconds=sidecar.metrics.get("train_seconds"),
    )


def _resolve_file(path: Path, backbone_name: str) -> WeightsSource:
    if not path.is_file():
        raise GraftError(
            f"Expected a weights file at {path} (`backbone.weights`), but there is no such file."
        )
    if path.suffix not in _SUFFIXES:
        raise GraftError(f"Expected a weights file that ends in {', '.join(_SUFFIXES)}, but got {path.name}.")
    in_torchvision = backbone_name in torchvision_names()
    preprocessing = default_preprocessing(backbone_name, channels=3) if in_torchvision else None
    whose = f"of torchvision's {backbone_name}" if in_torchvision else "of a network without weights"
    note = (
        f"{path.name} has no sidecar that says how images were prepared: the preprocessing {whose} is used. "
        "If it was trained otherwise, give `data.image_size`, `data.mean`, `data.std`."
    )
    return WeightsSource("file", path.name, path, sha256_of(path), preprocessing, None, (note,))
