"""Hydra in front of a verb: composes its configuration, keeps Hydra's flags, turns mistakes into messages."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from graft.completion import wants_completion
from graft.config.load import check_choices, conf_folder, explain, register_schema, to_config
from graft.config.schema import Config
from graft.config.validate import require_valid
from graft.errors import GraftError
from graft.sweep.elsewhere import check_launcher, execute_elsewhere, is_job
from graft.sweep.nodes import register_plugins


def compose_and_call(primary: str, words: Sequence[str], call: Callable[[Config], None]) -> int:
    """Compose the configuration ``primary`` from ``words`` and call ``call`` with it, or sweep.

    Args:
        primary: Name of the primary configuration, ``train`` or ``pretrain``.
        words: Overrides and Hydra's flags.
        call: What a single run does.

    Raises:
        GraftError: For a mistake in the configuration.
    """
    words = [_quote_switch(_expand_home(word)) for word in words]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions through, to be explained here
    os.environ["GRAFT_COMMAND"] = shlex.join(["graft", primary, *words])
    check_choices(words)
    _check_flags(words)
    check_launcher(words)
    register_schema()
    register_plugins()
    composed_here: list[DictConfig] = []

    @hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name=primary)
    def task(composed: DictConfig) -> Any:
        if is_job(composed):  # in a process that another launcher started
            return execute_elsewhere(composed)
        composed_here.append(composed)  # called below: Hydra would announce a mistake in a line of its own
        return None

    arguments, sys.argv = sys.argv, [f"graft {primary}", *_flags_first(words)]
    try:
        task()
        for composed in composed_here:
            config = to_config(composed)
            require_valid(config)
            call(config)
    except (HydraException, OmegaConfBaseException) as error:
        raise GraftError(explain(error)) from error
    except OSError as error:
        if error.filename is None:
            raise
        raise GraftError(
            f"Expected {str(error.filename)!r} to be readable and writable, but got: {error.strerror}. "
            "Everything is written under `paths.root`; give another one: `paths.root=<folder>`."
        ) from error
    finally:
        sys.argv = arguments
    return 0


#: Hydra's own.
_FLAGS = (
    "--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run", "--multirun",
    "--shell-completion", "--config-path", "--config-name", "--config-dir", "--experimental-rerun", "--info",
)  # fmt: skip


def _check_flags(words: Sequence[str]) -> None:
    """Refuse flags that Hydra has not (it may take them for others), and those that exclude each other."""
    for word in words:
        name, _, value = word.partition("=")
        if name.startswith("--") and name not in _FLAGS:
            raise GraftError(
                f"There is no option {name!r}. What a run is made of is written without dashes: "
                f"`{name.lstrip('-')}={value or '<value>'}`. The options are: {', '.join(_FLAGS)}."
            )
    looks = [word for word in words if word in ("--cfg", "-c", "--info", "-i")]
    if looks and any(word in ("-m", "--multirun") for word in words):
        raise GraftError(
            f"Expected -m or {looks[0]}, but got both. Leave out -m to see the configuration of one run; "
            "`sweep.dry_run=true` shows the plan of a sweep."
        )


def _flags_first(words: Sequence[str]) -> list[str]:
    """Return ``words`` with Hydra's flags in front: it refuses one between overrides."""
    if wants_completion(words):  # its flag takes a value that looks like an override
        return list(words)
    return sorted(words, key=lambda word: not word.startswith("-") and ("=" in word or word.startswith("~")))


def _quote_switch(word: str) -> str:
    """Quote the choices of `reuse`, which Hydra would read as true and false, and then not find.

    >>> _quote_switch("reuse=off"), _quote_switch("reuse=on,off"), _quote_switch("reuse.disk_gb=0")
    ("reuse='off'", "reuse='on','off'", 'reuse.disk_gb=0')
    """
    if not re.fullmatch(r"reuse=(on|off)(,(on|off))*", word):
        return word
    return re.sub(r"\b(on|off)\b", r"'\1'", word)


def _expand_home(word: str) -> str:
    """Write the home folder for a ``~/`` inside a word: shells do so at its start only, and Hydra refuses it.

    >>> _expand_home("~transfer"), _expand_home("data.root=/images")
    ('~transfer', 'data.root=/images')
    """
    return re.sub("(?<=[=,])~(?=/)", lambda _: str(Path.home()), word)
