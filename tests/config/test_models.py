"""`graft models`: what is listed, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from graft.config import models as module
from graft.config.models import list_models, show_models, weights_cache
from graft.config.names import BACKBONES, OWN_BACKBONES
from graft.errors import GraftError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make torch's cache a folder of the test."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def test_every_backbone_is_listed_once() -> None:
    assert tuple(model.name for model in list_models()) == BACKBONES


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("resnet1", ["resnet101", "resnet152", "resnet18", "wide_resnet101_2"]),
        ("resnet1*", ["resnet101", "resnet152", "resnet18"]),
        ("VIT_?_32", ["vit_b_32", "vit_l_32"]),
        ("row_[rg]*", ["row_rnn", "row_gru"]),
    ],
)
def test_a_pattern_is_a_part_of_a_name_or_has_stars(pattern: str, expected: list[str]) -> None:
    assert [model.name for model in list_models(pattern)] == expected


def test_a_file_in_the_cache_is_seen(cache: Path) -> None:
    assert not any(weights.cached for model in list_models() for weights in model.weights)
    cache.mkdir(parents=True)
    (cache / "resnet50-11ad3fa6.pth").write_bytes(b"")
    (model,) = list_models("resnet50")[:1]
    assert [(weights.name, weights.cached) for weights in model.weights] == [
        ("IMAGENET1K_V2", True),
        ("IMAGENET1K_V1", False),
    ]


def test_own_networks_take_bundles(capsys: pytest.CaptureFixture[str]) -> None:
    show_models(["small_cnn"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].split() == ["small_cnn", "-", "-", "any", "bundle", "-", "-"]
    assert all(not model.weights and model.origin == "graft" for model in list_models()[: len(OWN_BACKBONES)])


def test_networks_of_other_packages_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "entry_point_backbones", lambda: ("their_net",))
    assert [(model.name, model.origin) for model in list_models("their")] == [("their_net", "entry point")]


def test_the_table_has_a_line_per_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert show_models(["vit_b_16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["vit_b_16", "86.6", "M", "17.56", "224", "IMAGENET1K_V1", "no", "81.1%"]
    assert [line.split()[0] for line in lines[2:4]] == ["IMAGENET1K_SWAG_E2E_V1", "IMAGENET1K_SWAG_LINEAR_V1"]
    assert max(map(len, lines)) <= 110


def test_json_is_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert show_models(["--json", "alexnet"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {
            "name": "alexnet",
            "origin": "torchvision",
            "parameters": 61100840,
            "gflops": 0.714,
            "native_px": 224,
            "weights": [
                {
                    "name": "IMAGENET1K_V1",
                    "file": "alexnet-owt-7be5be79.pth",
                    "imagenet_accuracy": 0.56522,
                    "cached": False,
                }
            ],
        }
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resnet81"], "one of: resnet18, .*Did you mean 'resnet18'"),
        (["resnet", "vit"], "at most one pattern and `--json`, but got 'resnet vit'"),
        (["--jsn"], "Expected `option` to be one of: --json"),
    ],
)
def test_mistakes_are_said(words: list[str], message: str) -> None:
    with pytest.raises(GraftError, match=message):
        show_models(words)


def test_the_cache_is_where_torch_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    for home, cache in ((str(tmp_path), None), (None, str(tmp_path)), (None, None), ("~/elsewhere", None)):
        for name, value in (("TORCH_HOME", home), ("XDG_CACHE_HOME", cache)):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)
        assert weights_cache() == Path(torch.hub.get_dir()) / "checkpoints"


def test_nothing_heavy_is_imported() -> None:
    program = (
        "import sys; from graft.cli import main; main(['models', 'resnet18']); "
        "print(sorted({'torch', 'hydra', 'numpy', 'mlflow', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
