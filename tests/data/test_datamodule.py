from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from graft.config.schema import AugmentConfig
from graft.data.batches import Batch
from graft.data.datamodule import ImageDataModule
from graft.data.preprocessing import Preprocessing
from graft.data.schedule import BatchSchedule
from graft.data.splits import Split
from graft.data.transforms import build_augmentation, normalise, seed_generator
from graft.errors import GraftError

# Lightning calls a deprecated name of torch; and it advises more workers where there are more
# cores, and the saving callback again where a test resumes without it.
pytestmark = [
    pytest.mark.filterwarnings(r"ignore:.isinstance\(treespec, LeafSpec\):FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path"),
]

COUNT = 60
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 1, 8, 8), dtype=np.uint8)
LABELS = np.arange(COUNT, dtype=np.int64) % 3
SPLIT = Split(np.arange(0, 23), np.arange(23, 40), np.arange(40, 60), "digest")
PREPROCESSING = Preprocessing(1, 8, None, "bilinear", True, (0.5,), (0.25,))


def make_module(**changes: Any) -> ImageDataModule:
    choices: dict[str, Any] = {"batch_size": 8, "seed": 3, "steps_per_round": 4, "total_steps": 10}
    return ImageDataModule(
        pixels=PIXELS, labels=LABELS, preprocessing=PREPROCESSING, **{"split": SPLIT, **choices, **changes}
    )


def attach(data: ImageDataModule, step: int = 0, rank: int = 0, world: int = 1, training: bool = True) -> Any:
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_step=step, global_rank=rank, world_size=world, training=training
    )
    return data.trainer


class Recorder(pl.LightningModule):
    """Takes optimizer steps, and writes down what it was fed."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 3)
        self.fed: list[tuple[int, int, tuple[int, ...]]] = []
        self.validated: list[tuple[int, int]] = []
        self.stop_at = stop_at

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        if batch["step"] == self.stop_at:
            raise KeyboardInterrupt
        self.fed.append((batch["step"], batch["part"], tuple(batch["index"].tolist())))
        assert self.global_step == batch["step"]
        losses = torch.nn.functional.cross_entropy(
            self.layer(batch["image"].flatten(1)), batch["label"], reduction="none"
        )
        return (losses * batch["weight"]).sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        assert batch["image"].dtype == torch.float32
        self.validated.append((self.global_step, len(batch["label"])))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    module: Recorder, data: ImageDataModule, folder: Path, resume: Path | None = None, **options: Any
) -> pl.Trainer:
    trainer = pl.Trainer(
        max_epochs=-1,
        max_steps=data.total_steps,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        use_distributed_sampler=False,
        accumulate_grad_batches=data.accumulate,
        **{"enable_checkpointing": False, **options},
    )
    trainer.fit(module, datamodule=data, ckpt_path=resume)
    return trainer


def expected_steps(accumulate: int = 1) -> list[int]:
    return [step for step in range(10) for _ in range(accumulate)]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_lightning_takes_every_step_once_and_validates_after_each_round(
    tmp_path: Path, accumulate: int
) -> None:
    module = Recorder()
    fit(module, make_module(accumulate=accumulate), tmp_path)
    assert [step for step, _, _ in module.fed] == expected_steps(accumulate)
    # Also after the last round, which is shorter.
    assert module.validated == [(4, 17), (8, 17), (10, 17)]
    schedule = BatchSchedule(SPLIT.train, 8, 3)
    for step in range(10):
        seen = [index for number, _, indices in module.fed if number == step for index in indices]
        assert sorted(set(seen)) == sorted(schedule.batch(step).tolist())


def test_accumulation_gives_the_same_weights(tmp_path: Path) -> None:
    weights = []
    for accumulate in (1, 2, 5):
        torch.manual_seed(0)
        module = Recorder()
        fit(module, make_module(accumulate=accumulate), tmp_path)
        weights.append(module.layer.weight.detach())
    assert torch.allclose(weights[0], weights[1], atol=1e-6)
    assert torch.allclose(weights[0], weights[2], atol=1e-6)


@pytest.mark.parametrize("every", [1, 3, 4, 5, 8])
def test_a_resumed_run_sees_what_was_left(tmp_path: Path, every: int) -> None:
    whole = Recorder()
    fit(whole, make_module(), tmp_path)
    save = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=every, save_top_k=-1, filename="{step}")
    fit(Recorder(), make_module(), tmp_path, enable_checkpointing=True, callbacks=[save])
    checkpoints = sorted(tmp_path.glob("step=*.ckpt"))
    assert len(checkpoints) == 10 // every
    for checkpoint in checkpoints:
        step = int(checkpoint.stem.removeprefix("step="))
        module = Recorder()
        fit(module, make_module(), tmp_path, resume=checkpoint)
        assert module.fed == whole.fed[step:]


def test_a_run_resumed_from_the_end_of_a_round(tmp_path: Path) -> None:
    whole = Recorder()
    save = pl.callbacks.ModelCheckpoint(tmp_path, save_top_k=-1, filename="{step}")
    fit(whole, make_module(), tmp_path, enable_checkpointing=True, callbacks=[save])
    for step, rounds_left in ((4, [8, 10]), (8, [10])):
        module = Recorder()
        fit(module, make_module(), tmp_path, resume=tmp_path / f"step={step}.ckpt")
        assert module.fed == whole.fed[step:]
        assert [at for at, _ in module.validated] == rounds_left


def test_worker_processes_read_the_same_batches() -> None:
    fed = []
    for workers in (0, 1):
        data = make_module(workers=workers)
        attach(data, step=4)
        fed.append([(batch["step"], batch["index"].tolist()) for batch in data.train_dataloader()])
    assert fed[0] == fed[1]
    assert [step for step, _ in fed[0]] == [4, 5, 6, 7]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_a_step(world: int) -> None:
    parts = []
    for rank in range(world):
        data = make_module(accumulate=2)
        attach(data, rank=rank, world=world)
        parts.append(list(data.train_dataloader()))
    assert {len(part) for part in parts} == {8}
    schedule = BatchSchedule(SPLIT.train, 8, 3)
    for step in range(4):
        batches = [batch for part in parts for batch in part if batch["step"] == step]
        seen = [i for batch in batches for i in batch["index"][batch["weight"] > 0].tolist()]
        assert sorted(seen) == sorted(schedule.batch(step).tolist())
        assert sorted(batch["part"] for batch in batches) == list(range(2 * world))
        assert sum(float(batch["weight"].sum()) for batch in batches) == pytest.approx(2 * world)


def test_image_weights_keep_the_scale_of_the_loss() -> None:
    given = np.arange(COUNT, dtype=np.float64)
    plain, weighted = make_module(), make_module(image_weights=given)
    mean = given[SPLIT.train].mean()
    for module in (plain, weighted):
        attach(module)
    for one, other in zip(plain.train_dataloader(), weighted.train_dataloader(), strict=True):
        assert torch.equal(one["index"], other["index"])
        expected = one["weight"].numpy() * (given[one["index"].numpy()] / mean)
        assert np.allclose(other["weight"].numpy(), expected)
    with pytest.raises(GraftError, match=r"weight above 0 among the training images.*label budget"):
        make_module(image_weights=np.where(np.arange(COUNT) < 23, 0.0, 1.0))


@pytest.mark.parametrize("world", [1, 2, 3, 40])
@pytest.mark.parametrize("size", [2, 5, 256])
def test_evaluation_counts_each_image_once(world: int, size: int) -> None:
    counted: list[int] = []
    lengths = set()
    for rank in range(world):
        data = make_module()
        data.evaluation_batch_size = size
        attach(data, rank=rank, world=world)
        batches = list(data.test_dataloader())
        lengths.add(len(batches))
        assert len(data.test_dataloader()) == len(batches)
        for batch in batches:
            assert torch.equal(batch["label"], torch.from_numpy(LABELS[batch["index"].numpy()]))
            counted += batch["index"][batch["weight"] == 1].tolist()
    assert sorted(counted) == SPLIT.test.tolist()
    assert len(lengths) == 1


def test_smoke_limits_evaluation() -> None:
    data = make_module(limit_batches=1)
    data.evaluation_batch_size = 4
    attach(data)
    assert [batch["index"].tolist() for batch in data.val_dataloader()] == [[23, 24, 25, 26]]


def test_a_batch_is_what_it_says() -> None:
    data = make_module()
    attach(data)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].dtype == torch.uint8
    assert torch.equal(batch["image"], torch.from_numpy(PIXELS[batch["index"].numpy()]))
    assert torch.equal(batch["label"], torch.from_numpy(LABELS[batch["index"].numpy()]))
    assert (batch["label"].dtype, batch["index"].dtype, batch["weight"].dtype) == (
        torch.int64,
        torch.int64,
        torch.float32,
    )
    assert (batch["step"], batch["part"]) == (0, 0)


def test_training_images_alone_are_augmented() -> None:
    data = make_module(augment=AugmentConfig("flip_crop"))
    trainer = attach(data)
    batch = next(iter(data.train_dataloader()))
    moved = data.on_after_batch_transfer(batch, 0)["image"]
    by_hand = build_augmentation("flip_crop")(batch["image"], seed_generator(3, 0, 0))
    assert torch.equal(moved, normalise(by_hand, PREPROCESSING))
    trainer.training = False
    assert torch.equal(
        data.on_after_batch_transfer(batch, 0)["image"], normalise(batch["image"], PREPROCESSING)
    )


def test_passes_cycle_through_the_views() -> None:
    data = make_module(augment=AugmentConfig("flip_crop", views=2), batch_size=23, steps_per_round=1)
    seen = []
    for step in range(4):
        attach(data, step=step)
        batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
        seen.append(batch["image"][batch["index"].argsort()])
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])
    assert not torch.equal(seen[0], seen[1])


def test_training_images_alone_are_mixed() -> None:
    data = make_module(augment=AugmentConfig(mixup=1.0))
    trainer = attach(data)
    batch = next(iter(data.train_dataloader()))
    mixed = data.on_after_batch_transfer(batch, 0)
    assert not torch.equal(mixed["image"], normalise(batch["image"], PREPROCESSING))
    assert mixed["other_label"].shape == mixed["share"].shape == batch["label"].shape
    trainer.training = False
    assert "share" not in data.on_after_batch_transfer(batch, 0)


def test_a_sampler_draws_the_rare_class_as_often() -> None:
    few = Split(np.array([0, 1, 2, 3, 4, 6, 7, 9, 10, 12]), np.arange(23, 40), np.arange(40, 60), "digest")
    data = make_module(balance="sampler", split=few, batch_size=12, steps_per_round=30, total_steps=30)
    attach(data)
    labels = np.concatenate([batch["label"].numpy() for batch in data.train_dataloader()])
    counts = np.bincount(labels)
    assert np.bincount(LABELS[few.train]).tolist() == [5, 4, 1]
    assert counts.max() - counts.min() <= 1


def test_batches_before_a_trainer_are_our_bug() -> None:
    with pytest.raises(RuntimeError, match="attached to a Trainer"):
        make_module().train_dataloader()
