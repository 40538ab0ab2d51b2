from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from graft.config.schema import Config
from graft.errors import GraftError
from graft.train.statistics import (
    check_compiler,
    check_hardware,
    check_precision,
    count_statistics,
    explain_statistics,
)

Configure = Callable[..., Config]


@pytest.mark.parametrize(("backbone", "trains_until"), [("small_cnn", 5), ("cnn2", 0)])
@pytest.mark.parametrize("depth", range(6))
def test_parts_count_where_a_batch_norm_trains(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, backbone: str, trains_until: int, depth: int
) -> None:
    config = configure(
        backbone__name=backbone, transfer__freeze_depth=depth, trainer__devices=2, trainer__accumulate=3
    )
    trains = depth < trains_until
    assert count_statistics(config, channels=1, image_size=16) == (6 if trains else 1)
    # GPUs share the statistics of their parts of a micro-batch.
    config.trainer.accelerator = "gpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert count_statistics(config, channels=1, image_size=16) == (3 if trains else 1)


def test_nothing_is_built_for_one_process(configure: Configure) -> None:
    assert count_statistics(configure(backbone__name="?"), channels=1, image_size=16) == 1


def test_random_numbers_are_not_drawn(configure: Configure) -> None:
    before = torch.get_rng_state()
    config = configure(backbone__name="small_cnn", trainer__devices=2)
    count_statistics(config, channels=3, image_size=24)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_user_is_told() -> None:
    assert explain_statistics(1) == []
    assert explain_statistics(2)[0].startswith("A batch falls into 2 parts (processes, micro-batches)")


def test_parts_count_where_each_draws_at_random(configure: Callable[..., Config]) -> None:
    plain = {"backbone__name": "cnn2", "trainer__accumulate": 2}
    assert count_statistics(configure(**plain), channels=1, image_size=16) == 1
    for chance in (
        {"augment__name": "flip_crop"},
        {"head__name": "mlp", "head__dropout": 0.5},
        {"backbone__name": "efficientnet_b0"},
    ):
        channels = 3 if "backbone__name" in chance else 1
        assert count_statistics(configure(**(plain | chance)), channels=channels, image_size=32) == 2


def test_hardware_that_is_not_there_is_named(configure: Callable[..., Config], monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    check_hardware(configure(trainer__accelerator="gpu").trainer)
    with pytest.raises(GraftError, match="2 of them, but this machine has 1"):
        check_hardware(configure(trainer__accelerator="gpu", trainer__devices=2).trainer)
    for name in ("SLURM_NTASKS", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(GraftError, match="by srun or torchrun"):
        check_hardware(configure(trainer__num_nodes=2).trainer)


def test_half_precision_needs_an_accelerator(configure: Callable[..., Config], monkeypatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    with pytest.raises(GraftError, match=r"Expected a GPU for `trainer.precision=16-mixed`"):
        check_precision(configure(trainer__precision="16-mixed").trainer)
    check_precision(configure(trainer__precision="bf16-mixed").trainer)


def test_compiling_needs_a_compiler(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config as inductor

    trainer = configure(trainer__compile=True, trainer__accelerator="cpu").trainer
    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    check_compiler(configure(trainer__compile=False).trainer)
    with pytest.raises(GraftError, match=r"Expected a C\+\+ compiler .* for `trainer.compile=true`, but"):
        check_compiler(trainer)
    monkeypatch.setattr("graft.train.statistics.runs_on_gpu", lambda trainer: True)
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: False)
    with pytest.raises(GraftError, match=r"Expected Triton .* for `trainer.compile=true`"):
        check_compiler(trainer)
