"""The package that docs/own_backbone.md shows installs and trains: the document is the test's material."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "own_backbone.md"
SOURCE = PAGE.parents[1] / "src"


def files_of(page: str) -> dict[str, str]:
    """Read the files that a page shows: a line with nothing but a name, then a block with the content."""
    return dict(re.findall(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Install the example where only these tests see it."""
    place = tmp_path_factory.mktemp("own_backbone")
    package, target = place / "tiny_net", place / "installed"
    package.mkdir()
    for name, content in files_of(PAGE.read_text()).items():
        (package / name).write_text(content)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--disable-pip-version-check"]
    command = [*pip, "--no-deps", "--no-build-isolation", "--target", str(target), str(package)]
    installed = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert installed.returncode == 0, installed.stderr
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(target), str(SOURCE)])}


def graft(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "graft", *words], env=environment, capture_output=True, text=True, timeout=200
    )


def test_the_page_shows_both_files() -> None:
    assert sorted(files_of(PAGE.read_text())) == ["pyproject.toml", "tiny_net.py"]


def test_the_example_trains(environment: dict[str, str], tmp_path: Path) -> None:
    done = graft(
        environment, "train", "backbone.name=tiny_net", "trainer=smoke", "transfer=random_features",
        "transfer.freeze_depth=3", f"paths.root={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "tiny_net" in done.stdout
    assert "frozen: stage1, stage2, stage3;" in done.stdout


def test_it_is_listed(environment: dict[str, str]) -> None:
    listed = json.loads(graft(environment, "models", "tiny_net", "--json").stdout)
    assert [(model["name"], model["origin"], model["weights"]) for model in listed] == [
        ("tiny_net", "entry point", [])
    ]


def test_every_stage_of_it_holds_a_block(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "graft.model.table", "tiny_net"]
    table = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200).stdout
    assert [f"features.{index}.2" in table for index in range(5)] == [True] * 4 + [False]
    assert "(empty)" not in table


def test_a_wrong_name_lists_it_among_the_choices(environment: dict[str, str], tmp_path: Path) -> None:
    done = graft(environment, "train", "backbone.name=tiny_nett", f"paths.root={tmp_path}")
    assert done.returncode == 2
    assert "Did you mean 'tiny_net'?" in done.stderr
