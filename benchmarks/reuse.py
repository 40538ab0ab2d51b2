"""What sharing saves: sweeps with reuse against the same runs one after another without it, in one process.

    python benchmarks/reuse.py <folder of images> [--weights FILE] [--only probes depths ...]

ResNet-18 at 64x64 on 4,000 training images (500 for validation, 1,000 for test), 10 epochs, AdamW, batches
of 32. Start-up is excluded on both sides; repeats are interleaved, and medians are shown. The **bound** is
what cannot be avoided, run alone: one pass of the shared prefix, and forward, backward, optimizer and
validation of every suffix on ready activations, in a bare loop.

Probes are measured whole: with reuse all of them, without it one of each repeat, times their number. Runs
with trainable stages would take hours, so each *kind* of them is measured on a quarter of the images for 2 of
the 10 epochs: the time inside training counts twenty times, the rest once, and kinds are added up.

It writes reuse.json and reuse.md beside this file. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from reuse_bound import time_pass, time_suffixes, write_random_weights
from torch.utils.flop_counter import FlopCounterMode

from graft import __version__
from graft.config.load import to_config
from graft.plan.arms import normalise
from graft.plan.spec import RunSpec, specify
from graft.run import decode_images, execute, gather_facts
from graft.sweep.reuse import ReusePlan, compute_shared, plan_reuse
from graft.sweep.worker import Job, execute_job
from graft.track.reader import read_experiment
from graft.track.store import open_store

HERE = Path(__file__).parent
REPEATS = 3
EPOCHS = 10
#: Share of the images and number of the epochs that runs with trainable stages are measured on.
PART, PART_EPOCHS = 4, 2
SCALE = PART * EPOCHS / PART_EPOCHS

Kind = tuple[str, int, int]  # backbone, freeze depth or -1 for from scratch, batch size


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
        print(f"{path:>8} {kind} {seconds:.2f} s", flush=True)

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
        self, kind: Kind, uri: str, *, lr: float = 1e-3, seed: int = 0, part: bool = False
    ) -> RunSpec:
        """Return one run."""
        backbone, depth, batch = kind
        share, epochs = (PART, PART_EPOCHS) if part else (1, EPOCHS)
        tree = {
            "paths": {"root": str(self.root)},
            "data": {
                "name": "folder", "root": str(self.images), "image_size": 64, "test_size": 1000.0,
                "labels_per_class": 400 // share, "val_labels_per_class": 52 // share, "batch_size": batch,
            },
            "backbone": {"name": backbone, "weights": self.weights[backbone]},
            "transfer": {"method": "from_scratch" if depth < 0 else "fine_tune", "freeze_depth": max(0, depth)},
            "optim": {"name": "adamw", "lr": lr},
            "trainer": {"epochs": epochs, "max_validations": epochs, "accelerator": "cpu"},
            "checkpoint": {"keep": "none"},
            "tracking": {"experiment": "bench", "uri": uri},
            "seed": seed,
        }  # fmt: skip
        config = normalise(to_config(tree), grid=True)
        return specify(config, gather_facts(config), grid=True)


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
    assert found, "the paths share no run"
    bench.differences.setdefault(kind, []).append(max(found))


def measure_probes(bench: Bench, name: str, specs_of: Any, beside: Any = lambda uri: []) -> None:
    """Measure a sweep's probes once, with what all of its runs share.

    Args:
        bench: Takes the seconds.
        name: Of the workload.
        specs_of: Returns the probes, given a store.
        beside: Returns one run of each deeper kind that the sweep has, given a store.
    """
    plain, shared = bench.fresh_store(), bench.fresh_store()
    one = without_reuse(specs_of(plain)[0])
    started = time.perf_counter()
    execute(one)
    bench.note("plain", (name, "probe"), time.perf_counter() - started)
    specs, others = specs_of(shared), beside(shared)
    shutil.rmtree(bench.root / "cache" / "activations", ignore_errors=True)
    started = time.perf_counter()
    plan = compute_shared(plan_reuse([*specs, *others], workers=1))
    bench.note("prefix", name, time.perf_counter() - started)
    run_sweep(specs, plan)
    bench.note("shared", (name, "probes"), time.perf_counter() - started)
    compare_numbers(bench, name, plain, shared)
    bench.note("bound", (name, "pass"), time_pass([*specs, *others]))
    heads = specs[: min(6, len(specs))]
    bench.note("bound", (name, "probe"), time_suffixes(heads) / len(heads))


def measure_kind(bench: Bench, kind: Kind, *, bound: bool = True) -> None:
    """Measure one run of a kind on both paths, and what it cannot avoid; its activations are there."""
    plain, shared = bench.fresh_store(), bench.fresh_store()
    for path, uri in (("plain", plain), ("shared", shared)):
        spec = bench.describe(kind, uri, part=True)
        plan = compute_shared(plan_reuse([spec], workers=1))
        spec = spec if path == "shared" else without_reuse(spec)
        started = time.perf_counter()
        execute(spec, sharing=plan.sharing.get(spec.key) if path == "shared" else None)
        whole = time.perf_counter() - started
        trained = read_numbers(uri, bench.root)[spec.key]["amortised_seconds"]
        trained -= plan.sharing[spec.key].seconds if path == "shared" and spec.key in plan.sharing else 0.0
        bench.note(path, kind, whole - trained + SCALE * trained)
    compare_numbers(bench, kind, plain, shared)
    if bound:
        bench.note("bound", kind, SCALE * time_suffixes([bench.describe(kind, plain, part=True)]))


@dataclass(frozen=True)
class Row:
    """One workload: its probes, its other kinds with their numbers, and what it must reach."""

    name: str
    claim: str
    probes: int
    kinds: Mapping[Kind, int]
    least_share: float = 0.0
    least_ratio: float = 0.0


def summarise(bench: Bench, row: Row, memory_mb: float, disk_mb: float) -> dict[str, Any]:
    """Return what a row of the table says."""
    plain = sum(count * bench.median("plain", kind) for kind, count in row.kinds.items())
    shared = sum(count * bench.median("shared", kind) for kind, count in row.kinds.items())
    bound = sum(count * bench.median("bound", kind) for kind, count in row.kinds.items()
                if kind in bench.seconds.get("bound", {}))  # fmt: skip
    if row.probes:
        plain += row.probes * bench.median("plain", (row.name, "probe"))
        shared += bench.median("shared", (row.name, "probes"))
        bound += bench.median("bound", (row.name, "pass"))
        bound += row.probes * bench.median("bound", (row.name, "probe"))
    ratio, limit = plain / shared, plain / bound if bound else float("nan")
    different = [one for kind in (row.name, *row.kinds) for one in bench.differences.get(kind, [])]
    holds = ratio >= row.least_ratio and (not row.least_share or ratio / limit >= row.least_share)
    return {
        "workload": row.name, "claim": row.claim, "plain_s": plain, "shared_s": shared, "ratio": ratio,
        "bound": limit, "share_of_bound": ratio / limit, "largest_difference": max(different),
        "peak_memory_mb": memory_mb, "disk_mb": disk_mb, "holds": holds,
    }  # fmt: skip


def count_flops(bench: Bench, row: Row) -> float:
    """Return how many times more multiplications the plain path needs than the shared one.

    A backward pass counts as two forward ones, where anything trains.
    """
    from graft.inputs import build_model, open_view

    plain = shared = 0.0
    kinds = {**row.kinds, **({("resnet18", 5, 32): row.probes} if row.probes else {})}
    images, deepest = (EPOCHS * 4000.0, EPOCHS * 520.0), {}
    for (backbone, depth, batch), count in kinds.items():
        spec = bench.describe((backbone, depth, batch), bench.fresh_store())
        view = open_view(spec)
        model = build_model(spec, view.images)[0].backbone
        x, stages = torch.zeros(1, 3, 64, 64), []
        for stage in range(1, 6):
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                x = model.stage(stage)(x)
            stages.append(counter.get_total_flops())
        frozen = sum(stages[: max(0, depth)])
        free = sum(stages) - frozen
        both = images[0] * 3 * free + images[1] * free
        plain += count * (both + sum(images) * frozen)
        shared += count * both
        deepest[backbone] = max(deepest.get(backbone, 0.0), frozen * 5520)
    return plain / (shared + sum(deepest.values()))


def describe_machine() -> dict[str, Any]:
    """Return the date, the machine and the versions."""
    return {
        "date": datetime.now(UTC).date().isoformat(), "cpu": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)), "torch threads": torch.get_num_threads(),
        "python": platform.python_version(), "graft": __version__, "torch": torch.__version__,
        "pytorch-lightning": version("pytorch-lightning"), "mlflow": version("mlflow"),
    }  # fmt: skip


def probes(bench: Bench, uri: str, rates: int, decays: int, seeds: int) -> list[RunSpec]:
    """Return linear probes over rates, decays and seeds."""
    found = []
    for seed in range(seeds):
        for number in range(rates * decays):
            spec = bench.describe(("resnet18", 5, 32), uri, lr=1e-4 * 2 ** (number % rates), seed=seed)
            decay = 10.0 ** -(number // rates + 1)
            config = replace(spec.config, optim=replace(spec.config.optim, weight_decay=decay))
            found.append(specify(config, spec.facts, grid=True))
    return found


def disk_mb(bench: Bench) -> float:
    """Return what the stored activations take."""
    store = bench.root / "cache" / "activations"
    return sum(file.stat().st_blocks * 512 for file in store.rglob("*") if file.is_file()) / 1e6


R18 = "resnet18"
ROWS = (
    Row("36 linear probes (12 rates x decays, 3 seeds)", "60x, 0.8 of the bound", 36, {}, 0.8, 60.0),
    Row("depths 5, 4, 3 x 4 rates x 2 seeds", "0.85 of the bound", 8, {(R18, 4, 32): 8, (R18, 3, 32): 8}, 0.85),
    Row(
        "depths 5, 4, 3, 0 and from scratch x 3 rates", "0.9 of the bound", 3,
        {(R18, 4, 32): 3, (R18, 3, 32): 3, (R18, 0, 32): 3, (R18, -1, 32): 3}, 0.9,
    ),
    Row("depth 0 and from scratch only, 3 rates", "0.98x (never slower)", 0,
        {(R18, 0, 32): 3, (R18, -1, 32): 3}, 0.0, 0.98),
)  # fmt: skip


def measure_rows(bench: Bench, repeats: int) -> list[dict[str, Any]]:
    """Measure the table, repeats interleaved."""
    spread = {0: (4, 3, 3), 1: (4, 1, 2), 2: (3, 1, 1)}
    disk: dict[int, float] = {3: 0.0}
    for _ in range(repeats):
        for place, row in enumerate(ROWS[:3]):
            deeper = [kind for kind in row.kinds if kind[1] > 0]
            measure_probes(
                bench, row.name, lambda uri, shape=spread[place]: probes(bench, uri, *shape),
                lambda uri, kinds=deeper: [bench.describe(kind, uri) for kind in kinds],
            )  # fmt: skip
            disk[place] = disk_mb(bench)
        for kind in ROWS[2].kinds:
            measure_kind(bench, kind)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows = []
    for place, row in enumerate(ROWS):
        rows.append(summarise(bench, row, memory, disk[place]) | {"flop_ratio": count_flops(bench, row)})
    return rows


def write_report(out: Mapping[str, Any], folder: Path) -> None:
    """Write reuse.json, and reuse.md for people."""
    (folder / "reuse.json").write_text(json.dumps(out, indent=1) + "\n")
    lines = [
        "# What sharing saves",
        "",
        ", ".join(f"{key} {value}" for key, value in out["machine"].items()) + ".",
    ]
    lines += ["", __doc__.split("\n\n", 2)[2].strip(), ""]
    columns = (
        "workload", "without, s", "with, s", "ratio", "bound", "ratio / bound", "FLOP ratio",
        "largest difference of a metric", "peak memory, MB", "disk, MB", "claim", "holds",
    )  # fmt: skip
    lines += [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for row in out["rows"]:
        lines.append(
            f"| {row['workload']} | {row['plain_s']:.0f} | {row['shared_s']:.0f} | {row['ratio']:.2f} "
            f"| {row['bound']:.2f} | {row['share_of_bound']:.2f} | {row['flop_ratio']:.1f} "
            f"| {row['largest_difference']:.2g} | {row['peak_memory_mb']:.0f} | {row['disk_mb']:.0f} "
            f"| {row['claim']} | {'yes' if row['holds'] else '**no**'} |"
        )
    for title, text in out["more"].items():
        lines += ["", f"## {title}", "", text]
    (folder / "reuse.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Measure, and write what came out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument(
        "--weights", help="state dict of ResNet-18 as safetensors; as drawn where there is none"
    )
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        weights = {R18: asked.weights or write_random_weights(root, R18)}
        weights["resnet50"] = write_random_weights(root, "resnet50")
        bench = Bench(root, asked.images.resolve(), weights)
        decode_images(bench.describe((R18, 5, 32), bench.fresh_store()))
        execute(
            bench.describe((R18, 5, 32), bench.fresh_store(), part=True)
        )  # imports, kernels, checks: start-up
        rows = measure_rows(bench, asked.repeats)
        seconds = {
            path: {str(kind): each for kind, each in table.items()} for path, table in bench.seconds.items()
        }
        out = {"machine": describe_machine(), "rows": rows, "more": {}, "seconds": seconds}
        write_report(out, asked.out)
    raise SystemExit(0 if all(row["holds"] for row in rows) else 1)


if __name__ == "__main__":
    main()
