"""A sweep whose driver and workers are killed at random moments, and asked for again until it is done.

Claims, of 40 short runs and 100 kills:

* Every run is finished exactly once, with the numbers, predictions and weights of an undisturbed sweep.
* No process is left over, no run says RUNNING, no file that graft wrote is unreadable or half written.
* The optimizer steps taken are at most 1.15 times those of the undisturbed sweep plus one epoch per kill.

``python benchmarks/torture.py`` takes about half an hour and writes ``torture.json`` and ``torture.md``
beside it; ``--runs 6 --kills 2 --out <folder>`` is a short one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors import safe_open

HERE = Path(__file__).parent
EXPERIMENT = "torture"
#: Marks every process of a tortured sweep, so that none can hide.
MARK = "GRAFT_TORTURE"
MOST_WORK = 1.15
#: Metrics that are times, which no two sweeps share.
TIMES = ("train_seconds", "amortised_seconds", "run_seconds")

#: Put on the path of all processes: writes one byte for every training step that is taken.
COUNTER = """
import importlib.abc, importlib.machinery, os, sys


class _Counting(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "graft.train.task":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            train = module.TransferTask.training_step
            place = os.path.join(os.environ["GRAFT_TORTURE"], f"steps-{os.getpid()}")
            counter = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

            def training_step(self, batch, number):
                os.write(counter, b".")
                return train(self, batch, number)

            module.TransferTask.training_step = training_step

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _Counting())
"""


@dataclass
class Ordeal:
    """What was done to a sweep, and what it cost.

    Attributes:
        kills: How often each (victim, signal) was killed.
        starts: How often the command was given.
        seconds: From the first start to the last end.
        steps: Training steps taken, by all processes together.
    """

    kills: dict[str, int] = field(default_factory=dict)
    starts: int = 0
    seconds: float = 0.0
    steps: int = 0


def command(root: Path, runs: int, steps: int, workers: int) -> list[str]:
    """Return the command of the sweep: two rates, half as many seeds as runs."""
    words = [
        "experiment=null", "data=digits", "data.labels_per_class=20", "data.image_size=12",
        "data.batch_size=16", "backbone=small_cnn", "transfer=from_scratch",
        "optim.lr=1e-3,3e-3", f"seed=range({runs // 2})",
        f"trainer.min_steps={steps}", "trainer.epochs=1", "trainer.max_validations=10",
        "trainer.accelerator=cpu", "checkpoint.keep=all", f"sweep.workers={workers}",
        f"tracking.experiment={EXPERIMENT}", f"paths.root={root}",
    ]  # fmt: skip
    return [sys.executable, "-m", "graft", "train", "-m", *words[1:]]


def start(words: list[str], mark: Path, log: Path) -> subprocess.Popen[bytes]:
    (mark / "path").mkdir(parents=True, exist_ok=True)
    (mark / "path" / "sitecustomize.py").write_text(COUNTER)
    path = os.pathsep.join([str(mark / "path"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {MARK: str(mark), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    with log.open("ab") as out:
        return subprocess.Popen(
            words, env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True
        )


def find_marked(mark: Path) -> list[int]:
    """Return the living processes of a sweep, zombies left out."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z" and wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def workers_of(driver: int, mark: Path) -> list[int]:
    """Return the driver's children that execute runs."""
    found = []
    for pid in find_marked(mark):
        try:
            words = (Path("/proc") / str(pid) / "cmdline").read_bytes()
            parent = int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == driver and b"spawn_main" in words:
            found.append(pid)
    return found


def count_steps(mark: Path) -> int:
    return sum(file.stat().st_size for file in mark.glob("steps-*"))


def run_undisturbed(words: list[str], mark: Path) -> Ordeal:
    began = time.monotonic()
    process = start(words, mark, mark / "log.txt")
    if process.wait() != 0:
        raise SystemExit((mark / "log.txt").read_text()[-3000:])
    return Ordeal({}, 1, time.monotonic() - began, count_steps(mark))


def torment(words: list[str], mark: Path, kills: int, seed: int) -> Ordeal:
    """Give the command again and again, killing the driver or a worker each time, then let it finish."""
    rng, ordeal, began = random.Random(seed), Ordeal(), time.monotonic()
    while True:
        process = start(words, mark, mark / "log.txt")
        ordeal.starts += 1
        while sum(ordeal.kills.values()) < kills and process.poll() is None:
            await_work(process, mark)
            time.sleep(rng.uniform(0.0, 2.5))
            kill_something(process, mark, rng, ordeal)
        code = process.wait()
        if sum(ordeal.kills.values()) >= kills and code == 0:
            break
        if ordeal.starts > kills + 20:
            raise SystemExit("the sweep never ended:\n" + (mark / "log.txt").read_text()[-3000:])
        if code == 0:
            print(f"finished after {sum(ordeal.kills.values())} kills: make the runs longer")
            break
    ordeal.seconds, ordeal.steps = time.monotonic() - began, count_steps(mark)
    return ordeal


def await_work(process: subprocess.Popen[bytes], mark: Path) -> None:
    """Wait until a step was taken since now, or the sweep ended."""
    before = count_steps(mark)
    while process.poll() is None and count_steps(mark) == before:
        time.sleep(0.05)


def kill_something(process: subprocess.Popen[bytes], mark: Path, rng: random.Random, ordeal: Ordeal) -> None:
    workers = workers_of(process.pid, mark)
    victim, number = (
        ("driver", process.pid) if rng.random() < 0.5 or not workers else ("worker", rng.choice(workers))
    )
    how = rng.choice((signal.SIGKILL, signal.SIGTERM))
    if process.poll() is not None:
        return
    try:
        os.kill(number, how)
    except ProcessLookupError:
        return
    dealt = f"{victim} {how.name}"
    ordeal.kills[dealt] = ordeal.kills.get(dealt, 0) + 1
    if victim == "driver":
        process.wait()


def read_results(root: Path) -> dict[str, dict[str, object]]:
    """Return of every run key: its numbers but times, its predictions, its weights."""
    from graft.track.reader import read_experiment
    from graft.track.store import open_store

    store = open_store(None, root)
    found: dict[str, dict[str, object]] = {}
    for record in read_experiment(store, EXPERIMENT):
        metrics = {name: value for name, value in record.metrics.items() if name not in TIMES}
        place = store.client.get_run(record.run_id).info.artifact_uri.removeprefix("file://")
        with np.load(Path(place) / "predictions.npz") as predictions:
            metrics |= {name: predictions[name].tobytes() for name in predictions}
        with safe_open(root / "checkpoints" / record.run_key / "weights.safetensors", "np") as weights:
            metrics |= {name: weights.get_tensor(name).tobytes() for name in weights.keys()}  # noqa: SIM118
        found[record.run_key] = metrics | {"status": record.status}
    return found


def inspect_store(root: Path) -> list[str]:
    """Return what is wrong with the record: runs that are open, done twice, or have doubled steps."""
    from graft.track.store import open_store

    client = open_store(None, root).client
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    faults, finished = [], Counter[str]()
    for run in client.search_runs([experiment], max_results=5000):
        if run.info.status == "RUNNING":
            faults.append(f"{run.info.run_id} is still RUNNING")
        if run.data.tags.get("graft.kind") != "run":
            continue
        if run.info.status == "FINISHED":
            finished[run.data.tags["graft.run_key"]] += 1
            for name in ("train/loss", "val/accuracy", "val/loss"):
                steps = [metric.step for metric in client.get_metric_history(run.info.run_id, name)]
                # The chosen validation is written once more at the end, at the last step.
                doubled = [step for step, count in Counter(steps).items() if count > 1 and step != max(steps)]
                faults += [f"{run.info.run_id}: {name} twice at steps {doubled}"] if doubled else []
    faults += [f"{key} was finished {count} times" for key, count in finished.items() if count != 1]
    return faults


def inspect_files(root: Path) -> list[str]:
    """Return files that cannot be read, and files that were meant to be renamed and never were."""
    faults = []
    for path in sorted(root.rglob("*")):
        if not path.is_file():
            continue
        try:
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".npz":
                with np.load(path) as arrays:
                    [arrays[name] for name in arrays]
            elif path.suffix == ".safetensors":
                with safe_open(path, "np") as tensors:
                    [tensors.get_tensor(name) for name in tensors.keys()]  # noqa: SIM118
        except Exception as error:
            faults.append(f"{path.relative_to(root)}: {error}")
        if path.suffix in (".part", ".tmp") or path.name.startswith(".writable"):
            faults.append(f"{path.relative_to(root)} was left behind")
    return faults


def compare_results(plain: dict[str, dict[str, object]], tortured: dict[str, dict[str, object]]) -> list[str]:
    faults = [f"{key} is in one sweep only" for key in plain.keys() ^ tortured.keys()]
    for key in plain.keys() & tortured.keys():
        names = plain[key].keys() | tortured[key].keys()
        faults += [
            f"{key}: {name} differs"
            for name in sorted(names)
            if plain[key].get(name) != tortured[key].get(name)
        ]
    return faults


def describe_machine() -> dict[str, str]:
    packages = ("torch", "pytorch-lightning", "mlflow", "hydra-core")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Kill a sweep again and again; it must end as if nothing happened."
    )
    parser.add_argument("--runs", type=int, default=40, help="runs of the sweep, an even number")
    parser.add_argument("--kills", type=int, default=100, help="kills in all")
    parser.add_argument("--steps", type=int, default=1000, help="optimizer steps of a run, in ten epochs")
    parser.add_argument("--workers", type=int, default=2, help="worker processes")
    parser.add_argument("--seed", type=int, default=0, help="draws victims, signals and moments")
    parser.add_argument("--out", type=Path, default=HERE, help="where torture.json and torture.md go")
    parser.add_argument("--root", type=Path, help="where the sweeps are kept; a temporary folder without")
    asked = parser.parse_args()
    base = asked.root or Path(tempfile.mkdtemp(prefix="graft-torture-"))
    roots = {name: base / name for name in ("plain", "tortured")}
    marks = {name: base / f"{name}-marks" for name in roots}
    for mark in marks.values():
        mark.mkdir(parents=True, exist_ok=True)
    orders = {name: command(root, asked.runs, asked.steps, asked.workers) for name, root in roots.items()}
    plain = run_undisturbed(orders["plain"], marks["plain"])
    print(f"undisturbed: {plain.seconds:.0f} s, {plain.steps} steps", flush=True)
    tortured = torment(orders["tortured"], marks["tortured"], asked.kills, asked.seed)
    print(f"tortured: {tortured.seconds:.0f} s, {tortured.steps} steps, {tortured.kills}", flush=True)
    time.sleep(2.0)
    orphans = [f"process {pid} is left over" for pid in find_marked(marks["tortured"])]
    kills = sum(tortured.kills.values())
    epoch = asked.steps // 10
    allowed = MOST_WORK * plain.steps + kills * epoch
    checks = {
        "every kill was dealt": [] if kills >= asked.kills else [f"{kills} of {asked.kills}"],
        "every run exactly once": inspect_store(roots["tortured"]),
        "results of the undisturbed sweep": compare_results(*map(read_results, roots.values())),
        "no process left over": orphans,
        "no unreadable or forgotten file": inspect_files(roots["tortured"]),
        "work within bounds": [] if tortured.steps <= allowed else [f"{tortured.steps} > {allowed:.0f}"],
    }
    write(asked.out, asked, plain, tortured, checks, allowed)
    if asked.root is None:
        shutil.rmtree(base, ignore_errors=True)
    for name, faults in checks.items():
        print(f"{'ok' if not faults else 'FAILED':7} {name}", *faults[:5], sep="\n        ")
    return int(any(checks.values()))


def write(
    out: Path,
    asked: argparse.Namespace,
    plain: Ordeal,
    tortured: Ordeal,
    checks: dict[str, list[str]],
    allowed: float,
) -> None:
    machine = describe_machine()
    out.mkdir(parents=True, exist_ok=True)
    record = {
        "machine": machine, "runs": asked.runs, "steps_per_run": asked.steps, "workers": asked.workers,
        "plain": asdict(plain), "tortured": asdict(tortured), "steps_allowed": allowed, "faults": checks,
    }  # fmt: skip
    (out / "torture.json").write_text(json.dumps(record, indent=1) + "\n")
    kills = "\n".join(f"| {name} | {count} |" for name, count in sorted(tortured.kills.items()))
    held = "\n".join(
        f"| {name} | {'yes' if not faults else 'NO: ' + faults[0]} |" for name, faults in checks.items()
    )
    about = ", ".join(f"{name} {value}" for name, value in machine.items())
    text = f"""\
        # A sweep that is killed again and again

        {asked.runs} runs of {asked.steps} optimizer steps in ten epochs, {asked.workers} workers; the same
        command after each kill of the driver. {about}.

        | | undisturbed | tortured |
        |---|---|---|
        | seconds | {plain.seconds:.0f} | {tortured.seconds:.0f} |
        | starts of the command | {plain.starts} | {tortured.starts} |
        | optimizer steps taken | {plain.steps} | {tortured.steps} |
        | steps allowed ({MOST_WORK} times, and an epoch per kill) | | {allowed:.0f} |

        | kill | times |
        |---|---|
        @kills

        | claim | holds |
        |---|---|
        @held
        """
    text = textwrap.dedent(text).replace("@kills", kills).replace("@held", held)
    (out / "torture.md").write_text(text)


if __name__ == "__main__":
    sys.exit(main())
