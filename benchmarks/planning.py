"""How long it takes to plan a sweep of 1,000 runs that are finished already, on a real store.

Claim: composed, checked, keyed and found finished within 15 s, the start of the process included.
Composing each run by Hydra alone would cost 40 s. Beside the time that passes stands the time of the
processor, which other work on the machine changes less.

``python benchmarks/planning.py`` writes ``planning.json`` and ``planning.md`` beside it.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode

from graft import __version__
from graft.config.load import conf_folder, register_schema
from graft.plan.spec import RunSpec
from graft.run import gather_facts
from graft.sweep.grid import compose_cells
from graft.sweep.nodes import register_plugins
from graft.sweep.planner import make_plan
from graft.track.reader import finished_runs
from graft.track.store import Store, open_store
from graft.track.writer import start_run, start_sweep

HERE = Path(__file__).parent
REPEATS = 3
MOST_SECONDS = 15.0
#: 1,000 runs: 5 arms with their twin, 8 rates, 5 label budgets, 5 seeds.
AXES = (
    "backbone=small_cnn",
    "transfer.method=random_features,from_scratch",
    "transfer.freeze_depth=1,2,3,4",
    "optim.lr=1e-4,3e-4,1e-3,3e-3,1e-2,3e-2,1e-1,3e-1",
    "data.labels_per_class=1,2,5,10,20",
    "seed=range(5)",
)


def plan(root: Path) -> tuple[list[RunSpec], dict[str, float]]:
    """Return the runs of the sweep, and the processor's seconds of each part of planning them."""
    seconds: dict[str, float] = {}

    @contextmanager
    def timing(part: str) -> Iterator[None]:
        started = time.process_time()
        yield
        seconds[part] = time.process_time() - started

    register_schema()
    register_plugins()
    loader = ConfigLoaderImpl(create_config_search_path(str(conf_folder())))
    words = [*AXES, f"paths.root={root}"]
    with timing("compose"):
        master = loader.load_configuration("train", words, RunMode.MULTIRUN)
        cells = compose_cells(loader, master, words)
    with timing("find finished"):
        finished = finished_runs(open_store(None, root))
    with timing("check and key"):
        planned = make_plan(cells, gather_facts, finished)
    return list(planned.specs), seconds


def fill(store: Store, specs: list[RunSpec]) -> None:
    """Record the runs as finished, with the numbers that a short run has."""
    parent = start_sweep(store, "default", specs, "graft train -m")
    for spec in specs:
        writer = start_run(store, spec, parent_id=parent.run_id, notes={"notes": ""})
        names = ["train/loss", "val/loss", "val/accuracy", "val/macro_f1"]
        for step in (10, 20, 30):
            writer.record(dict.fromkeys(names, 0.5), step)
        writer.record({"test/accuracy": 0.5, "run_seconds": 1.0}, 30)
        writer.end("finished")
    parent.end("finished")


def ask(root: Path) -> tuple[float, float, str]:
    """Ask for the sweep as a person does, and return its seconds, those of the processor, and its words."""
    command = [
        sys.executable,
        "-m",
        "graft",
        "train",
        "-m",
        *AXES,
        f"paths.root={root}",
        "sweep.dry_run=true",
    ]
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    said = next(line for line in done.stdout.splitlines() if "done already" in line)
    return time.perf_counter() - started, busy, said


def describe_machine() -> dict[str, str]:
    info = Path("/proc/cpuinfo")
    names = (
        [line for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": names[0].partition(":")[2].strip() if names else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "load before": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "graft": __version__,
    } | {package: version(package) for package in ("mlflow", "hydra-core")}


def main() -> int:
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        specs, _ = plan(root)
        fill(open_store(None, root), specs)
        parts = [plan(root)[1] for _ in range(REPEATS)]
        asked = [ask(root) for _ in range(REPEATS)]
    medians = {part: statistics.median(each[part] for each in parts) for part in parts[0]}
    whole, busy = (statistics.median(each[index] for each in asked) for index in (0, 1))
    holds = whole <= MOST_SECONDS
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    lines = [
        f"# Planning a sweep of {len(specs):,} runs that are finished",
        "",
        f"Medians of {REPEATS}, in seconds. {facts}.",
        "",
        "| runs | " + " | ".join(f"{part}, CPU" for part in medians)
        + " | the whole command, CPU | the whole command | claim holds |",
        "|---|" + "---|" * (len(medians) + 3),
        f"| {len(specs)} | " + " | ".join(f"{seconds:.2f}" for seconds in medians.values())
        + f" | {busy:.1f} | {whole:.1f} | {'yes' if holds else 'NO'} |",
        "",
        f"Claim: at most {MOST_SECONDS:g} s, from the start of the process to the plan on the screen:",
        "",
        f"    graft train -m {' '.join(AXES)} sweep.dry_run=true",
        "",
        f"which ends with: {asked[-1][2]}",
    ]  # fmt: skip
    text = "\n".join(lines) + "\n"
    print(text)
    stored = {
        "machine": machine,
        "repeats": REPEATS,
        "runs": len(specs),
        "cpu_seconds": medians | {"whole": busy},
        "whole_seconds": whole,
    }
    (HERE / "planning.json").write_text(json.dumps(stored, indent=1) + "\n")
    (HERE / "planning.md").write_text(text)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
