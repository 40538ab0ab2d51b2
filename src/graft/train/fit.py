"""Train one classifier with Lightning, go back to its best validation, and test it once."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytorch_lightning as pl
import torch

from graft.config.schema import Config, TrainerConfig
from graft.data.balance import weigh_classes
from graft.data.datamodule import ImageDataModule
from graft.model.classifier import Classifier
from graft.plan.halving import Halving
from graft.train.callbacks import BestWeights, Judge, RecordRounds
from graft.train.checkpoint import Checkpoints, State
from graft.train.evaluation import Evaluation
from graft.train.losses import Loss, build_loss
from graft.train.metrics import measure
from graft.train.resume import KeepState, Price
from graft.train.statistics import runs_on_gpu
from graft.train.stop import StopRequest
from graft.train.task import Recorder, TransferTask

_ADVICE = (
    r".*isinstance\(treespec, LeafSpec\).*",
    r".*module\(s\) in eval mode at the start of training.*",  # frozen stages are, on purpose
    ".*does not have many workers.*",
    ".*Trying to infer the `batch_size`.*",
    ".*`Trainer.fit` stopped.*",
    ".*is less than `check_val_every_n_epoch`.*",
)


@dataclass(frozen=True)
class Budget:
    """How long a run trains, and how often it looks at validation.

    Attributes:
        total_steps: Optimizer steps of the run.
        steps_per_round: Optimizer steps between two validations.
    """

    total_steps: int
    steps_per_round: int


@dataclass(frozen=True)
class Fitted:
    """What came out of a run.

    Attributes:
        best_step: Optimizer steps done at the validation that was chosen.
        validation: Metrics of that validation.
        test: What the chosen weights said of each test image.
        test_metrics: Metrics of the test set, evaluated once.
        steps: Optimizer steps done in all.
        train_seconds: Time of training and validation.
        images_seen: Training images seen, repeats counted.
        earlier_seconds: The part of ``train_seconds`` that earlier processes of this run took.
        notes: What the user should know of the checkpoints.
    """

    best_step: int
    validation: dict[str, float]
    test: Evaluation
    test_metrics: dict[str, float]
    steps: int
    train_seconds: float
    images_seen: int
    earlier_seconds: float = 0.0
    notes: tuple[str, ...] = ()


def seed_everything(seed: int) -> None:
    """Seed every generator that initialisation and dropout draw from; 0 is a seed."""
    with without_advice():
        pl.seed_everything(seed, verbose=False)


def plan_budget(trainer: TrainerConfig, steps_per_pass: int) -> Budget:
    """Return the training budget: ``epochs`` passes, but at least ``min_steps`` optimizer steps.

    Args:
        trainer: The knobs.
        steps_per_pass: Optimizer steps in one pass over them.
    """
    total = max(trainer.epochs * steps_per_pass, trainer.min_steps)
    if trainer.limit_batches is not None:
        total = min(total, trainer.limit_batches)
    return Budget(total, min(total, max(steps_per_pass, math.ceil(total / trainer.max_validations))))


def fit(
    classifier: Classifier,
    data: ImageDataModule,
    config: Config,
    budget: Budget,
    *,
    recorder: Recorder | None = None,
    progress: Callable[[int], None] | None = None,
    checkpoints: Checkpoints | None = None,
    start: State | None = None,
    stop: StopRequest | None = None,
    halving: Halving | None = None,
    price: Price | None = None,
) -> Fitted:
    """Train, choose the best validation, test once.

    Args:
        classifier: Frozen as the run wants; holds the chosen weights afterwards.
        data: Batches of the run.
        config: The run's configuration.
        budget: How long to train.
        recorder: Takes the numbers of each validation.
        progress: Told the optimizer steps done.
        checkpoints: Where to write down how far the training is; None for nowhere.
        start: Where an earlier process was; None for the beginning.
        stop: Looked at between optimizer steps; None: nobody asks.
        halving: Decides at validations whether the run goes on; None: it does.
        price: Says what the run has cost, for what is written down of it; None: nobody asks.

    Raises:
        DivergedError: When the loss became NaN or infinite.
        KeyboardInterrupt: When the user interrupted it.
        RunInterrupted: When it was asked to stop, and has written down how far it is.
    """
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    loss = build_run_loss(config, data)
    task = TransferTask(classifier, config.optim, loss, budget.total_steps, config.metric)
    if config.trainer.compile:
        classifier.compile()
    best = BestWeights(config.metric, config.trainer.patience)
    stop = stop or StopRequest()
    keeper = KeepState(
        best,
        recorder=recorder,
        checkpoints=checkpoints,
        stop=stop,
        start=start,
        keeps_loaders=data.workers > 0,
        price=price,
    )
    with without_advice(), _interruptible(), stop.waiting():
        judges = _seat_judge(halving, config.metric, budget, start)
        trainer = _build_trainer(config, budget, [best, RecordRounds(recorder, progress), keeper, *judges])
        if keeper.prepare(trainer, task):
            trainer.fit(task, datamodule=data)
        seconds, steps = keeper.seconds, trainer.global_step
        best.restore(task)
        trainer.test(task, datamodule=data, verbose=False)
    assert best.evaluation is not None
    assert task.evaluation is not None
    return Fitted(
        best_step=best.step,
        validation=measure(best.evaluation, loss),
        test=task.evaluation,
        test_metrics=task.metrics,
        steps=steps,
        train_seconds=seconds,
        images_seen=count_images(data, steps),
        earlier_seconds=start.seconds if start else 0.0,
        notes=tuple(keeper.notes),
    )


def _seat_judge(halving: Halving | None, metric: str, budget: Budget, start: State | None) -> list[Judge]:
    """Return who asks at validations whether the run goes on, nobody where no one decides."""
    if halving is None:
        return []
    done = max(0, start.step - 1) // budget.steps_per_round if start else 0
    return [Judge(metric, halving, budget.total_steps, before=done * budget.steps_per_round)]


def build_run_loss(config: Config, data: ImageDataModule) -> Loss:
    """Return the loss of a run, with the class weights that ``data.balance`` asks for."""
    trained = data.labels[data.split.train]
    weights = weigh_classes(config.data, np.bincount(trained, minlength=int(data.labels.max()) + 1))
    return build_loss(config.loss if weights is None else replace(config.loss, class_weights=weights))


def count_images(data: ImageDataModule, steps: int) -> int:
    """Return the training images seen in ``steps`` optimizer steps, repeats counted."""
    passes, rest = divmod(steps, data.schedule.steps_per_pass)
    return passes * len(data.split.train) + rest * data.schedule.batch_size


def _build_trainer(config: Config, budget: Budget, callbacks: list[pl.Callback]) -> pl.Trainer:
    trainer = config.trainer
    on_gpu = runs_on_gpu(trainer)
    several = trainer.devices * trainer.num_nodes > 1
    return pl.Trainer(
        accelerator=trainer.accelerator,
        devices=trainer.devices,
        num_nodes=trainer.num_nodes,
        strategy="ddp" if several else "auto",
        precision=trainer.precision,  # type: ignore[arg-type]
        max_steps=budget.total_steps,
        max_epochs=-1,
        accumulate_grad_batches=trainer.accumulate,
        gradient_clip_val=config.optim.gradient_clip,
        limit_val_batches=trainer.limit_batches,
        limit_test_batches=trainer.limit_batches,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the schedule divides batches among processes itself, each image once
        sync_batchnorm=several and on_gpu,
        deterministic="warn" if on_gpu else None,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        callbacks=callbacks,
    )


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Turn Lightning's answer to Ctrl-C, an exit with Ctrl-C switched off, back into what it was."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    answer = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as exit_:
        if isinstance(exit_.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from exit_
        raise
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, answer)


@contextlib.contextmanager
def without_advice() -> Iterator[None]:
    """Silence Lightning's advice that does not apply: graft reads batches from memory and logs by itself."""
    for package in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(package).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        for advice in _ADVICE:
            warnings.filterwarnings("ignore", message=advice)
        yield
