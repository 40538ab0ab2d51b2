"""How one knob of the configuration is declared."""

from __future__ import annotations

from dataclasses import field
from typing import Any, TypeVar

T = TypeVar("T")

#: What every random generator in use takes.
LARGEST_SEED = 2**32 - 1


def knob(
    default: T,
    meaning: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    keyed: bool = True,
) -> T:
    """Declare one field of the schema.

    Args:
        default: The value when nobody chooses one.
        meaning: What the knob does, for people.
        unit: Unit of the value, empty for none.
        low: Smallest value allowed, inclusive.
        high: Largest value allowed, inclusive.
        choices: The closed list of allowed names, empty for any.
        keyed: Whether the knob can change the result of a run, and so is part of its run key.
    """
    metadata = {
        "meaning": meaning,
        "unit": unit,
        "low": low,
        "high": high,
        "choices": choices,
        "keyed": keyed,
    }
    if isinstance(default, list | dict):
        made: Any = field(default_factory=lambda: type(default)(default), metadata=metadata)
    else:
        made = field(default=default, metadata=metadata)
    return made  # type: ignore[no-any-return]
