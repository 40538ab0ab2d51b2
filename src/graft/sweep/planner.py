"""From the cells of a grid to the runs that are needed: twins added, equals merged, finished ones known."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from graft.config.schema import Config, OptimConfig
from graft.config.validate import validate
from graft.errors import GraftError
from graft.plan.arms import Arm, make_twin, normalise
from graft.plan.spec import Facts, RunSpec, specify
from graft.sweep.grid import Cell


@dataclass(frozen=True)
class Plan:
    """A sweep, before its first run.

    Attributes:
        specs: Every run of the sweep, each once, in the order in which they are to run.
        done: Run keys that are finished already.
        merged: Cells that turned out to be equal to another.
        twins: From-scratch runs that were added.
        equal_arms: Arms of the cells among them that were asked for as different ones.
    """

    specs: tuple[RunSpec, ...]
    done: frozenset[str]
    merged: int
    twins: int
    equal_arms: frozenset[Arm] = frozenset()

    @property
    def missing(self) -> list[RunSpec]:
        """The runs that are still to do."""
        return [spec for spec in self.specs if spec.key not in self.done]


def make_plan(
    cells: Sequence[Cell],
    gather_facts: Callable[[Config], Facts],
    finished: Collection[str],
) -> Plan:
    """Return the plan of a grid.

    All cells are validated before the first run starts, and their complaints come together.

    Args:
        cells: The grid.
        gather_facts: Reads what the run key needs to know of data, weights and device.
        finished: Run keys that are finished already.

    Raises:
        GraftError: When a cell is impossible, or the grid is empty.
    """
    several = len(cells) > 1
    configs = normalise_cells(cells)
    specs, asked_for, equal_arms = dict[str, RunSpec](), dict[str, Config](), set[Arm]()
    for cell, config in zip(cells, configs, strict=True):
        spec = specify(config, gather_facts(config), grid=several)
        specs.setdefault(spec.key, spec)
        if asked_for.setdefault(spec.key, cell.config) != cell.config:
            equal_arms.add(spec.arm)
    merged = len(configs) - len(specs)
    asked = len(specs)
    for config in configs:
        twin = make_twin(config) if config.sweep.twin == "auto" else None
        if twin is not None:
            spec = specify(twin, gather_facts(twin), grid=several)
            specs.setdefault(spec.key, spec)
    # Whole replicates first, so that an early look is a fair one.
    ordered = sorted(specs.values(), key=lambda spec: spec.replicate)
    done = frozenset(key for key in specs if key in finished)
    return Plan(tuple(ordered), done, merged, len(specs) - asked, frozenset(equal_arms))


def gather_once(gather_facts: Callable[[Config], Facts]) -> Callable[[Config], Facts]:
    """Return what gathers facts, once for all runs that differ only in what facts do not depend on.

    Those are the seed, the label budget, the fold and the optimizer; a replayed split depends on all of them.
    """
    gathered: dict[str, Facts] = {}

    def gather(config: Config) -> Facts:
        if config.data.split_file is not None:
            return gather_facts(config)
        data = replace(
            config.data, labels_per_class=None, val_labels_per_class=None, label_fraction=None, fold=0,
            fold_repeat=0,
        )  # fmt: skip
        same = repr(replace(config, data=data, optim=OptimConfig(), seed=0))
        if same not in gathered:
            gathered[same] = gather_facts(config)
        return gathered[same]

    return gather


def normalise_cells(cells: Sequence[Cell]) -> list[Config]:
    """Return the one spelling of every cell, all of them valid.

    Raises:
        GraftError: With all complaints, or because the grid is empty.
    """
    if not cells:
        raise GraftError("Expected a grid with at least one run, but it is empty.")
    configs = [normalise(cell.config, grid=len(cells) > 1) for cell in cells]
    _require_all_valid(configs)
    return configs


def _require_all_valid(configs: Sequence[Config]) -> None:
    """Raise one error with each different complaint of any cell, and how many cells have it."""
    counts: dict[str, int] = {}
    for config in configs:
        for complaint in validate(config):
            counts[complaint] = counts.get(complaint, 0) + 1
    if not counts:
        return
    lines = [f"  - {complaint} ({count} of {len(configs)} runs)" for complaint, count in counts.items()]
    if len(configs) == 1:
        lines = [f"  - {complaint}" for complaint in counts]
    raise GraftError("The sweep cannot run as it is:\n" + "\n".join(lines))
