"""The torchvision sets: tiny archives in torchvision's own layout, and contracts where the real data is.

``GRAFT_DATA=<folder>`` says where torchvision keeps real data; without it the contracts are skipped.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from graft.config.load import conf_folder
from graft.config.names import DATA_SETS, TORCHVISION_DATA_SETS
from graft.config.schema import DataConfig
from graft.data import torchvision_sets
from graft.data.catalog import open_images
from graft.data.facts import FACTS
from graft.data.image_set import TEST, TRAIN, VAL, ImageSet, SourceFacts
from graft.data.torchvision_table import TORCHVISION_SETS
from graft.errors import GraftError

Maker = Callable[[Path, pytest.MonkeyPatch], Mapping[str, int]]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def draw(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw(seed, 6, 8, 3)).save(path)


def write_lists(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def make_cifar(fine: bool) -> Maker:
    def make(root: Path, patch: pytest.MonkeyPatch) -> Mapping[str, int]:
        made = datasets.CIFAR100 if fine else datasets.CIFAR10
        folder = root / made.base_folder
        folder.mkdir(parents=True)
        key = "fine_labels" if fine else "labels"
        lists = {}
        for attribute in ("train_list", "test_list"):
            lists[attribute] = []
            for name, _ in getattr(made, attribute):
                seed = len(name) + ord(name[-1])
                batch = {"data": draw(seed, 4, 3072), key: [0, 1, 1, 0]}
                (folder / name).write_bytes(pickle.dumps(batch))
                lists[attribute].append([name, md5(folder / name)])
            patch.setattr(made, attribute, lists[attribute])
        meta = folder / made.meta["filename"]
        meta.write_bytes(pickle.dumps({made.meta["key"]: ["cat", "dog"]}))
        patch.setattr(made, "meta", made.meta | {"md5": md5(meta)})
        return {split: 4 * len(lists[f"{split}_list"]) for split in ("train", "test")}

    return make


def make_fashion(root: Path, patch: pytest.MonkeyPatch) -> Mapping[str, int]:
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for name, count in (("train", 5), ("t10k", 3)):
        images = struct.pack(">4i", 0x0803, count, 28, 28) + draw(count, count, 28, 28).tobytes()
        labels = struct.pack(">2i", 0x0801, count) + bytes(range(count))
        (folder / f"{name}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(labels)
    return {"train": 5, "test": 3}


def make_svhn(root: Path, patch: pytest.MonkeyPatch) -> Mapping[str, int]:
    root.mkdir(parents=True, exist_ok=True)
    changed = dict(datasets.SVHN.split_list)
    for split, count in (("train", 4), ("test", 2)):
        path = root / f"{split}_32x32.mat"
        savemat(path, {"X": draw(count, 32, 32, 3, count), "y": np.arange(10, 10 - count, -1)[:, None]})
        changed[split] = [changed[split][0], path.name, md5(path)]
    patch.setattr(datasets.SVHN, "split_list", changed)
    return {"train": 4, "test": 2}


def make_stl10(root: Path, patch: pytest.MonkeyPatch) -> Mapping[str, int]:
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    for split, count in (("train", 3), ("test", 2)):
        (folder / f"{split}_X.bin").write_bytes(draw(count, count, 3, 96, 96).tobytes())
        (folder / f"{split}_y.bin").write_bytes(bytes(range(1, count + 1)))
    (folder / "unlabeled_X.bin").write_bytes(b"not read")
    (folder / "class_names.txt").write_text("airplane\nbird\ncar\n")
    for attribute in ("train_list", "test_list"):
        listed = [[name, md5(folder / name)] for name, _ in getattr(datasets.STL10, attribute)]
        patch.setattr(datasets.STL10, attribute, listed)
    return {"train": 3, "test": 2}


def make_flowers(root: Path, patch: pytest.MonkeyPatch) -> Mapping[str, int]:
    folder = root / "flowers-102"
    for number in range(1, 8):
        save_image(folder / "jpg" / f"image_{number:05d}.jpg", number)
    savemat(folder / "imagelabels.mat", {"labels": np.array([[1, 2, 3, 1, 2, 3, 102]])})
    savemat(folder / "setid.mat", {"trnid": [[1, 2, 3]], "valid": [[4, 5]], "tstid": [[6, 7]]})
    changed = dict(datasets.Flowers102._file_dict)
    for key in ("label", "setid"):
        changed[key] = (changed[key][0], md5(folder / changed[key][0]))
    patch.setattr(datasets.Flowers102, "_file_dict", changed)
    return {"train": 3, "val": 2, "test": 2}


def make_pets(root: Path, patch: pytest.MonkeyPatch) -> Mapping[str, int]:
    folder = root / "oxford-iiit-pet"
    lists = {"trainval": ["Bengal_1", "Bengal_2", "pug_1"], "test": ["Bengal_3", "pug_2"]}
    for split, names in lists.items():
        lines = [f"{name} {1 if name[0] == 'B' else 2} 1 1" for name in names]
        write_lists(folder / "annotations" / f"{split}.txt", "\n".join(lines) + "\n")
        for seed, name in enumerate(names):
            save_image(folder / "images" / f"{name}.jpg", seed)
    return {"train": 3, "test": 2}


def make_dtd(root: Path, patch: pytest.MonkeyPatch) -> Mapping[str, int]:
    folder = root / "dtd" / "dtd"
    for seed, split in enumerate(("train", "val", "test")):
        names = [f"{name}/{name}_{seed}.jpg" for name in ("banded", "zigzagged")]
        write_lists(folder / "labels" / f"{split}1.txt", "\n".join(names) + "\n")
        for name in names:
            save_image(folder / "images" / name, seed)
    return {"train": 2, "val": 2, "test": 2}


def make_food(root: Path, patch: pytest.MonkeyPatch) -> Mapping[str, int]:
    folder = root / "food-101"
    for split, numbers in (("train", (1, 2)), ("test", (3,))):
        names = {name: [f"{name}/{number}" for number in numbers] for name in ("pho", "takoyaki")}
        write_lists(folder / "meta" / f"{split}.json", json.dumps(names))
        for paths in names.values():
            for path in paths:
                save_image(folder / "images" / f"{path}.jpg", len(path))
    return {"train": 4, "test": 2}


def make_eurosat(root: Path, patch: pytest.MonkeyPatch) -> Mapping[str, int]:
    for name in ("Forest", "River"):
        for number in range(2):
            save_image(root / "eurosat" / "2750" / name / f"{name}_{number}.jpg", number)
    return {"all": 4}


MAKERS: dict[str, Maker] = {
    "cifar10": make_cifar(fine=False),
    "cifar100": make_cifar(fine=True),
    "fashion_mnist": make_fashion,
    "svhn": make_svhn,
    "stl10": make_stl10,
    "flowers102": make_flowers,
    "oxford_pets": make_pets,
    "dtd": make_dtd,
    "food101": make_food,
    "eurosat": make_eurosat,
}


def make(name: str, root: Path, patch: pytest.MonkeyPatch) -> Mapping[str, int]:
    sizes = MAKERS[name](root, patch)
    facts = FACTS[name]
    tiny = SourceFacts(facts.license, facts.citation, facts.description, facts.classes, sizes)
    patch.setitem(FACTS, name, tiny)
    return sizes


def open_set(name: str, root: Path, cache: Path, **options: Any) -> ImageSet:
    return open_images(DataConfig(name=name, root=str(root), **options), cache)


def test_every_name_has_a_set_facts_and_a_file() -> None:
    assert set(TORCHVISION_SETS) == set(TORCHVISION_DATA_SETS) == set(MAKERS)
    assert set(DATA_SETS) <= set(FACTS)
    files = {path.stem for path in (conf_folder() / "data").glob("*.yaml")}
    assert files == set(DATA_SETS)
    for name, source in TORCHVISION_SETS.items():
        assert hasattr(datasets, source.class_name)
        assert set(FACTS[name].split_sizes) == set(source.splits)
        assert all((FACTS[name].license, FACTS[name].citation, FACTS[name].image_size, FACTS[name].classes))


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_set_is_found_where_torchvision_keeps_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = make(name, tmp_path / "here", monkeypatch)
    images = open_set(name, tmp_path / "here", tmp_path / "cache")
    assert len(images) == len(images.labels) == len(set(images.item_ids)) == sum(sizes.values())
    if images.official is None:
        assert set(sizes) == {"all"}
    else:
        marks = {"train": TRAIN, "val": VAL, "test": TEST}
        assert {split: int(np.sum(images.official == marks[split])) for split in sizes} == sizes
    assert 0 <= images.labels.min() <= images.labels.max() < len(images.class_names)
    pixels = [images.read(index) for index in range(len(images))]
    assert {(one.dtype, one.ndim, one.shape[2]) for one in pixels} == {
        (np.dtype(np.uint8), 3, images.channels)
    }

    # The same bytes elsewhere, and the same place again, have the same digest.
    (tmp_path / "here").rename(tmp_path / "there")
    assert open_set(name, tmp_path / "there", tmp_path / "cache").digest == images.digest
    again = open_set(name, tmp_path / "there", tmp_path / "cache")
    assert again.digest == images.digest
    assert again.class_names == images.class_names
    assert np.array_equal(again.labels, images.labels)
    assert np.array_equal(again.read(len(again) - 1), pixels[-1])


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist", "svhn", "stl10"])
def test_pixels_are_torchvision_s(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(name, tmp_path, monkeypatch)
    images = open_set(name, tmp_path, tmp_path / "cache")
    index = 0
    source = TORCHVISION_SETS[name]
    for options in source.splits.values():
        for picture, label in getattr(datasets, source.class_name)(str(tmp_path), **options):
            assert np.array_equal(images.read(index).squeeze(), np.asarray(picture))
            assert images.labels[index] == label
            index += 1
    assert index == len(images)


def test_arrays_are_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("cifar10", tmp_path, monkeypatch)
    digest = open_set("cifar10", tmp_path, tmp_path / "cache").digest
    (kept,) = (tmp_path / "cache" / "sets").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(torchvision_sets, "_open_present", lambda *_, **__: pytest.fail("opened again"))
        assert open_set("cifar10", tmp_path, tmp_path / "cache").digest == digest
    kept.write_bytes(b"damaged")
    assert open_set("cifar10", tmp_path, tmp_path / "cache").digest == digest


def test_files_are_hashed_once_also_where_two_sets_share_a_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("oxford_pets", "dtd")
    for name in names:
        make(name, tmp_path, monkeypatch)
    digests = [open_set(name, tmp_path, tmp_path / "cache").digest for name in names]
    monkeypatch.setattr("graft.data.folder.read_content", lambda path: pytest.fail(f"opened {path}"))
    assert [open_set(name, tmp_path, tmp_path / "cache").digest for name in names] == digests


def test_the_default_root_is_beside_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("svhn", tmp_path / "data", monkeypatch)
    assert len(open_images(DataConfig(name="svhn"), tmp_path / "cache")) == 6


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_missing_set_says_how_to_get_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(GraftError) as caught:
        open_set(name, tmp_path / "nowhere", tmp_path / "cache")
    for word in (name, "nowhere", TORCHVISION_SETS[name].folder, "`data.download=true`", "`data.root=", "MB"):
        assert word in str(caught.value)
    assert not (tmp_path / "nowhere").exists()


def test_a_damaged_set_is_refused_before_its_pickle_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("cifar10", tmp_path, monkeypatch)
    trap = tmp_path / "trap"

    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (trap,))

    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(GraftError, match="missing or damaged"):
        open_set("cifar10", tmp_path, tmp_path / "cache")
    assert not trap.exists()


def test_other_sizes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MAKERS["cifar10"](tmp_path, monkeypatch)
    with pytest.raises(GraftError, match=r"50,000 train \+ 10,000 test images, but got 20 train \+ 4 test"):
        open_set("cifar10", tmp_path, tmp_path / "cache")


@pytest.mark.parametrize("cut", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
def test_a_file_cut_short(cut: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("fashion_mnist", tmp_path, monkeypatch)
    path = tmp_path / "FashionMNIST" / "raw" / cut
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(GraftError, match=r"fashion_mnist .* missing or damaged"):
        open_set("fashion_mnist", tmp_path, tmp_path / "cache")


def test_a_set_that_was_unpacked_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("oxford_pets", tmp_path, monkeypatch)
    (tmp_path / "oxford-iiit-pet" / "images" / "pug_2.jpg").unlink()
    with pytest.raises(GraftError, match=r"damaged \(1 of its files are missing, such as pug_2\.jpg\)"):
        open_set("oxford_pets", tmp_path, tmp_path / "cache")
    with pytest.raises(GraftError, match=r"such as pug_2\.jpg.*remove oxford-iiit-pet there first"):
        open_set("oxford_pets", tmp_path, tmp_path / "cache", download=True)


def test_a_download_happens_only_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def arrive(self: Any) -> None:
        asked.append(self.root)
        make("svhn", tmp_path / "made", monkeypatch)
        for file in (tmp_path / "made").iterdir():
            file.rename(Path(self.root) / file.name)
        (tmp_path / "made").rmdir()

    monkeypatch.setattr(
        datasets.SVHN, "_check_integrity", lambda self: bool(list(Path(self.root).glob("*.mat")))
    )
    monkeypatch.setattr(datasets.SVHN, "download", arrive)
    with pytest.raises(GraftError, match=r"data\.download=true"):
        open_set("svhn", tmp_path / "root", tmp_path / "cache")
    assert asked == []
    arrived = open_set("svhn", tmp_path / "root", tmp_path / "cache", download=True)
    assert len(arrived) == 6
    assert set(asked) == {str(tmp_path / "root")}


def test_a_download_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(datasets.CIFAR10, "download", refuse)
    with pytest.raises(GraftError, match=r"download the data set cifar10.*no route to host.*connection"):
        open_set("cifar10", tmp_path / "root", tmp_path / "cache", download=True)


@pytest.mark.parametrize("name", sorted(TORCHVISION_DATA_SETS))
def test_contract_where_the_data_is(name: str, tmp_path: Path) -> None:
    root = os.environ.get("GRAFT_DATA")
    if root is None:
        pytest.skip("GRAFT_DATA does not say where torchvision keeps its data")
    try:
        images = open_set(name, Path(root), tmp_path)
    except GraftError as error:
        pytest.skip(str(error))
    facts = FACTS[name]
    assert len(images.class_names) == len(set(images.class_names)) == facts.classes
    assert len(images) == sum(facts.split_sizes.values())
    assert np.bincount(images.labels, minlength=facts.classes or 0).min() > 0
    first = images.read(0)
    if "x" in facts.image_size and facts.image_size.replace("x", "").isdigit():
        assert first.shape[:2] == tuple(int(side) for side in facts.image_size.split("x"))
    assert first.shape[2] == images.channels
