"""Which repetition of an experiment a run is: its seed, and its fold where there are folds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

_WORDS = ("seed", "repeat", "fold")


@dataclass(frozen=True)
class Replicate:
    """One repetition: arms are paired on it.

    Attributes:
        seed: Draws the labelled images, the initialisation and the order of batches.
        repeat: Which drawing of the folds, None without folds.
        fold: Which fold is the test set, None without folds.
    """

    seed: int
    repeat: int | None = None
    fold: int | None = None

    @property
    def text(self) -> str:
        """Canonical text, the same for the same values.

        >>> Replicate(0).text, Replicate(0, 0, 3).text
        ('seed=0', 'seed=0 repeat=0 fold=3')
        """
        return self._join("=", " ")

    @property
    def label(self) -> str:
        """The replicate for people.

        >>> Replicate(0).label, Replicate(0, 0, 3).label
        ('seed 0', 'seed 0, repeat 0, fold 3')
        """
        return self._join(" ", ", ")

    @property
    def division(self) -> tuple[int, int] | None:
        """Repeat and fold, which decide the test images; None without folds."""
        return None if self.repeat is None or self.fold is None else (self.repeat, self.fold)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read canonical text back.

        Raises:
            ValueError: When the text is not one that `text` gave.
        """
        words = [word.partition("=") for word in text.split()]
        names = tuple(name for name, _, _ in words)
        if names not in (_WORDS[:1], _WORDS) or not all(value.isdecimal() for _, _, value in words):
            raise ValueError(
                f"expected a replicate like 'seed=0' or 'seed=0 repeat=0 fold=3', but got {text!r}"
            )
        return cls(*(int(value) for _, _, value in words))

    def __lt__(self, other: Replicate) -> bool:
        """Order by seed, then repeat, then fold."""
        return (self.seed, self.division or ()) < (other.seed, other.division or ())

    def _join(self, equals: str, separator: str) -> str:
        values = (self.seed, *(self.division or ()))
        return separator.join(f"{name}{equals}{value}" for name, value in zip(_WORDS, values, strict=False))
