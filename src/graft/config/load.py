"""From Hydra's composed configuration to the typed one, and back to plain values."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    OmegaConfBaseException,
)

from graft.config.schema import Config
from graft.errors import GraftError, expected_one_of, nearest_first

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
    raise GraftError(
        f"Expected the folder `conf` at {_CARRIED_IN_PACKAGE}, but it is missing: install graft again."
    )


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

    Merging into the schema once more closes the ``+new.key=1`` hole: what it does not know is refused.

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
        for key in OmegaConf.missing_keys(
            merged
        ):  # left empty for `validate`, which names all mistakes together
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
            inside = isinstance(kind, type) and is_dataclass(kind)
            found |= walk(kind, f"{prefix}{name}.") if inside else {f"{prefix}{name}": kind}
        return found

    return walk(Config, "")


def check_choices(words: Sequence[str]) -> None:
    """Refuse what Hydra takes in silence or answers with a traceback: a group chosen twice, or by a number.

    Args:
        words: The words of a command line, overrides among them.

    Raises:
        GraftError: For the first such word.
    """
    groups = {folder.name: folder for folder in conf_folder().iterdir() if folder.is_dir()}
    chosen: dict[str, str] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or key not in groups:
            continue
        if key in chosen:
            raise GraftError(
                f"Expected one choice for `{key}`, but got two: {chosen[key]!r} and {value!r}. "
                f"To sweep over both: -m {key}={chosen[key]},{value}"
            )
        chosen[key] = value
        for single in value.split(","):
            if not isinstance(yaml.safe_load(single or "null"), str | None):
                options = sorted(path.stem for path in groups[key].glob("*.yaml"))
                raise GraftError(expected_one_of(key, single, options))


def explain(error: Exception) -> str:
    """Turn an error of Hydra or OmegaConf into what was expected, what came and the nearest choices."""
    cause: BaseException = error
    while cause.__cause__ is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    if not isinstance(cause, OmegaConfBaseException):
        return _explain_composition(str(error))
    key, came = cause.full_key or "", str(cause.msg or cause).splitlines()[0]
    kinds = known_keys()
    if isinstance(cause, InterpolationResolutionError):
        return f"`{key}`: {came}."
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and key and key not in kinds:
        return no_such_knob(key)
    if key in kinds:
        return f"Expected `{key}` to be {_kind_in_words(kinds[key])}, but got {_what_came(came)}."
    return f"`{key}`: {came}" if key else came


def no_such_knob(wrong: str) -> str:
    """Say that there is no knob ``wrong``, and which are the nearest."""
    known = set(known_keys())
    sections = {key.partition(".")[0] for key in known if "." in key} if "." not in wrong else set()
    near = ", ".join(f"`{key}`" for key in nearest_first(wrong, known | sections)[:3])
    return f"There is no knob `{wrong}`. The nearest are: {near}."


def _kind_in_words(kind: Any) -> str:
    """Say what a type of the schema means to people."""
    if get_origin(kind) is UnionType:
        inner, _ = get_args(kind)
        return f"{_kind_in_words(inner)}, or null"
    if get_origin(kind) is list:
        return f"a list like [{'256,64' if get_args(kind) == (int,) else '0.5,0.5'}]"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]


def _what_came(message: str) -> str:
    """Return the value that OmegaConf refused, as far as its message tells."""
    value = re.search(r"[Vv]alue '(.*?)'(?= of type| is not|$)", message)
    if value:
        return repr(value.group(1))
    known = {
        "not Optional": "null",
        "is not a ListConfig": "a single value",
        "Cannot convert 'list'": "a list",
    }
    return next((words for sign, words in known.items() if sign in message), f"another type ({message})")


def _explain_composition(message: str) -> str:
    """Shorten what Hydra says when it cannot compose, and put the nearest choice first."""
    for pattern, said in _COMPOSITION_MISTAKES.items():
        found = re.search(pattern, message)
        if found:
            return said(found)
    return message.split("\nFull traceback")[0].split("\nSet the environment variable")[0]


def _say_no_such_option(found: re.Match[str]) -> str:
    known = [line.strip() for line in found["known"].splitlines() if line.strip()]
    return expected_one_of(found["group"], found["option"].rsplit("/", 1)[-1], known)


#: What Hydra says, and how graft says it.
_COMPOSITION_MISTAKES: dict[str, Callable[[re.Match[str]], str]] = {
    r"Could not find '(?P<option>[^']+)'[\s\S]*"
    r"Available options in '(?P<group>[^']+)':\n(?P<known>(?:\t.+\n?)+)": _say_no_such_option,
    r"Could not override '(?P<key>[^']+)'": lambda found: no_such_knob(found["key"]),
    r"Ambiguous value for argument '(?P<key>[^=]+)=(?P<value>.+)'\n": lambda found: (
        f"Expected one value for `{found['key']}` in a single run, but got {found['value']!r}. "
        f"To sweep over them add -m; for a list write {found['key']}=[{found['value']}]."
    ),
    r"Multiple values for (?P<group>[^.\s]+)\.": lambda found: (
        f"`{found['group']}` has a choice already. Change it without the plus: {found['group']}=<choice>."
    ),
    r"Error parsing override '(?P<text>.*)'\n(?P<why>.*)": lambda found: (
        f"Expected an override like `optim.lr=1e-3`, but got {found['text']!r} ({found['why']})."
    ),
}
