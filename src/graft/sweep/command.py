"""From a configuration back to the command that gives it."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.types import RunMode

from graft.config.load import conf_folder, flatten, register_schema, to_config, to_plain
from graft.config.running import SweepConfig
from graft.config.schema import Config
from graft.sweep.nodes import register_plugins

#: Text that Hydra reads as itself, without quotes; a number or a word like `null` would be something else.
_SAFE_TEXT = re.compile(r"(?!(?:true|false|null|nan|inf)$)[A-Za-z/][\w./-]*", re.IGNORECASE)
#: Where an interpolation would begin; a backslash makes it text, and doubles those before it.
_REFERENCE = re.compile(r"(\\*)\$\{")


def describe_overrides(config: Config) -> list[str]:
    """Return the overrides that make ``graft train`` compose exactly ``config``.

    They are the values in which it differs from what ``graft train`` composes by itself, so they need no
    choice of a group, and no folder of choices that a user added.
    """
    usual = _usual_values()
    values = flatten(to_plain(config))
    return [f"{key}={_write(value)}" for key, value in values.items() if value != usual[key]]


def reproduce(config: Config) -> str:
    """Return the command that executes this one run by itself."""
    return shlex.join(["graft", "train", *describe_overrides(replace(config, sweep=SweepConfig()))])


@functools.lru_cache(maxsize=1)
def _usual_values() -> Mapping[str, Any]:
    """Return what ``graft train`` composes without overrides, by dotted key."""
    register_schema()
    register_plugins()
    loader = ConfigLoaderImpl(create_config_search_path(str(conf_folder())))
    return flatten(to_plain(to_config(loader.load_configuration("train", [], RunMode.RUN))))


def _write(value: Any) -> str:
    """Write a value in Hydra's override grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ",".join(_write(entry) for entry in value) + "]"
    if not isinstance(value, str):
        return repr(value)
    if _SAFE_TEXT.fullmatch(value):
        return value
    for _ in range(2):  # resolved once when composing, and once more in the schema
        value = _REFERENCE.sub(lambda found: 2 * found[1] + r"\${", value)
    return str(QuotedString(value, Quote.single).with_quotes())
