"""graft's Hydra plug-ins: the sweeper plans, the launcher keeps worker processes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from rich.console import Console

from graft.config.schema import Config
from graft.errors import GraftError, RunFailedError
from graft.plan.spec import RunSpec
from graft.progress import show_progress
from graft.sweep.grid import Cell, compose_cells
from graft.sweep.planner import Plan, make_plan, normalise_cells
from graft.sweep.pool import Pool
from graft.sweep.show import SweepProgress, show_failures, show_plan
from graft.sweep.worker import Outcome, leave, share_of_threads

if TYPE_CHECKING:
    from graft.track.store import Store

#: Hydra instantiates plug-ins of this package only: see src/hydra_plugins/graft.py.
_PLUGIN_PACKAGE = "hydra_plugins.graft"


@dataclass
class SweeperConfig:
    """Hydra's node ``hydra/sweeper: graft``."""

    _target_: str = f"{_PLUGIN_PACKAGE}.GraftSweeper"
    params: dict[str, str] = field(default_factory=dict)


@dataclass
class LauncherConfig:
    """Hydra's node ``hydra/launcher: graft``."""

    _target_: str = f"{_PLUGIN_PACKAGE}.GraftLauncher"


class GraftLauncher(Launcher):
    """Executes planned runs in worker processes of this machine."""

    __module__ = _PLUGIN_PACKAGE

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra hands over."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        """Refuse to run unplanned jobs.

        Raises:
            GraftError: Always; the launcher works with graft's sweeper only.
        """
        raise GraftError(
            "Expected `hydra/sweeper=graft` with `hydra/launcher=graft`, but another sweeper asks for jobs."
        )

    def execute(
        self, specs: Sequence[RunSpec], config: Config, parent_id: str, console: Console
    ) -> list[Outcome]:
        """Execute runs and return how each ended."""
        workers = config.sweep.workers or 1
        with SweepProgress(console, len(specs)) as progress:
            pool = Pool(
                size=workers,
                threads=config.trainer.threads or share_of_threads(workers),
                logs=Path(config.paths.root) / "logs",
                on_progress=progress.advance,
                on_outcome=progress.ended,
            )
            return pool.execute(specs, parent_id)


class GraftSweeper(Sweeper):
    """Expands the grid, adds the twins, leaves out what is finished, and hands the rest to the launcher.

    Args:
        params: Sweep axes that a configuration carries, as overrides by key.
    """

    __module__ = _PLUGIN_PACKAGE

    def __init__(self, params: dict[str, str] | None = None) -> None:
        self.params = dict(params or {})
        self.context: HydraContext | None = None
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra hands over, and make the launcher."""
        self.context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep that ``arguments`` ask for.

        Raises:
            GraftError: When the grid is impossible.
            RunFailedError: When a run did not finish.
        """
        from graft.track.store import open_store
        from graft.track.writer import close_dead_runs, start_sweep

        console = Console()
        cells = self._compose(arguments)
        config = normalise_cells(cells)[0]  # mistakes are told before anything is written
        store = open_store(config.tracking.uri, Path(config.paths.root))
        close_dead_runs(store)
        plan = _prepare(cells, store, console)
        if config.sweep.dry_run:
            return None
        parent = start_sweep(store, config.tracking.experiment, plan.specs, _command())
        before = signal.signal(signal.SIGTERM, leave)
        try:
            outcomes = self._launch(plan, config, parent.run_id, console)
        except (KeyboardInterrupt, SystemExit):
            parent.end("killed", "interrupted")
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
        failed = [outcome for outcome in outcomes if outcome.status != "finished"]
        if not failed:
            parent.end("finished")
            console.print(
                f"All runs are finished. For the answer: graft compare {config.tracking.experiment}"
            )
            return None
        close_dead_runs(store)
        parent.end("failed", f"{len(failed)} runs did not finish")
        show_failures(console, plan.specs, outcomes, _command())
        raise RunFailedError(f"{len(failed)} of {len(plan.specs)} runs did not finish.")

    def _compose(self, arguments: list[str]) -> list[Cell]:
        """Return the cells of the grid that the configuration and ``arguments`` span."""
        assert self.context is not None
        assert self.config is not None
        overrides = [f"{key}={value}" for key, value in self.params.items()] + arguments
        return compose_cells(self.context.config_loader, self.config, overrides)

    def _launch(self, plan: Plan, config: Config, parent_id: str, console: Console) -> list[Outcome]:
        missing = plan.missing
        if not missing:
            return []
        if isinstance(self.launcher, GraftLauncher):
            return self.launcher.execute(missing, config, parent_id, console)
        raise GraftError("Expected `hydra/launcher=graft`, but got another one.")


def _prepare(cells: Sequence[Cell], store: Store, console: Console) -> Plan:
    """Plan the sweep, show the plan, and decode the images that its runs will see."""
    from graft.run import decode_images, gather_facts
    from graft.track.reader import finished_runs

    with show_progress(console, "reading images") as progress:
        plan = make_plan(cells, lambda config: gather_facts(config, progress), finished_runs(store))
    show_plan(console, plan)
    if not plan.specs[0].config.sweep.dry_run:
        with show_progress(console, "decoding images") as progress:
            for spec in _one_of_each_input(plan.missing):
                decode_images(spec, progress)
    return plan


def _one_of_each_input(specs: Sequence[RunSpec]) -> list[RunSpec]:
    """Return one run of each set of decoded images."""
    return list({(spec.facts.data_digest, spec.arm.input): spec for spec in specs}.values())


def register_plugins() -> None:
    """Make ``hydra/sweeper: graft`` and ``hydra/launcher: graft`` known to Hydra's defaults lists."""
    store = ConfigStore.instance()
    store.store(group="hydra/sweeper", name="graft", node=SweeperConfig, provider="graft")
    store.store(group="hydra/launcher", name="graft", node=LauncherConfig, provider="graft")


def _command() -> str:
    """Return the command line as a person would type it again."""
    return os.environ.get("GRAFT_COMMAND", " ".join(sys.argv))
