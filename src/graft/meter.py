"""What training costs a run: alone, and really, across the processes that it took and the paths they went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from graft.inputs import Inputs
from graft.plan.groups import Sharing

if TYPE_CHECKING:
    from graft.train.checkpoint import Cost, State


@dataclass(frozen=True)
class Meter:
    """Says what a run has cost.

    Alone it sends every image that it sees through its frozen stages; their time is measured where it reads
    activations instead. Really it took its share of what computing those took. A run that goes on may read
    other things than the process before it did: what that one took is counted as it was there.

    Attributes:
        inputs: What the run works with here.
        sharing: What the sweep decided for it, None where nobody did.
        start: Where an earlier process was, None for the beginning.
    """

    inputs: Inputs
    sharing: Sharing | None = None
    start: State | None = None

    def price(self, seconds: float, steps: int, phase: str = "done", seen: int | None = None) -> Cost:
        """Return the cost so far.

        Args:
            seconds: Training and validation so far, those of earlier processes included.
            steps: Optimizer steps done.
            phase: See `State`.
            seen: Training images seen, repeats counted; None: as many as the steps need.
        """
        from graft.train.checkpoint import Cost

        before, own = Cost(), seconds
        images = self._count_sent(steps, phase, seen)
        if self.start is not None and self.start.cost is not None:
            before = self.start.cost
            own -= self.start.seconds
            images -= self._count_sent(self.start.step, self.start.phase)
        # Charged to whoever was to read them, be it that there was no room in the end: somebody has to pay.
        share = self.sharing.seconds if self.sharing else 0.0
        shares = before.shares | ({share} if share else set())
        shared = self.inputs.shared
        if shared is None:
            return Cost(before.alone + own, before.really + own, shares)
        alone = before.alone + own + images * shared.seconds_per_image
        return Cost(alone, before.really + own + shared.seconds, shares)

    def _count_sent(self, steps: int, phase: str, seen: int | None = None) -> int:
        """Return the images that training and validation sent through the network, repeats counted."""
        from graft.train.fit import count_images

        seen = count_images(self.inputs.batches, steps) if seen is None else seen
        return seen + count_validated(self.inputs, steps, phase)


def count_validated(inputs: Inputs, steps: int, phase: str = "done") -> int:
    """Return the validation images seen while training, repeats counted.

    Args:
        inputs: What the run works with.
        steps: Optimizer steps done.
        phase: See `State`: at the end of training a round that is not whole is validated, too.
    """
    every = inputs.budget.steps_per_round
    validated = {"training": steps // every, "validating": max(0, steps - 1) // every}
    return validated.get(phase, -(-steps // every)) * len(inputs.split.val)
