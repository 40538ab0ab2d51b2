"""Checkpoints on disk: where a run is in the middle, so that it can go on after its process died.

One file holds one state: tensors as safetensors, the rest as JSON in the header. Its name carries its sha256,
so that one rename makes it valid, and damage is seen before anything is read from it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from graft.config.schema import Config
from graft.errors import GraftError
from graft.model.bundle import write_atomically
from graft.model.tensor_files import pack_tensors, unpack_tensors

#: Raised when a state means something else than before; states of another format are not read.
_FORMAT = 1

_NAME = re.compile(r"^(?P<serial>\d{6,})-step(?P<step>\d+)-(?P<sha256>[0-9a-f]{64})\.safetensors$")


@dataclass(frozen=True)
class Cost:
    """What the training of a run took until somewhere, all its processes together.

    Attributes:
        alone: Seconds that it would have taken without shared activations.
        really: Seconds that were spent on it, without its shares of what sweeps computed.
        shares: Those shares, in seconds. A sweep that tries a run again has the same share of it, which
            counts once.
    """

    alone: float = 0.0
    really: float = 0.0
    shares: frozenset[float] = frozenset()

    @property
    def amortised(self) -> float:
        """Seconds that were spent on it, its shares included."""
        return self.really + sum(self.shares)


@dataclass(frozen=True)
class State:
    """Where a run is.

    Attributes:
        step: Optimizer steps done.
        phase: ``training``: step ``step`` is next; ``validating``: the validation after it is; ``done``: the
            test is.
        seconds: Time of training so far.
        values: Numbers and words, as JSON takes them.
        tensors: By name.
        cost: What the training took so far, None where nobody said it, as in states of earlier versions.
    """

    step: int
    phase: str
    seconds: float
    values: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    cost: Cost | None = None


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: Where they are; nothing else is there.
        run_key: The run. A state of another one is never read.
        every_seconds: How long a run trains at most without one.
        keep_last: How many are kept; the newest may turn out to be damaged.

    Attributes:
        notes: What the user should know: checkpoints that were damaged, or could not be written.
    """

    def __init__(
        self, folder: Path, run_key: str, *, every_seconds: float = 300.0, keep_last: int = 2
    ) -> None:
        self.folder = folder
        self.run_key = run_key
        self.every_seconds = every_seconds
        self.keep_last = keep_last
        self.notes: list[str] = []

    def newest(self) -> State | None:
        """Return the newest sound state, None where there is none; damaged ones are noted and deleted.

        Raises:
            GraftError: A checkpoint belongs to another run.
        """
        for path in reversed(self._list()):
            try:
                return self._read(path)
            except (ValueError, LookupError, TypeError, OSError) as error:
                self.notes.append(f"The checkpoint {path} was not used: {error}.")
                with contextlib.suppress(OSError):
                    path.unlink()
        return None

    def write(self, state: State) -> None:
        """Write a state beside the others, whole or not at all, then delete the oldest.

        Raises:
            GraftError: It cannot be written; those before it stay.
        """
        known = self._list()
        serial = int(known[-1].name.partition("-")[0]) + 1 if known else 1
        header = {
            "format": _FORMAT, "run_key": self.run_key, "step": state.step, "phase": state.phase,
            "seconds": state.seconds, "values": state.values, "cost": _describe_cost(state.cost),
        }  # fmt: skip
        content = pack_tensors(state.tensors, {"graft": json.dumps(header)})
        digest = hashlib.sha256(content).hexdigest()
        path = self.folder / f"{serial:06d}-step{state.step}-{digest}.safetensors"
        write_atomically(self.folder, {path.name: content})
        kept = {path, *known[max(0, len(known) + 1 - self.keep_last) :]}
        for other in self.folder.iterdir():
            if other not in kept:
                with contextlib.suppress(OSError):
                    other.unlink()

    def delete(self) -> None:
        """Delete all of them: the run has ended, and none is needed any more."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _list(self) -> list[Path]:
        """Return the files, the oldest first."""
        if not self.folder.is_dir():
            return []
        found = [path for path in self.folder.iterdir() if _NAME.match(path.name)]
        return sorted(found, key=lambda path: int(path.name.partition("-")[0]))

    def _read(self, path: Path) -> State:
        """Read one file.

        Raises:
            GraftError: It belongs to another run.
            OSError: It cannot be read.
            ValueError: It is damaged.
        """
        content = path.read_bytes()
        named = _NAME.match(path.name)
        if named is None or hashlib.sha256(content).hexdigest() != named["sha256"]:
            raise ValueError(f"its {len(content)} bytes do not have the sha256 in its name")
        tensors, about = unpack_tensors(content)
        header = json.loads(about["graft"])
        if header["format"] != _FORMAT:
            raise ValueError(f"it has format {header['format']}, and this version of graft reads {_FORMAT}")
        if header["run_key"] != self.run_key:
            raise GraftError(
                f"Expected the checkpoint {path} to belong to the run {self.run_key}, but it is of the "
                f"run {header['run_key']}. Put it back where it was, or delete it; this run then goes on "
                "without it."
            )
        cost = _read_cost(header.get("cost"))
        return State(header["step"], header["phase"], header["seconds"], header["values"], tensors, cost)


def _describe_cost(cost: Cost | None) -> dict[str, Any] | None:
    return {"alone": cost.alone, "really": cost.really, "shares": sorted(cost.shares)} if cost else None


def _read_cost(said: Mapping[str, Any] | None) -> Cost | None:
    return Cost(said["alone"], said["really"], frozenset(said["shares"])) if said else None


def open_checkpoints(config: Config, key: str) -> Checkpoints:
    """Return where a run writes down how far it is.

    Args:
        config: Of the run.
        key: Its run key.
    """
    knobs, root = config.checkpoint, Path(config.paths.root).resolve()
    return Checkpoints(
        root / "resume" / key, key, every_seconds=knobs.every_seconds, keep_last=knobs.keep_last
    )
