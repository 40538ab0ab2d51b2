"""The names under which Hydra's defaults lists know graft's plug-ins."""

from __future__ import annotations

from dataclasses import dataclass, field

from hydra.core.config_store import ConfigStore

#: Hydra instantiates plug-ins of this package only: see src/hydra_plugins/graft.py.
PLUGIN_PACKAGE = "hydra_plugins.graft"


@dataclass
class SweeperConfig:
    """Hydra's node ``hydra/sweeper: graft``."""

    _target_: str = f"{PLUGIN_PACKAGE}.GraftSweeper"
    params: dict[str, str] = field(default_factory=dict)


@dataclass
class LauncherConfig:
    """Hydra's node ``hydra/launcher: graft``."""

    _target_: str = f"{PLUGIN_PACKAGE}.GraftLauncher"


def register_plugins() -> None:
    """Make ``hydra/sweeper: graft`` and ``hydra/launcher: graft`` known to Hydra's defaults lists."""
    store = ConfigStore.instance()
    store.store(group="hydra/sweeper", name="graft", node=SweeperConfig, provider="graft")
    store.store(group="hydra/launcher", name="graft", node=LauncherConfig, provider="graft")
