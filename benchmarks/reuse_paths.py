"""The two paths that `reuse.py` compares, and where their times are kept."""

from __future__ import annotations

import contextlib
import gc
import itertools
import shutil
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reuse_bound import time_parts, time_pass, time_suffixes

from graft.config.load import to_config
from graft.plan.arms import normalise
from graft.plan.spec import RunSpec, specify
from graft.run import execute, gather_facts
from graft.sweep.reuse import ReusePlan, compute_shared, plan_reuse
from graft.sweep.worker import Job, execute_job
from graft.track.reader import read_experiment
from graft.track.store import open_store
from graft.train.checkpoint import Checkpoints

EPOCHS = 10
#: Share of the images and number of the epochs that runs with trainable stages are measured on.
PART, PART_EPOCHS = 8, 3
#: The same for ResNet-50.
SMALL_PART = 12


@dataclass(frozen=True)
class Kind:
    """What runs that cost the same have in common.

    Attributes:
        depth: Frozen stages, -1 from scratch.
        backbone: Architecture.
        batch: Images per step.
        until: The node that ends the frozen part, None for the depth's own.
    """

    depth: int
    backbone: str = "resnet18"
    batch: int = 32
    until: str | None = None

    @property
    def part(self) -> int:
        """The share of the images that it is measured on is one in so many."""
        return PART if self.backbone == "resnet18" else SMALL_PART


PROBE = Kind(5)


@dataclass
class Bench:
    """Where to measure, and what came out: seconds by path and kind.

    Attributes:
        root: Where the runs go.
        images: A folder of images by class.
        weights: State dicts by backbone.
    """

    root: Path
    images: Path
    weights: Mapping[str, str]
    seconds: dict[str, dict[Any, list[float]]] = field(default_factory=dict)
    differences: dict[Any, list[float]] = field(default_factory=dict)
    stores: int = 0

    def note(self, path: str, kind: Any, seconds: float) -> None:
        """Keep one repeat."""
        self.seconds.setdefault(path, {}).setdefault(kind, []).append(seconds)
        print(f"{path:>8} {kind} {seconds:.2f}", flush=True)

    def median(self, path: str, kind: Any) -> float:
        """Return the median of the repeats."""
        return statistics.median(self.seconds[path][kind])

    def fresh_store(self) -> str:
        """Return the address of a tracking store that knows no run yet; opened, which takes a while."""
        self.stores += 1
        uri = f"sqlite:///{self.root}/store{self.stores}.db"
        open_store(uri, self.root)
        return uri

    def describe(
        self,
        kind: Kind,
        uri: str,
        *,
        lr: float = 1e-3,
        decay: float = 0.01,
        seed: int = 0,
        part: bool = False,
    ) -> RunSpec:
        """Return one run, on all images or on a part of them."""
        share, epochs = (kind.part, PART_EPOCHS) if part else (1, EPOCHS)
        tree = {
            "paths": {"root": str(self.root)},
            "data": {
                "name": "folder", "root": str(self.images), "image_size": 64, "batch_size": kind.batch,
                "test_size": 1000.0 if kind.part == PART else 200.0,
                "labels_per_class": 400 // share, "val_labels_per_class": 50 if kind.part == PART else 10,
            },
            "backbone": {"name": kind.backbone, "weights": self.weights[kind.backbone]},
            "transfer": {
                "method": "from_scratch" if kind.depth < 0 else "fine_tune",
                "freeze_depth": 0 if kind.until else max(0, kind.depth), "freeze_until": kind.until,
            },
            "optim": {"name": "adamw", "lr": lr, "weight_decay": decay},
            "trainer": {"epochs": epochs, "max_validations": 1 if part else epochs, "accelerator": "cpu"},
            "checkpoint": {"keep": "none"},
            "tracking": {"experiment": "bench", "uri": uri},
            "seed": seed,
        }  # fmt: skip
        config = normalise(to_config(tree), grid=True)
        return specify(config, gather_facts(config), grid=True)

    def probes(self, uri: str, rates: int, decays: int, seeds: int) -> list[RunSpec]:
        """Return linear probes over rates, decays and seeds."""
        return [
            self.describe(PROBE, uri, lr=1e-4 * 2**rate, decay=10.0 ** -(1 + decay), seed=seed)
            for seed in range(seeds)
            for decay in range(decays)
            for rate in range(rates)
        ]


def without_reuse(spec: RunSpec) -> RunSpec:
    """Return the same run on the plain path; its key is the same."""
    return replace(spec, config=replace(spec.config, reuse=replace(spec.config.reuse, enabled=False)))


def run_sweep(specs: Sequence[RunSpec], plan: ReusePlan) -> None:
    """Execute runs as a worker of a sweep does."""
    done: set[int] = set()
    for spec in specs:
        group = plan.group_of.get(spec.key)
        siblings: tuple[RunSpec, ...] = ()
        if group is not None and group not in done:
            done.add(group)
            siblings = tuple(
                other for other in specs if other is not spec and plan.group_of.get(other.key) == group
            )
        outcome = execute_job(Job(spec, None, plan.sharing.get(spec.key), siblings))
        assert outcome.status == "finished", outcome


def read_numbers(uri: str, root: Path) -> dict[str, dict[str, float]]:
    """Return the numbers of all runs of a store by run key."""
    records = read_experiment(open_store(uri, root), "bench")
    return {record.run_key: dict(record.metrics) for record in records}


def compare_numbers(bench: Bench, kind: Any, plain: str, shared: str) -> None:
    """Keep the largest difference of any final metric of the runs that two stores share."""
    one, other = read_numbers(plain, bench.root), read_numbers(shared, bench.root)
    found = [
        abs(value - other[key][name])
        for key in one.keys() & other.keys()
        for name, value in one[key].items()
        if name.startswith(("val/", "test/"))
    ]
    if found:  # not every sweep has the run that was trained without reuse
        bench.differences.setdefault(kind, []).append(max(found))


def forget_shared(bench: Bench) -> None:
    """Throw away all stored activations."""
    shutil.rmtree(bench.root / "cache" / "activations", ignore_errors=True)


#: Rate, decay and seed of the probes that are trained without reuse, one in each repeat: both ends of the
#: rates, and every seed.
ALONE = ((1e-4, 0.1, 0), (8e-4, 0.001, 1), (4e-4, 0.01, 2))


def measure_plain_probe(bench: Bench, repeat: int) -> str:
    """Measure one probe without reuse, and what probes cannot avoid; return where it is recorded."""
    uri = bench.fresh_store()
    lr, decay, seed = ALONE[repeat % len(ALONE)]
    spec = without_reuse(bench.describe(PROBE, uri, lr=lr, decay=decay, seed=seed))
    started = time.perf_counter()
    execute(spec)
    bench.note("plain", PROBE, time.perf_counter() - started)
    heads = bench.probes(uri, 3, 2, 1)
    bench.note("bound", PROBE, time_suffixes(heads) / len(heads))
    for seeds in (1, 2, 3):
        bench.note("bound", name_pass(seeds), time_pass(bench.probes(uri, 1, 1, seeds)))
    return uri


def name_pass(seeds: int) -> str:
    """Return what the time of one pass is kept under, of the images that so many seeds draw."""
    return f"pass of {seeds} draws"


def measure_probes(
    bench: Bench, name: str, probes: tuple[int, int, int], kinds: Sequence[Kind], plain: str
) -> None:
    """Measure all probes of a sweep, and the activations that all of its runs share.

    Args:
        bench: Takes the times.
        name: Of the workload.
        probes: Rates, decays and seeds.
        kinds: The other runs of the sweep.
        plain: Where one of the probes is recorded, without reuse.
    """
    shared = bench.fresh_store()
    specs = bench.probes(shared, *probes)
    others = [bench.describe(kind, shared) for kind in kinds if kind.depth > 0]
    forget_shared(bench)
    started = time.perf_counter()
    with watching_memory(bench, name):
        plan = compute_shared(plan_reuse([*specs, *others], workers=1))
        bench.note("prefix", name, time.perf_counter() - started)
        run_sweep(specs, plan)
    bench.note("shared", name, time.perf_counter() - started)
    compare_numbers(bench, name, plain, shared)
    bench.note("disk", name, disk_mb(bench))


class Clock:
    """Reads from a run on a part of the images what the whole one would take.

    Args:
        kind: Of the run.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.seen: list[tuple[int, float]] = []
        self.writes: list[float] = []
        self.started = time.perf_counter()

    def watch(self, step: int, total: int) -> None:
        """Take how far the run is; the last news come after the only validation, at its end."""
        self.seen.append((step, time.perf_counter()))

    @contextlib.contextmanager
    def counting_writes(self) -> Iterator[None]:
        """Time the checkpoints that are written inside."""
        write = Checkpoints.write

        def timed(self_: Checkpoints, state: Any) -> Any:
            started = time.perf_counter()
            try:
                return write(self_, state)
            finally:
                self.writes.append(time.perf_counter() - started)

        Checkpoints.write = timed  # type: ignore[method-assign]
        try:
            yield
        finally:
            Checkpoints.write = write  # type: ignore[method-assign]

    def extend(self, whole: float) -> float:
        """Return the seconds of the whole training: more steps, a validation after each epoch, checkpoints.

        Checkpoints take at most a twentieth of a run, and come at most after every epoch.
        """
        total = self.seen[-1][0]
        steps = [(step, when) for step, when in self.seen if total // 6 <= step < total]
        if len(steps) < 2:  # heads are too fast for more news than one
            steps = [(0, self.started), (total - 1, self.seen[-1][1])]
        pairs = itertools.pairwise(steps)
        step = statistics.median((later - when) / (next_ - now) for (now, when), (next_, later) in pairs)
        last, ended = steps[-1]
        validation = self.seen[-1][1] - ended - (total - last) * step
        wanted = EPOCHS * 4000 // self.kind.batch
        seconds = whole - sum(self.writes) + (wanted - total) * step + (EPOCHS - 1) * max(0.0, validation)
        write = statistics.median(self.writes) if self.writes else 0.0
        return seconds + min(0.05 * seconds, EPOCHS * write)


def measure_kind(bench: Bench, kind: Kind, *, bound: bool = True) -> None:
    """Measure one run of a kind on both paths, and what it cannot avoid; its activations are there.

    The paths come first in turn: one, the other, the other, one.
    """
    plain, shared = bench.fresh_store(), bench.fresh_store()
    paths = [("plain", plain), ("shared", shared)]
    number = len(bench.differences.get(kind, []))
    for path, uri in paths if (number + number // 2) % 2 == 0 else reversed(paths):
        gc.collect()
        spec = bench.describe(kind, uri, part=True)
        plan = compute_shared(plan_reuse([spec], workers=1))
        sharing = plan.sharing.get(spec.key)
        clock = Clock(kind)
        started = time.perf_counter()
        with clock.counting_writes():
            if path == "plain":
                execute(without_reuse(spec), progress=clock.watch)
            else:
                with watching_memory(bench, kind):
                    execute(spec, sharing=sharing, progress=clock.watch)
        bench.note(path, kind, clock.extend(time.perf_counter() - started))
    compare_numbers(bench, kind, plain, shared)
    if bound:
        bench.note("bound", kind, time_parts(bench.describe(kind, plain, part=True), EPOCHS, 4000))


@contextlib.contextmanager
def watching_memory(bench: Bench, kind: Any) -> Iterator[None]:
    """Keep the most memory that this process has resident inside, in MB; Linux alone says so."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    yield
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        peak = next(line for line in lines if line.startswith("VmHWM"))
        bench.note("memory", kind, int(peak.split()[1]) / 1000)


def disk_mb(bench: Bench) -> float:
    """Return what the stored activations take."""
    store = bench.root / "cache" / "activations"
    return sum(file.stat().st_blocks * 512 for file in store.rglob("*") if file.is_file()) / 1e6
