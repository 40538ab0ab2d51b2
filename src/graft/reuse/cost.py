"""Which activations are worth keeping: measured speeds in, a decision out. Pure arithmetic.

The boundaries of a network form a chain: from any of them the deeper ones can be computed. A sweep asks for a
few of them, so all choices of what to keep can be looked at, and the cheapest one is exact.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: More boundaries than these are never asked for at once; 4,096 choices take 30 ms.
MOST_BOUNDARIES = 12


@dataclass(frozen=True)
class Chain:
    """What one network costs, stage by stage, on this machine.

    Attributes:
        seconds: Of one image, from each boundary to the next, ``(stages,)``; the first starts at the pixels.
        sizes: Bytes of one activation as it is kept after each boundary, ``(stages,)``.
        bytes_per_second: How fast activations come from the disk.
        held_bytes: What the memory holds of files: activations that fit into it are read from there.
        held_bytes_per_second: How fast those come.
        exact: Whether activations are kept as they were computed. Rounded ones serve the runs that end there
            and no deeper boundary.
    """

    seconds: Sequence[float]
    sizes: Sequence[int]
    bytes_per_second: float
    held_bytes: int = 0
    held_bytes_per_second: float = math.inf
    exact: bool = True


@dataclass(frozen=True)
class Demand:
    """What the runs that freeze up to one boundary ask for.

    Attributes:
        passes: Images that they see in all, repeats over epochs and runs counted.
        images: Different images among them.
        stored: Images whose activations after this boundary are there already, of those that its runs and
            deeper ones ask for.
    """

    passes: int
    images: int
    stored: int = 0


@dataclass(frozen=True)
class StoragePlan:
    """What to keep, and what that saves.

    Attributes:
        kept: Boundaries whose activations are kept, ascending, from 1.
        seconds: Of all frozen stages, with them.
        plain_seconds: Without any.
        disk_bytes: What they take.
    """

    kept: tuple[int, ...]
    seconds: float
    plain_seconds: float
    disk_bytes: int


def plan_storage(chain: Chain, demands: Mapping[int, Demand], disk_bytes: int) -> StoragePlan:
    """Return the choice of boundaries that costs the least time within a budget of disk.

    Of equal ones the choice that keeps less is taken.

    Args:
        chain: Costs of the network.
        demands: What is asked for after each boundary, by its number from 1.
        disk_bytes: The budget.

    Raises:
        ValueError: More boundaries are asked for than can be looked at.
    """
    asked = sorted(demands)
    if len(asked) > MOST_BOUNDARIES:
        raise ValueError(f"expected at most {MOST_BOUNDARIES} boundaries, but got {len(asked)}")
    plain = count_seconds(chain, demands, ())
    best = StoragePlan((), plain, plain, 0)
    for count in range(1, len(asked) + 1):
        for kept in itertools.combinations(asked, count):
            disk = _count_bytes(chain, demands, kept)
            if disk > disk_bytes:
                continue
            seconds = count_seconds(chain, demands, kept)
            if seconds < best.seconds:
                best = StoragePlan(kept, seconds, plain, disk)
    return best


def count_seconds(chain: Chain, demands: Mapping[int, Demand], kept: Sequence[int]) -> float:
    """Return the time that all frozen stages of a sweep take when ``kept`` boundaries are stored."""
    is_held = _count_bytes(chain, demands, kept) <= chain.held_bytes
    speed = chain.held_bytes_per_second if is_held else chain.bytes_per_second
    total = 0.0
    for boundary in kept:  # what is missing is computed once, from the deepest one before it, and written
        images = max(0, _images_at(demands, boundary) - demands[boundary].stored)
        source = max((other for other in kept if other < boundary and chain.exact), default=0)
        written = _move(chain, boundary, chain.bytes_per_second)
        total += images * (_move(chain, source, speed) + _compute(chain, source, boundary) + written)
    for boundary, demand in demands.items():
        serving = [other for other in kept if other == boundary or (other < boundary and chain.exact)]
        source = max(serving, default=0)
        total += demand.passes * (_move(chain, source, speed) + _compute(chain, source, boundary))
    return total


def _count_bytes(chain: Chain, demands: Mapping[int, Demand], kept: Sequence[int]) -> int:
    return sum(_images_at(demands, boundary) * chain.sizes[boundary - 1] for boundary in kept)


def _images_at(demands: Mapping[int, Demand], boundary: int) -> int:
    """Return how many images a kept boundary holds: those of its own runs, and of deeper ones."""
    return max((demand.images for other, demand in demands.items() if other >= boundary), default=0)


def _compute(chain: Chain, start: int, end: int) -> float:
    return sum(chain.seconds[start:end])


def _move(chain: Chain, boundary: int, bytes_per_second: float) -> float:
    """Return the seconds that one activation takes to be read or written, none for the images themselves."""
    return chain.sizes[boundary - 1] / bytes_per_second if boundary else 0.0
