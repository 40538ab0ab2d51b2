"""Runs that another of Hydra's launchers starts: joblib, submitit, Ray."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from graft.config.load import to_config
from graft.config.schema import Config
from graft.config.validate import require_valid
from graft.errors import GraftError
from graft.plan.spec import RunSpec, specify
from graft.sweep.bookkeeping import record_unstarted
from graft.sweep.command import describe_overrides
from graft.sweep.outcome import KILLED, Outcome, describe_error
from graft.sweep.worker import Job, execute_job
from graft.track.reader import find_finished, read_experiment
from graft.track.store import Store

#: Launchers that come as packages of their own: the plug-in, and the extra of graft that installs it.
_PLUGINS = {
    "joblib": ("hydra_joblib_launcher", "joblib"),
    "submitit_local": ("hydra_submitit_launcher", "slurm"),
    "submitit_slurm": ("hydra_submitit_launcher", "slurm"),
    "ray": ("hydra_ray_launcher", "ray"),
    "ray_aws": ("hydra_ray_launcher", "ray"),
}

#: Knobs that hold a path, which another working directory would read as another place.
_PATHS = {"paths": ("root",), "data": ("root", "table", "split_file")}


def check_launcher(words: Sequence[str]) -> None:
    """Refuse a launcher whose plug-in is not installed, before Hydra says that there is no such thing.

    Raises:
        GraftError: With the extra that installs it.
    """
    for word in words:
        key, _, name = word.partition("=")
        if key == "hydra/launcher" and name in _PLUGINS:
            plugin, extra = _PLUGINS[name]
            if importlib.util.find_spec(f"hydra_plugins.{plugin}") is None:
                raise GraftError(
                    f"Expected the plug-in of `hydra/launcher={name}`, but it is not installed. "
                    f"Install it with: pip install 'graft-transfer[{extra}]'"
                )


def launch_elsewhere(
    launcher: Launcher, specs: Sequence[RunSpec], parent_id: str, store: Store
) -> list[Outcome]:
    """Let ``launcher`` execute runs, each as a job of its own, and return how each ended.

    A job that says nothing, because its process or the launcher fell, is looked up in the store.
    """
    overrides = [describe_overrides(_for_elsewhere(spec.config, parent_id)) for spec in specs]
    try:
        returned: Sequence[Any] = launcher.launch(overrides, initial_job_idx=0)
        silence = "its job ended without a result"
    except Exception as error:
        returned, silence = [], f"{type(error).__name__}: {error}"
    said = {}
    for answer in returned:
        value = answer.return_value if answer.status == JobStatus.COMPLETED else None
        if isinstance(value, Mapping):
            said[value["key"]] = Outcome(**value)
    outcomes = [said.get(spec.key) or _look_up(spec, store, silence) for spec in specs]
    recorded = {record.run_key for record in read_experiment(store, parent_id)}
    for spec, outcome in zip(specs, outcomes, strict=True):
        if spec.key not in recorded:
            record_unstarted(store, parent_id, spec, outcome)
    return outcomes


def _look_up(spec: RunSpec, store: Store, silence: str) -> Outcome:
    val = find_finished(store, spec.key, spec.config.metric)
    if val is not None:
        return Outcome(spec.key, "finished", val=val)
    return Outcome(spec.key, "failed", silence, cause=KILLED)


def _for_elsewhere(config: Config, parent_id: str) -> Config:
    """Return a configuration that means the same in another working directory, as part of a sweep."""
    for section, names in _PATHS.items():
        knobs = getattr(config, section)
        found = {name: getattr(knobs, name) for name in names if getattr(knobs, name) is not None}
        absolute = {name: str(Path(path).expanduser().absolute()) for name, path in found.items()}
        config = replace(config, **{section: replace(knobs, **absolute)})
    return replace(config, sweep=replace(config.sweep, parent=parent_id))


def is_job(composed: DictConfig) -> bool:
    """Whether a composed configuration is that of a job of a sweep."""
    return OmegaConf.select(composed, "sweep.parent") is not None


def execute_elsewhere(composed: DictConfig) -> dict[str, Any]:
    """Execute the run of a job, and return how it ended as plain values.

    Raises:
        SystemExit: When the job was asked to stop: whether it is started again is its launcher's to decide.
    """
    from graft.run import gather_facts

    key = ""
    try:
        config = to_config(composed)
        require_valid(config)
        spec = specify(config, gather_facts(config))
        key = spec.key
        outcome = execute_job(Job(spec, config.sweep.parent))
    except Exception as error:
        outcome = describe_error(key, error)
    if outcome.signum is not None:
        sys.exit(128 + outcome.signum)
    return asdict(outcome)
