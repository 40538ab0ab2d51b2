"""A backbone that misbehaves on demand: real faults in real processes, without a hook in graft."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"

#: Which fault, by the width that a run asks for: `head.hidden` of an mlp is a knob that travels to every run.
FAULTY = '''
import ctypes
import multiprocessing
import os
import signal
import time
from pathlib import Path

import torch
from torch import nn

torch.fx.wrap("misbehave")

FOLDER = Path(os.environ["FAULTS"])


def first_time(name):
    """Whether this is the first process or call that asks."""
    try:
        (FOLDER / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def fall(fault):
    print(f"about to {fault}", flush=True)
    if fault == "exit":
        os._exit(3)
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "segfault":
        ctypes.string_at(0)
    if fault in ("sleep", "slow"):
        (FOLDER / f"training-{os.getpid()}").touch()
    if fault == "sleep":
        time.sleep(1000)
    if fault == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
    if fault == "raise":
        raise ValueError("no more")
    if fault == "memory":
        raise MemoryError("too much")
    if fault == "slow" and not (FOLDER / "go").exists():
        time.sleep(0.1)


def misbehave(x, fault):
    name, _, times = fault.partition("_")
    if multiprocessing.parent_process() is None or not torch.is_grad_enabled():
        return x
    if not times or first_time(fault):
        fall(name)
    return x


class Faulty(nn.Module):
    def __init__(self, num_classes, channels, fault):
        super().__init__()
        self.fault = fault
        self.first = nn.Conv2d(channels, 4, 3, stride=2)
        self.second = nn.Conv2d(4, 8, 3, stride=2)
        self.classifier = nn.Linear(8, num_classes)

    def forward(self, x):
        x = misbehave(x, self.fault)
        return self.classifier(torch.relu(self.second(torch.relu(self.first(x)))).mean(dim=(2, 3)))


def builder(fault):
    def build(num_classes, image_size, channels):
        return Faulty(num_classes, channels, fault)

    return build


for name in ["exit", "kill", "segfault", "sleep", "freeze", "raise", "memory", "slow", "none",
             "kill_once", "memory_once", "freeze_once"]:
    globals()[f"build_{name}"] = builder(name)
'''
FAULTS = (
    "exit", "kill", "segfault", "sleep", "freeze", "raise", "memory", "slow", "none",
    "kill_once", "memory_once", "freeze_once",
)  # fmt: skip


@pytest.fixture(scope="session")
def faulty_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install a package of backbones ``faulty_<fault>`` where only these tests see it."""
    place = tmp_path_factory.mktemp("faulty")
    (place / "faulty_nets.py").write_text(FAULTY)
    about = place / "faulty_nets-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty-nets\nVersion: 1.0\n")
    points = "\n".join(f"faulty_{fault} = faulty_nets:build_{fault}" for fault in FAULTS)
    (about / "entry_points.txt").write_text(f"[graft.backbones]\n{points}\n")
    return place


#: A sweep of the smallest runs that there are.
SMALL = (
    "data.image_size=12", "data.labels_per_class=2", "data.val_labels_per_class=1", "data.test_size=40",
    "trainer=smoke", "trainer.accelerator=cpu", "sweep.twin=off", "checkpoint.keep=none",
)  # fmt: skip


class Command:
    """Starts ``graft train`` with the faulty backbones, in a process of its own."""

    def __init__(self, package: Path, root: Path) -> None:
        self.root = root
        self.faults = root / "faults"
        self.faults.mkdir(parents=True)
        path = os.pathsep.join([str(package), str(SOURCE)])
        self.environment = {**os.environ, "PYTHONPATH": path, "FAULTS": str(self.faults), "COLUMNS": "240"}

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "graft", "train", *SMALL, f"paths.root={self.root}", *words]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    def __call__(self, *words: str, timeout: float = 500) -> subprocess.CompletedProcess[str]:
        process = self.start(*words)
        try:
            told, complained = process.communicate(timeout=timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess(words, process.returncode, told, complained)

    def training(self, count: int, timeout: float = 400) -> list[int]:
        """Wait until so many workers train slowly, and return their ids."""
        deadline = time.monotonic() + timeout
        while len(found := list(self.faults.glob("training-*"))) < count:
            assert time.monotonic() < deadline, "no worker trains"
            time.sleep(0.1)
        return [int(path.name.partition("-")[2]) for path in found]

    def go(self) -> None:
        """Let slow runs be fast from now on."""
        (self.faults / "go").touch()


@pytest.fixture
def graft_train(faulty_package: Path, tmp_path: Path) -> Command:
    return Command(faulty_package, tmp_path / "runs")


def alive(pids: Iterable[int]) -> list[int]:
    """Return those of ``pids`` whose process lives; a zombie does not."""
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            found.append(pid)
    return found


@pytest.fixture
def processes_of() -> Callable[[str], list[int]]:
    """Find the processes whose environment holds a text, such as the folder of one test."""

    def find(text: str) -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if text.encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except (OSError, ValueError):
                continue
        return alive(found)

    return find
