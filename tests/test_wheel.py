"""An installed wheel carries the configuration and works from anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
ENTRY = "import sys; from graft.cli import main; sys.exit(main())"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Build the wheel without network and install it into a folder of its own."""
    pytest.importorskip("hatchling", reason="hatchling builds the wheel; it is in the extra `dev`")
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    no_network = ["--no-deps", "--no-index"]
    build = [*pip, "wheel", *no_network, "--no-build-isolation", "--wheel-dir", str(folder), str(CHECKOUT)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (wheel,) = folder.glob("*.whl")
    target = folder / "site"
    subprocess.run(
        [*pip, "install", *no_network, "--target", str(target), str(wheel)], check=True, capture_output=True
    )
    return target


def run_installed(installed, tmp_path, *command):
    """Run python in an unrelated folder, with the wheel and its dependencies but without the checkout.

    ``-S`` leaves out the path files of an editable installation, which would bring the checkout back.
    """
    paths = os.pathsep.join([str(installed), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    return subprocess.run(
        [sys.executable, "-S", *command],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("start", [["-c", ENTRY], ["-m", "graft"]], ids=["console script", "python -m"])
def test_it_composes_from_an_unrelated_folder(start, installed, tmp_path):
    done = run_installed(installed, tmp_path, *start, "train", "--cfg", "job", "transfer=fine_tune")
    assert done.returncode == 0, done.stderr
    assert "method: fine_tune" in done.stdout
    assert not list(tmp_path.iterdir())


def test_it_is_the_wheel_that_answers(installed, tmp_path):
    code = "import graft, graft.config.load as load; print(graft.__file__); print(load.conf_folder())"
    done = run_installed(installed, tmp_path, "-c", code)
    source, conf = done.stdout.splitlines()
    assert Path(source).parent == installed / "graft"
    assert Path(conf) == installed / "graft" / "conf"


def test_it_carries_every_file(installed):
    for carried, original in (
        ("graft/conf", "conf"),
        ("graft", "src/graft"),
        ("hydra_plugins", "src/hydra_plugins"),
    ):
        wanted = {
            path.relative_to(CHECKOUT / original)
            for path in (CHECKOUT / original).rglob("*")
            if path.is_file() and path.suffix not in (".pyc",)
        }
        assert wanted
        assert not [path for path in wanted if not (installed / carried / path).is_file()]


def test_its_sweeper_is_found(installed, tmp_path):
    done = run_installed(installed, tmp_path, "-m", "graft", "train", "-m", "optim.lr=1,fast")
    assert done.returncode == 2
    assert "Expected `optim.lr` to be a number, but got 'fast'." in done.stderr
