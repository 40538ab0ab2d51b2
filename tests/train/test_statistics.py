from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from graft.config.schema import Config
from graft.train.statistics import count_statistics, explain_statistics

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
    assert explain_statistics(2)[0].startswith("BatchNorm trains on each of 2 parts of a batch by itself")
