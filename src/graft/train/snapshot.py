"""What of a run changes while it trains, taken out and put back to the bit."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from graft.train.callbacks import BestWeights
from graft.train.checkpoint import State
from graft.train.task import TransferTask


def capture(trainer: pl.Trainer, task: TransferTask, best: BestWeights, phase: str, seconds: float) -> State:
    """Return where the run is; every process of the run has to ask.

    A run that is ``done`` needs its best weights only.

    Args:
        trainer: Between two optimizer steps.
        task: What trains; of the classifier, what is frozen is left out.
        best: The best validation so far.
        phase: See `State`.
        seconds: Time of training so far.
    """
    values, tensors = best.state()
    if phase == "done":
        return State(trainer.global_step, phase, seconds, {"best": values}, tensors)
    states, listed = _flatten_optimizer(trainer)
    tensors |= {f"classifier.{name}": value for name, value in task.classifier.trainable_state().items()}
    tensors |= states | _gather_ranks(task)
    schedule = trainer.lr_scheduler_configs[0].scheduler.state_dict()
    values = {
        "best": values,
        "optimizer": listed,
        "rates": [group["lr"] for group in trainer.optimizers[0].param_groups],
        "schedule": {name: value for name, value in schedule.items() if name != "lr_lambdas"},
        "plateau": dict(vars(task.plateau)) if task.plateau else None,
        "precision": trainer.precision_plugin.state_dict(),
    }
    return State(trainer.global_step, phase, seconds, values, tensors)


def is_sound(task: TransferTask) -> bool:
    """Say whether everything that trains is finite, and the loss too: else the run is about to diverge."""
    finite = all(bool(torch.isfinite(parameter).all()) for parameter in task.trained)
    return finite and bool(np.isfinite(task.partial_loss()[0]))


def restore_before(state: State, trainer: pl.Trainer, task: TransferTask, best: BestWeights) -> None:
    """Put back what has to be there before the trainer starts: weights, and the steps that are done."""
    best.load(state.values["best"], state.tensors)
    # Lightning has no public way to start at a step without its own checkpoint format; the data module
    # reads from this count which batches come next.
    progress = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress
    progress.optimizer.step.total.completed = state.step
    if state.phase == "done":
        return
    current = task.classifier.trainable_state()
    stored = _part(state.tensors, "classifier.")
    with torch.no_grad():
        for name, tensor in current.items():
            tensor.copy_(stored[name])
    if task.plateau is not None:
        vars(task.plateau).update(state.values["plateau"])


def restore_started(state: State, trainer: pl.Trainer, task: TransferTask) -> None:
    """Put back what the trainer has made by now: optimizer, schedule, precision; and the partial loss."""
    optimizer = trainer.optimizers[0]
    content = optimizer.state_dict()
    content["state"] = _unflatten_optimizer(state)
    optimizer.load_state_dict(content)
    for group, rate in zip(optimizer.param_groups, state.values["rates"], strict=True):
        group["lr"] = rate
    schedule = trainer.lr_scheduler_configs[0].scheduler
    schedule.load_state_dict({**schedule.state_dict(), **state.values["schedule"]})
    if state.values["precision"]:
        trainer.precision_plugin.load_state_dict(state.values["precision"])
    own = _of_rank(state, trainer.global_rank)
    task.resume_partial_loss(own["loss_sum"], own["micro_batches"])


def restore_draws(state: State, rank: int) -> None:
    """Put back the random generators of this process."""
    own = _of_rank(state, rank)
    version, words, gauss = own["python"]
    random.setstate((version, tuple(words), gauss))
    numpy_state = own["numpy"]
    keys = np.array(numpy_state["state"]["key"], dtype=np.uint32)
    np.random.set_state(  # noqa: NPY002  # somebody's network may draw from it
        numpy_state | {"state": numpy_state["state"] | {"key": keys}}
    )
    torch.set_rng_state(_from_hex(own["torch"]))
    if torch.cuda.is_available():
        for device, content in enumerate(own["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(_from_hex(content), device)


def draw_as_loader() -> None:
    """Draw from torch's generator what a loader draws when a pass over it begins."""
    torch.empty((), dtype=torch.int64).random_()


def _gather_ranks(task: TransferTask) -> dict[str, Tensor]:
    """Return what each process has for itself: its random generators and its part of the loss."""
    numpy_state: dict[str, Any] = dict(np.random.get_state(legacy=False))  # noqa: NPY002
    numpy_state["state"] = numpy_state["state"] | {"key": numpy_state["state"]["key"].tolist()}
    on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    loss_sum, micro_batches = task.partial_loss()
    own = {
        "python": random.getstate(),
        "numpy": numpy_state,
        "torch": _to_hex(torch.get_rng_state()),
        "cuda": [_to_hex(content) for content in torch.cuda.get_rng_state_all()] if on_gpu else [],
        "loss_sum": loss_sum,
        "micro_batches": micro_batches,
    }
    packed = torch.frombuffer(bytearray(json.dumps(own).encode()), dtype=torch.uint8).to(task.device)
    return {f"rank.{rank}": content for rank, content in enumerate(task.everyone(packed))}


def _of_rank(state: State, rank: int) -> dict[str, Any]:
    """Return what a process had for itself; one that did not exist takes what another one had."""
    ranks = _part(state.tensors, "rank.")
    content: dict[str, Any] = json.loads(bytes(ranks[str(rank % len(ranks))].tolist()))
    return content


def _flatten_optimizer(trainer: pl.Trainer) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Return the optimizer's tensors, and its other values, by parameter."""
    tensors: dict[str, Tensor] = {}
    others: dict[str, dict[str, Any]] = {}
    for index, members in trainer.optimizers[0].state_dict()["state"].items():
        others[str(index)] = {}
        for name, value in members.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                others[str(index)][name] = value
    return tensors, others


def _unflatten_optimizer(state: State) -> dict[int, dict[str, Any]]:
    members: dict[int, dict[str, Any]] = {
        int(index): dict(others) for index, others in state.values["optimizer"].items()
    }
    for key, tensor in _part(state.tensors, "optimizer.").items():
        index, _, name = key.partition(".")
        members[int(index)][name] = tensor
    return members


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _to_hex(content: Tensor) -> str:
    return bytes(content.tolist()).hex()


def _from_hex(content: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(content), dtype=torch.uint8)
