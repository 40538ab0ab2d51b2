"""Bundles on disks that misbehave."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from graft.errors import GraftError
from graft.model.bundle import Sidecar, read_sidecar, verify, write_atomically
from graft.model.tensor_files import pack_tensors, read_safetensors, unpack_tensors
from graft.model.weights import write_bundle


def sidecar() -> Sidecar:
    return Sidecar(
        architecture="cnn2", options={}, classes=["a", "b"], channels=1, image_size=8, preprocessing={},
        data="toy", data_digest="d", metrics={}, graft_version="0", run_key="k",
    )  # fmt: skip


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """As a full disk or a quota does it: the kernel refuses a write in its middle."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [300, 20_000])
def test_a_bundle_that_cannot_be_written_leaves_the_one_before(tmp_path: Path, size: int) -> None:
    """Whichever of its two files is refused."""
    write_bundle(tmp_path, {"x": torch.zeros(10)}, {}, sidecar())
    with files_no_larger_than(size), pytest.raises(GraftError, match=r"could not: File too large\."):
        write_bundle(tmp_path, {"x": torch.ones(10_000 if size > 300 else 10)}, {}, sidecar())
    verify(tmp_path, read_sidecar(tmp_path))
    assert torch.equal(read_safetensors(tmp_path / "weights.safetensors")["x"], torch.zeros(10))
    assert len(list(tmp_path.iterdir())) == 2, "no part of a file is left"


def test_no_file_takes_its_place_before_all_are_whole(tmp_path: Path) -> None:
    write_atomically(tmp_path, {"a": b"old", "b": b"old"})
    with files_no_larger_than(100), pytest.raises(GraftError, match=r"Expected to write .*b, but could not"):
        write_atomically(tmp_path, {"a": b"new", "b": b"new" * 100})
    assert (tmp_path / "a").read_bytes() == b"old"
    write_atomically(tmp_path, {"a": b"new", "b": b"new" * 100})
    assert (tmp_path / "b").read_bytes() == b"new" * 100


def test_a_place_that_is_no_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        GraftError, match=r"Expected to write .*, but could not: (Not a directory|File exists)\."
    ):
        write_bundle(tmp_path / "file" / "bundle", {"x": torch.zeros(1)}, {}, sidecar())


def test_other_bytes_are_no_tensors() -> None:
    tensors, about = unpack_tensors(pack_tensors({"x": torch.ones(2)}, {"said": "so"}))
    assert torch.equal(tensors["x"], torch.ones(2))
    assert about == {"said": "so"}
    with pytest.raises(ValueError, match="no safetensors file"):
        unpack_tensors(b"something else")
