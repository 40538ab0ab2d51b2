"""Files of tensors, read so that nothing in them runs and nothing damaged passes."""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load, load_file, save
from torch import Tensor

from graft.errors import GraftError

# Names that torchvision's published files still have and its networks no longer do.
_RENAMED = (
    (re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$"), r"\1\2"),
    (re.compile(r"^(.*\.mlp)\.linear_1\.(weight|bias)$"), r"\1.0.\2"),
    (re.compile(r"^(.*\.mlp)\.linear_2\.(weight|bias)$"), r"\1.3.\2"),
)
# What torch.load raises on content that is no checkpoint.
_UNREADABLE = (RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        GraftError: The file is not whole.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise GraftError(
            f"Expected {path} to be a whole safetensors file, but it cannot be read: {error}."
        ) from error
    return tensors


def pack_tensors(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> bytes:
    """Return tensors, and what is said about them, as the bytes of a safetensors file."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content: bytes = save(on_cpu, metadata=dict(about))
    return content


def unpack_tensors(content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return what `pack_tensors` was given.

    Raises:
        ValueError: These are not the bytes of a safetensors file.
    """
    try:
        tensors: dict[str, Tensor] = load(content)
    except safetensors.SafetensorError as error:
        raise ValueError(f"no safetensors file: {error}") from error
    length = int.from_bytes(content[:8], "little")
    about: dict[str, str] = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    return tensors, about


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a PyTorch checkpoint without running anything in it.

    Raises:
        GraftError: The file is damaged, is no checkpoint, or holds more than tensors and plain values.
    """
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # torch does not look at the checksums
        except zipfile.BadZipFile as error:
            damaged = str(error)
        if damaged is not None:
            raise GraftError(
                f"Expected {path} to be undamaged, but the checksum of "
                f"{damaged!r} in it is wrong. Copy it again."
            )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about old pickles, which raise if unreadable
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise GraftError(
            f"Expected {path} to hold tensors only, but it holds other objects or is damaged; graft runs no "
            "code from a file. Save the state dict alone: `torch.save(model.state_dict(), path)`."
        ) from error
    except _UNREADABLE as error:
        raise GraftError(
            f"Expected {path} to be a PyTorch checkpoint, but it cannot be read as one: {error}."
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = (
        {
            name: value
            for name, value in content.items()
            if isinstance(value, Tensor) and isinstance(name, str)
        }
        if isinstance(content, dict)
        else {}
    )
    if not tensors:
        raise GraftError(
            f"Expected {path} to hold a state dict, or one under the key `state_dict`, but found no tensors."
        )
    return tensors


def current_name(name: str) -> str:
    """Return the name that today's networks have for a tensor of an older file."""
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    return name
