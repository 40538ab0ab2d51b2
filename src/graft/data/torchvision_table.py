"""How torchvision is asked for each set, and what its objects hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graft.data.image_set import Int64Array, UInt8Array


@dataclass(frozen=True, eq=False)
class Part:
    """One split as torchvision opened it: either arrays uint8 ``(N, H, W, C)`` or files, not both."""

    images: UInt8Array | None
    files: tuple[Path, ...]
    labels: Int64Array
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class TorchvisionSet:
    """How torchvision is asked for one set.

    Attributes:
        class_name: The class in ``torchvision.datasets``.
        folder: What holds the files under the root: a folder, or a pattern of files.
        splits: Arguments that open each split.
        part: Returns images or files, labels and class names of what torchvision opened.
        megabytes: About how much is downloaded.
        of_files: Whether images are files, and not arrays.
        channels: 1 for gray sets.
    """

    class_name: str
    folder: str
    splits: Mapping[str, Mapping[str, Any]]
    part: Callable[[Any], Part]
    megabytes: int
    of_files: bool = False
    channels: int = 3


def _array_part(images: Any, labels: Any, class_names: Any) -> Part:
    return Part(np.asarray(images), (), np.asarray(labels, dtype=np.int64), tuple(class_names))


def _cifar(opened: Any) -> Part:
    return _array_part(opened.data, opened.targets, opened.classes)


def _fashion(opened: Any) -> Part:
    return _array_part(opened.data.numpy()[..., None], opened.targets.numpy(), opened.classes)


def _svhn(opened: Any) -> Part:
    return _array_part(opened.data.transpose(0, 2, 3, 1), opened.labels, "0123456789")


def _stl10(opened: Any) -> Part:
    return _array_part(opened.data.transpose(0, 2, 3, 1), opened.labels, opened.classes)


def _files_part(files: Any, labels: Any, class_names: Any) -> Part:
    return Part(
        None, tuple(Path(file) for file in files), np.asarray(labels, dtype=np.int64), tuple(class_names)
    )


def _image_files(opened: Any) -> Part:
    return _files_part(opened._image_files, opened._labels, opened.classes)


def _pets(opened: Any) -> Part:
    return _files_part(opened._images, opened._labels, opened.classes)


def _eurosat(opened: Any) -> Part:
    files, labels = zip(*opened.samples, strict=True)
    return _files_part(files, labels, opened.classes)


_BY_FLAG = {"train": {"train": True}, "test": {"train": False}}
_BY_NAME = {"train": {"split": "train"}, "test": {"split": "test"}}
_BY_NAME_WITH_VAL = {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}}

TORCHVISION_SETS: dict[str, TorchvisionSet] = {
    "cifar10": TorchvisionSet("CIFAR10", "cifar-10-batches-py", _BY_FLAG, _cifar, 170),
    "cifar100": TorchvisionSet("CIFAR100", "cifar-100-python", _BY_FLAG, _cifar, 170),
    "fashion_mnist": TorchvisionSet("FashionMNIST", "FashionMNIST/raw", _BY_FLAG, _fashion, 31, channels=1),
    "svhn": TorchvisionSet("SVHN", "t*_32x32.mat", _BY_NAME, _svhn, 250),
    "stl10": TorchvisionSet("STL10", "stl10_binary", _BY_NAME, _stl10, 2640),
    "flowers102": TorchvisionSet(
        "Flowers102", "flowers-102", _BY_NAME_WITH_VAL, _image_files, 345, of_files=True
    ),
    "oxford_pets": TorchvisionSet(
        "OxfordIIITPet",
        "oxford-iiit-pet",
        {"train": {"split": "trainval"}, "test": {"split": "test"}},
        _pets,
        810,
        of_files=True,
    ),
    "dtd": TorchvisionSet("DTD", "dtd", _BY_NAME_WITH_VAL, _image_files, 625, of_files=True),
    "food101": TorchvisionSet("Food101", "food-101", _BY_NAME, _image_files, 5000, of_files=True),
    "eurosat": TorchvisionSet("EuroSAT", "eurosat", {"all": {}}, _eurosat, 95, of_files=True),
}
