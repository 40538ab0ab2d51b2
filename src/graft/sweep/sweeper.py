"""graft's Hydra plug-ins: the sweeper plans, the launcher keeps worker processes."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from rich.console import Console

from graft.config.running import say_place
from graft.config.schema import Config
from graft.errors import GraftError, RunFailedError, RunInterrupted
from graft.plan.halving import plan_halving
from graft.plan.spec import RunSpec
from graft.progress import show_progress
from graft.sweep.bookkeeping import Bookkeeper
from graft.sweep.devices import Place, assign_places, list_gpus
from graft.sweep.elsewhere import launch_elsewhere
from graft.sweep.grid import Cell, compose_cells
from graft.sweep.live import SweepView
from graft.sweep.nodes import PLUGIN_PACKAGE
from graft.sweep.outcome import Outcome, name_signal
from graft.sweep.planner import Plan, gather_once, make_plan, normalise_cells
from graft.sweep.pool import Pool
from graft.sweep.reuse import ReusePlan, compute_shared, plan_reuse
from graft.sweep.show import show_estimate, show_failures, show_gain, show_plan
from graft.sweep.stopping import Stop, listening

if TYPE_CHECKING:
    from graft.track.record import RunRecord
    from graft.track.store import Store


class GraftLauncher(Launcher):
    """Executes planned runs in worker processes of this machine."""

    __module__ = PLUGIN_PACKAGE

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


class GraftSweeper(Sweeper):
    """Expands the grid, adds the twins, leaves out what is finished, and hands the rest to the launcher.

    Args:
        params: Sweep axes that a configuration carries, as overrides by key.
    """

    __module__ = PLUGIN_PACKAGE

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
            RunInterrupted: When the sweep was asked to stop.
        """
        from graft.track.closing import close_dead_runs
        from graft.track.experiment import check_experiment
        from graft.track.store import open_store

        console = Console()
        cells = self._compose(arguments)
        configs = normalise_cells(cells)  # mistakes are told before anything is written
        config, places = configs[0], self._assign_places(configs, console)
        if config.sweep.prune == "asha":
            _check_races(configs, own=isinstance(self.launcher, GraftLauncher))
        store = open_store(config.tracking.uri, Path(config.paths.root))
        close_dead_runs(store)
        plan = _plan(cells, store, console)
        check_experiment(store, config.tracking.experiment, plan.specs)
        records = read_known(store, config.tracking.experiment) if plan.missing else []
        show_plan(console, plan)
        show_estimate(console, plan, records, len(places))
        how = Sweep(console, places, records)
        if not config.sweep.dry_run:
            self._run(plan, config, store, how)
        elif isinstance(self.launcher, GraftLauncher) and plan.missing:
            _decode(plan, console)
            _plan_sharing(plan, how)
        return None

    def _run(self, plan: Plan, config: Config, store: Store, how: Sweep) -> None:
        """Execute what is missing, and close the sweep's own record with what became of it."""
        from graft.track.closing import close_dead_runs
        from graft.track.writer import start_sweep

        _decode(plan, how.console)
        # Another launcher looks at no flag: a signal ends it as it ends any program.
        own = isinstance(self.launcher, GraftLauncher)
        with listening() if own else contextlib.nullcontext(Stop()) as stop:
            parent = start_sweep(store, config.tracking.experiment, plan.specs, _command())
            try:
                outcomes = self._launch(plan, parent.run_id, store, stop, how)
            except BaseException as error:
                asked = isinstance(error, RunInterrupted | KeyboardInterrupt | SystemExit)
                parent.end("killed" if asked else "failed", f"{type(error).__name__}: {error}")
                raise
        failed = [outcome for outcome in outcomes if outcome.status not in ("finished", "pruned")]
        pruned = sum(outcome.status == "pruned" for outcome in outcomes)
        if pruned:
            how.console.print(f"{pruned} of {len(plan.specs)} runs were pruned; sweep.prune=off trains them.")
        if stop.signum is not None:
            parent.end("killed", f"asked to stop by {name_signal(stop.signum)}")
            raise RunInterrupted(stop.signum)
        if not failed:
            parent.end("finished")
            answer = f"graft compare {config.tracking.experiment}{say_place(config.paths.root)}"
            finished = "All other runs" if pruned else "All runs"
            how.console.print(f"{finished} are finished. For the answer: {answer}")
            return
        close_dead_runs(store)
        parent.end("failed", f"{len(failed)} runs did not finish")
        show_failures(how.console, plan.specs, outcomes, _command())
        raise RunFailedError(f"{len(failed)} of {len(plan.specs)} runs did not finish.")

    def _assign_places(self, configs: Sequence[Config], console: Console) -> list[Place]:
        """Return the places of graft's own workers; another launcher knows its own."""
        if not isinstance(self.launcher, GraftLauncher):
            return []
        places, said = assign_places(configs, list_gpus(configs))
        if said:
            console.print(said)
        return places

    def _compose(self, arguments: list[str]) -> list[Cell]:
        """Return the cells of the grid that the configuration and ``arguments`` span."""
        assert self.context is not None
        assert self.config is not None
        overrides = [f"{key}={value}" for key, value in self.params.items()] + arguments
        return compose_cells(self.context.config_loader, self.config, overrides)

    def _launch(self, plan: Plan, parent_id: str, store: Store, stop: Stop, how: Sweep) -> list[Outcome]:
        """Execute the missing runs, and return how each ended."""
        if not plan.missing:
            return []
        if not isinstance(self.launcher, GraftLauncher):  # its runs share what they compute, as they come
            assert self.launcher is not None
            return launch_elsewhere(self.launcher, plan.missing, parent_id, store)
        config, reuse = plan.specs[0].config, _share(plan, how, stop)
        root = Path(config.paths.root).resolve()
        with SweepView(how.console, len(plan.missing), match_values(plan.specs, how.records)) as view:
            pool = Pool(
                places=how.places,
                logs=root / "logs",
                audience=Bookkeeper(store, parent_id, config.sweep.retries, view, stop),
                stop=stop,
                run_timeout=config.sweep.run_timeout,
                reuse=reuse,
                races=plan_halving(plan.specs, root) if config.sweep.prune == "asha" else {},
            )
            outcomes = pool.execute(plan.missing, parent_id)
        if reuse.sharing and stop.signum is None:
            executed = {spec.key for spec in plan.missing}
            show_gain(how.console, [one for one in read_known(store, parent_id) if one.run_key in executed])
        return outcomes


@dataclass(frozen=True)
class Sweep:
    """How a sweep goes: where it says so, with which workers, and what the store knew before.

    Attributes:
        console: Where to print.
        places: What each worker may use, none where another launcher has its own.
        records: Runs of the experiment that are recorded already.
    """

    console: Console
    places: list[Place]
    records: list[RunRecord]


def read_known(store: Store, experiment: str) -> list[RunRecord]:
    """Return the runs that an experiment has already, none when it is new."""
    from graft.track.reader import read_experiment

    try:
        return read_experiment(store, experiment)
    except GraftError:
        return []


def match_values(specs: Sequence[RunSpec], records: Sequence[RunRecord]) -> list[tuple[RunSpec, float]]:
    """Return the validation value of each run that is recorded as finished."""
    by_key = {record.run_key: record for record in records if record.status == "finished"}
    return [
        (spec, by_key[spec.key].metrics[f"val/{spec.config.metric}"]) for spec in specs if spec.key in by_key
    ]


def _plan(cells: Sequence[Cell], store: Store, console: Console) -> Plan:
    """Plan the sweep."""
    from graft.run import gather_facts
    from graft.track.reader import finished_runs

    with show_progress(console, "reading images") as progress:
        gather = gather_once(lambda config: gather_facts(config, progress))
        return make_plan(cells, gather, finished_runs(store))


def _decode(plan: Plan, console: Console) -> None:
    """Decode the images that the runs will see."""
    from graft.run import decode_images

    with show_progress(console, "decoding images") as progress:
        for spec in _one_of_each_input(plan.missing):
            decode_images(spec, progress)


def _plan_sharing(plan: Plan, how: Sweep) -> ReusePlan:
    """Decide what the runs share, and say so."""
    # Heads that train together come to every rung at once: there is nothing to save by pruning them.
    fuse = plan.specs[0].config.sweep.prune == "off"
    reuse = plan_reuse(plan.missing, len(how.places), fuse=fuse)
    for line in reuse.describe():
        how.console.print(line, soft_wrap=True, markup=False, highlight=False)
    return reuse


def _share(plan: Plan, how: Sweep, stop: Stop) -> ReusePlan:
    """Decide what the runs share, say so, and compute it.

    Raises:
        RunInterrupted: When the sweep was asked to stop; what is computed already is kept.
    """
    reuse = _plan_sharing(plan, how)
    with show_progress(how.console, "computing frozen stages") as progress:

        def advance(done: int, total: int) -> None:
            if stop.signum is not None:
                raise RunInterrupted(stop.signum)
            progress(done, total)

        done = compute_shared(reuse, advance)
    for line in done.news:
        how.console.print(line, soft_wrap=True, markup=False, highlight=False)
    return done


def _check_races(configs: Sequence[Config], *, own: bool) -> None:
    """Refuse to prune where nobody would see the race.

    Raises:
        GraftError: Another launcher starts the runs, or they have several devices.
    """
    if not own:
        raise GraftError(
            "Expected graft's own launcher with `sweep.prune=asha`: another one's workers see no race. "
            "Leave out `hydra/launcher`, or use `sweep.prune=off`."
        )
    most = max(config.trainer.devices * config.trainer.num_nodes for config in configs)
    if most > 1:
        raise GraftError(
            f"Expected runs on one device with `sweep.prune=asha`, but got {most} devices for a run. Use "
            "`trainer.devices=1` with as many `sweep.workers`, or `sweep.prune=off`."
        )


def _one_of_each_input(specs: Sequence[RunSpec]) -> list[RunSpec]:
    """Return one run of each set of decoded images."""
    return list({(spec.facts.data_digest, spec.arm.input): spec for spec in specs}.values())


def _command() -> str:
    """Return the command line as a person would type it again."""
    return os.environ.get("GRAFT_COMMAND", " ".join(sys.argv))
