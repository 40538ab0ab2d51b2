"""How an image becomes the network's input: a value that travels with the weights.

The rules are those of torchvision's ``ImageClassification`` preset: the shorter side is resized to ``resize``
(``None``: the image is resized to ``(size, size)`` directly), the central ``size`` square is kept, values are
scaled to [0, 1] and normalised. A gray image is repeated for a network of three channels; a colour image
becomes its luma (ITU-R 601) for a network of one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from graft.errors import GraftError, expected_one_of

INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
LARGEST_SIDE = 4096


@dataclass(frozen=True)
class Preprocessing:
    """The deterministic way from an image to the network's input.

    Attributes:
        channels: Channels of the network's input, 1 or 3.
        size: Side of the square input, in px.
        resize: What the shorter side is resized to before the central crop, in px; ``None``: no crop.
        interpolation: One of `INTERPOLATIONS`.
        antialias: Whether shrinking a tensor averages; a PIL image always does (except ``nearest``).
        mean: Mean of each channel, of values in [0, 1].
        std: Standard deviation of each channel, of values in [0, 1].
    """

    channels: int
    size: int
    resize: int | None
    interpolation: str
    antialias: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise GraftError(
                f"Expected `channels` of the preprocessing to be 1 or 3, but got {self.channels!r}."
            )
        _check_side("size", self.size)
        if self.resize is not None:
            _check_side("resize", self.resize)
            if self.resize < self.size:
                raise GraftError(
                    f"Expected `resize` of the preprocessing to be at least its `size` ({self.size} px), "
                    f"but got {self.resize} px: the crop would reach outside the image."
                )
        if self.interpolation not in INTERPOLATIONS:
            raise GraftError(expected_one_of("interpolation", self.interpolation, INTERPOLATIONS))
        _check_statistics("mean", self.mean, self.channels)
        _check_statistics("std", self.std, self.channels)

    @property
    def summary(self) -> str:
        """One line for people."""
        crop = f"{self.size} px" if self.resize is None else f"{self.resize} px, centre {self.size} px"
        kind = "gray" if self.channels == 1 else "RGB"
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"{kind}, {crop}, {self.interpolation}, mean ({mean}), std ({std})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold; `from_dict` takes them back."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Read what `to_dict` wrote.

        Raises:
            GraftError: A key is missing or unknown, or a value has the wrong type or range.
        """
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in values]
        unknown = [str(name) for name in values if name not in names]
        if missing or unknown:
            raise GraftError(
                f"Expected a preprocessing with the keys {', '.join(names)}; "
                f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}."
            )
        if not isinstance(values["antialias"], bool):
            raise GraftError(f"Expected `antialias` to be true or false, but got {values['antialias']!r}.")
        return cls(
            channels=values["channels"],
            size=values["size"],
            resize=values["resize"],
            interpolation=values["interpolation"],
            antialias=values["antialias"],
            mean=_read_statistics("mean", values["mean"]),
            std=_read_statistics("std", values["std"]),
        )

    def override(
        self,
        image_size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        resize: int | None = None,
    ) -> Preprocessing:
        """Return a copy with what the user chose; ``None`` keeps what the weights expect.

        A new size keeps the share of the image that the crop leaves: 256 -> 224 becomes 73 -> 64, unless
        ``resize`` says what the shorter side becomes. One as large as the size leaves a square image whole.

        Raises:
            GraftError: A size or a number of channels does not fit, or a value is out of range.
        """
        changed = self
        if image_size is not None:
            _check_side("image_size", image_size)
            in_proportion = None if self.resize is None else round(image_size * self.resize / self.size)
            changed = replace(changed, size=image_size, resize=in_proportion)
        if resize is not None:
            changed = replace(changed, resize=resize)
        if mean is not None:
            changed = replace(changed, mean=_read_statistics("mean", mean))
        if std is not None:
            changed = replace(changed, std=_read_statistics("std", std))
        return changed


def _check_side(name: str, side: object) -> None:
    if not isinstance(side, int) or isinstance(side, bool) or not 1 <= side <= LARGEST_SIDE:
        raise GraftError(
            f"Expected `{name}` to be a whole number from 1 to {LARGEST_SIDE} px, but got {side!r}."
        )


def _read_statistics(name: str, values: object) -> tuple[float, ...]:
    """Turn a list of numbers into a tuple of floats, and refuse anything else."""
    numbers = isinstance(values, list | tuple) or (
        isinstance(values, Sequence) and not isinstance(values, str)
    )
    if not numbers or any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):  # type: ignore[attr-defined]
        raise GraftError(f"Expected `{name}` to be a list of numbers, one per channel, but got {values!r}.")
    return tuple(float(value) for value in values)  # type: ignore[attr-defined]


def _check_statistics(name: str, values: tuple[float, ...], channels: int) -> None:
    if len(values) != channels:
        raise GraftError(
            f"Expected `{name}` to have {channels} value{'s' if channels > 1 else ''}, one per channel of "
            f"the network's input, but got {len(values)}: {list(values)}."
        )
    if not all(math.isfinite(value) for value in values):
        raise GraftError(f"Expected `{name}` to hold finite numbers, but got {list(values)}.")
    if name == "std" and any(value <= 0 for value in values):
        raise GraftError(f"Expected `std` to be above 0 in every channel, but got {list(values)}.")
