"""A sweep that is killed at random moments ends as if nothing had happened: the benchmark, shortened."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "torture.py"


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("runs", "kills", "steps"), [(4, 2, 60), pytest.param(8, 12, 400, marks=pytest.mark.full)]
)
def test_a_tortured_sweep_ends_like_an_undisturbed_one(runs, kills, steps, tmp_path):
    words = ["--runs", runs, "--kills", kills, "--steps", steps, "--seed", 3]
    words += ["--out", tmp_path, "--root", tmp_path / "root"]
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *map(str, words)], capture_output=True, text=True, check=False
    )
    record = json.loads((tmp_path / "torture.json").read_text())
    faults = {name: found for name, found in record["faults"].items() if found}
    # A short sweep may be over before the last kill: that is no fault of it.
    faults.pop("every kill was dealt", None)
    assert not faults, done.stdout + done.stderr
    assert record["tortured"]["kills"]
