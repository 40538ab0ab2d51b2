"""From Hydra's override grammar to typed configurations, one per cell of the grid.

Hydra composes about 25 configurations a second. A grid repeats a few choices of groups under many values, so
each choice of groups is composed once by Hydra, and values are put into the typed result: thousands a second,
and the same outcome.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from graft.config.load import explain, known_keys, no_such_knob, to_config
from graft.config.schema import Config
from graft.errors import GraftError

#: An interpolation, up to what it names: a whole key, or something only Hydra can resolve.
_REFERENCE = re.compile(r"\$\{\s*([^}:]*)")
_WHOLE_KEY = re.compile(r"\w+(\.\w+)*")


@dataclass(frozen=True)
class Cell:
    """One cell of the grid.

    Attributes:
        config: Its configuration.
        overrides: What gives it on the command line.
    """

    config: Config
    overrides: tuple[str, ...]


def compose_cells(loader: ConfigLoader, master: DictConfig, arguments: Sequence[str]) -> list[Cell]:
    """Return every cell of the grid that ``arguments`` span, the last axis varying fastest.

    Args:
        loader: Hydra's loader.
        master: The configuration that Hydra composed for the sweep as a whole.
        arguments: Overrides with sweeps in them; of two for the same key the later counts.

    Raises:
        GraftError: For a key or value that the schema refuses, or an axis without values.
    """
    groups = set(loader.list_groups(""))
    axes = _axes(arguments, loader)
    composed: dict[tuple[str, ...], _Base] = {}
    cells = []
    for overrides in itertools.product(*axes):
        by_value = [override for override in overrides if _is_plain_value(override, groups)]
        by_group = tuple(override.text for override in overrides if not _is_plain_value(override, groups))
        if by_group not in composed:
            composed[by_group] = _Base(loader, master, by_group)
        texts = tuple(override.text for override in overrides)
        cells.append(Cell(composed[by_group].with_values(by_value, texts), texts))
    return cells


@dataclass(frozen=True)
class _Choice:
    """One override without a sweep in it."""

    text: str
    key: str
    value: Any
    plain: bool


class _Base:
    """One choice of groups, composed by Hydra."""

    def __init__(self, loader: ConfigLoader, master: DictConfig, overrides: tuple[str, ...]) -> None:
        self._loader, self._master, self._overrides = loader, master, overrides
        tree = loader.load_sweep_config(master, list(overrides))
        raw = OmegaConf.to_container(tree, resolve=False)
        assert isinstance(raw, dict)
        raw.pop("hydra", None)
        self._referred = set(_references(raw))
        self._config = to_config(tree)
        self._schema, self._known = OmegaConf.structured(Config), known_keys()
        self._values: dict[str, Any] = {}

    def with_values(self, choices: Sequence[_Choice], texts: tuple[str, ...]) -> Config:
        """Return the configuration with ``choices`` in it."""
        if any(self._is_referred(choice.key) for choice in choices):  # another value follows: ask Hydra
            return to_config(self._loader.load_sweep_config(self._master, list(texts)))
        config = self._config
        for choice in choices:
            config = _put(config, choice.key.split("."), self._typed(choice))
        return config

    def _is_referred(self, key: str) -> bool:
        """Whether another value may follow from the one at ``key``."""
        return any(
            not _WHOLE_KEY.fullmatch(name) or f"{key}.".startswith(f"{name}.") or name.startswith(f"{key}.")
            for name in self._referred
        )

    def _typed(self, choice: _Choice) -> Any:
        """Return the value as the schema's type; a grid has the same few values in cell after cell."""
        if choice.text not in self._values:
            if choice.key not in self._known:
                raise GraftError(no_such_knob(choice.key))
            try:
                OmegaConf.update(self._schema, choice.key, choice.value)
                value = OmegaConf.select(self._schema, choice.key)
            except OmegaConfBaseException as error:
                raise GraftError(explain(error)) from error
            self._values[choice.text] = OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
        return copy.copy(self._values[choice.text])


def _axes(arguments: Sequence[str], loader: ConfigLoader) -> list[list[_Choice]]:
    """Return the choices of every axis, in the order in which their keys were first named."""
    parser = OverridesParser.create(config_loader=loader)
    axes: dict[str, list[_Choice]] = {}
    for override in parser.parse_overrides(list(arguments)):
        key = override.get_key_element()
        if override.is_sweep_override():
            if not override.is_discrete_sweep():
                raise GraftError(
                    f"Expected choices, a range or a glob for `{key}`, but got {override.input_line!r}."
                )
            texts = [f"{key}={value}" for value in override.sweep_string_iterator()]
            if not texts:
                raise GraftError(
                    f"Expected at least one value for `{key}`, but {override.input_line!r} gives none."
                )
            axes[key] = [_choice(single) for single in parser.parse_overrides(texts)]
        else:
            axes[key] = [_choice(override)]
    return list(axes.values())


def _choice(override: Override) -> _Choice:
    text = override.input_line or f"{override.get_key_element()}={override.get_value_element_as_str()}"
    plain = override.is_add() is False and override.is_delete() is False and override.package is None
    return _Choice(text, override.key_or_group, override.value(), plain)


def _is_plain_value(choice: _Choice, groups: set[str]) -> bool:
    """Whether the override sets one value of graft's own, and chooses no group."""
    inside_hydra = choice.key == "hydra" or choice.key.startswith(("hydra.", "hydra/"))
    follows = _REFERENCE.search(choice.text) is not None
    special = choice.key in groups or inside_hydra or follows or isinstance(choice.value, dict)
    return choice.plain and not special


def _references(tree: Any) -> Iterator[str]:
    if isinstance(tree, Mapping):
        for value in tree.values():
            yield from _references(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _references(value)
    elif isinstance(tree, str):
        yield from _REFERENCE.findall(tree)


def _put(section: Any, path: Sequence[str], value: Any) -> Any:
    """Return ``section`` with ``value`` at ``path``; nothing is changed in place."""
    if len(path) == 1:
        return replace(section, **{path[0]: value})
    return replace(section, **{path[0]: _put(getattr(section, path[0]), path[1:], value)})
