"""From Hydra's composed configuration to the typed one, and back to plain values."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from graft.config.schema import Config
from graft.errors import GraftError, nearest_first

_CARRIED_IN_PACKAGE = Path(__file__).resolve().parent.parent / "conf"
_CARRIED_IN_CHECKOUT = Path(__file__).resolve().parents[3] / "conf"


def conf_folder() -> Path:
    """Return the folder of YAML choices: inside an installed wheel, or at the top of a checkout.

    Raises:
        GraftError: When neither is there, which means a broken installation.
    """
    for folder in (_CARRIED_IN_PACKAGE, _CARRIED_IN_CHECKOUT):
        if (folder / "train.yaml").is_file():
            return folder
    raise GraftError(f"Expected the folder `conf` at {_CARRIED_IN_PACKAGE}, but it is missing: install graft again.")


def read_question(experiment: str) -> str:
    """Return the question that an experiment file asks in its header, empty when there is no such file."""
    path = conf_folder() / "experiment" / f"{experiment}.yaml"
    if not path.is_file():
        return ""
    header = itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    text = " ".join(line.lstrip("# ") for line in header)
    found = re.search(r"Question:\s*(.+?)\s*(?:Command:|$)", text)
    return found.group(1) if found else ""


def register_schema() -> None:
    """Put the schema where the defaults lists find it, so that a typo fails when composing."""
    ConfigStore.instance().store(name="schema", node=Config, provider="graft")


def to_config(composed: DictConfig | Mapping[str, Any]) -> Config:
    """Turn a composed configuration into a typed `Config`.

    Merging into the schema once more closes the ``+new.key=1`` hole: whatever the schema does not know is refused.

    Args:
        composed: The configuration as Hydra composed it, with or without the node ``hydra``.

    Raises:
        GraftError: For a key that the schema does not know or a value of another type.
    """
    tree = composed if isinstance(composed, DictConfig) else OmegaConf.create(dict(composed))
    try:
        plain = OmegaConf.to_container(tree, resolve=True, throw_on_missing=False)
        assert isinstance(plain, dict)
        plain.pop("hydra", None)
        merged = OmegaConf.merge(OmegaConf.structured(Config), plain)
        for key in OmegaConf.missing_keys(merged):  # left empty for `validate`, which names all mistakes together
            OmegaConf.update(merged, key, "")
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise GraftError(explain(error)) from error
    assert isinstance(config, Config)
    return config


def to_plain(config: Config) -> dict[str, Any]:
    """Return ``config`` as nested plain values that YAML and JSON can hold."""
    return asdict(config)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return ``tree`` with dotted keys.

    >>> flatten({"optim": {"lr": 0.1}, "seed": 0})
    {'optim.lr': 0.1, 'seed': 0}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def read_config(path: Path) -> Config:
    """Read a configuration that `write_config` wrote."""
    return to_config(yaml.safe_load(path.read_text()))


def write_config(config: Config, path: Path) -> None:
    """Write ``config`` as YAML."""
    path.write_text(yaml.safe_dump(to_plain(config), sort_keys=False))


def known_keys() -> dict[str, Any]:
    """Return every dotted key of the schema with its type."""

    def walk(section: type, prefix: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, kind in get_type_hints(section).items():
            found |= walk(kind, f"{prefix}{name}.") if is_dataclass(kind) else {f"{prefix}{name}": kind}
        return found

    return walk(Config, "")


def explain(error: Exception) -> str:
    """Turn an error of Hydra or OmegaConf into what was expected, what came and the nearest choices."""
    cause: BaseException = error
    while cause.__cause__ is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    if isinstance(cause, ConfigKeyError) and cause.full_key:
        wrong = cause.full_key
        near = ", ".join(f"`{key}`" for key in nearest_first(wrong, known_keys())[:3])
        return f"There is no knob `{wrong}`. The nearest are: {near}."
    if isinstance(cause, OmegaConfBaseException):
        came = str(cause.msg or cause).splitlines()[0]
        return f"`{cause.full_key}`: {came}" if cause.full_key else came
    return explain_composition(str(error))


def explain_composition(message: str) -> str:
    """Shorten what Hydra says when it cannot compose, and put the nearest choice first."""
    option = re.search(r"Could not find '([^']+)'", message)
    choices = re.search(r"Available options in '([^']+)':\n((?:\t.+\n?)+)", message)
    if option and choices:
        known = [line.strip() for line in choices.group(2).splitlines() if line.strip()]
        group, name = choices.group(1), option.group(1).rsplit("/", 1)[-1]
        ordered = nearest_first(name, known)
        return f"Expected `{group}` to be one of: {', '.join(ordered)}; but got {name!r}. Did you mean {ordered[0]!r}?"
    key = re.search(r"Could not override '([^']+)'", message)
    if key:
        near = ", ".join(f"`{known}`" for known in nearest_first(key.group(1), known_keys())[:3])
        return f"There is no knob `{key.group(1)}`. The nearest are: {near}."
    return message.split("\nFull traceback")[0].split("\nSet the environment variable")[0]
