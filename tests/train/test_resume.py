"""A run that is stopped anywhere goes on as if it had not been."""

from __future__ import annotations

import itertools
import math
import os
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from graft.config.schema import Config
from graft.errors import DivergedError, RunInterrupted
from graft.model.classifier import Classifier
from graft.train.checkpoint import Checkpoints, State
from graft.train.fit import Fitted
from graft.train.stop import StopRequest

Configure = Callable[..., Config]
Shoot = Callable[..., tuple[Classifier, Fitted]]
Rounds = dict[tuple[int, str], float]

#: Everything that has a state of its own, spread over few runs.
CASES: dict[str, dict[str, Any]] = {
    "sgd, dropout, plateau": {
        "backbone__name": "small_cnn", "head__name": "mlp", "head__dropout": 0.5, "optim__momentum": 0.9,
        "optim__schedule": "plateau", "optim__plateau_checks": 1, "optim__decay_factor": 0.5,
    },
    "adamw, augmented, mixed, clipped": {
        "backbone__name": "small_cnn", "optim__name": "adamw", "optim__lr": 0.01,
        "optim__schedule": "one_cycle", "optim__gradient_clip": 0.5, "augment__name": "flip_crop",
        "augment__mixup": 0.4, "augment__cutmix": 1.0, "head__name": "mlp", "head__dropout": 0.2,
    },
    "accumulated, patient, balanced": {
        "backbone__name": "small_cnn", "trainer__accumulate": 2, "trainer__patience": 2, "optim__l2": 0.01,
        "optim__lr": 0.2, "data__balance": "sampler", "head__name": "mlp", "head__dropout": 0.5,
        "transfer__freeze_depth": 2,
    },
    "bf16, adam": {
        "backbone__name": "small_cnn", "optim__name": "adam", "trainer__precision": "bf16-mixed",
        "head__name": "mlp", "head__dropout": 0.5, "optim__lr": 0.01, "optim__warmup": 0.3,
        "optim__schedule": "step",
    },
}  # fmt: skip


class Kill(BaseException):
    """The process dies here."""


class KilledNotebook:
    """A recorder whose process dies at a moment; what was recorded after the last flush is lost with it."""

    def __init__(self) -> None:
        self.numbers: Rounds = {}
        self._unsent: list[tuple[Mapping[str, float], int]] = []

    def record(self, metrics: Mapping[str, float], step: int) -> None:
        self._unsent.append((dict(metrics), step))

    def flush(self) -> None:
        for metrics, step in self._unsent:
            for name, value in metrics.items():
                assert self.numbers.setdefault((step, name), value) == value, "told twice, and otherwise"
        self._unsent = []


class Scene:
    """One undisturbed run, and the same run in pieces."""

    def __init__(self, shoot: Shoot, config: Config, **more: Any) -> None:
        self.shoot, self.config, self.more = shoot, config, more
        notebook = KilledNotebook()
        self.classifier, self.fitted = shoot(config, recorder=notebook, **more)
        notebook.flush()
        self.numbers = notebook.numbers

    def resume(
        self,
        folder: Path,
        notebook: KilledNotebook,
        every_seconds: float = 0.0,
        make: Callable[[], Classifier] | None = None,
        **more: Any,
    ) -> tuple[Classifier, Fitted]:
        """Go on from what is in the folder, with generators in any state."""
        torch.manual_seed(12345)
        if make is not None:
            more["classifier"] = make()
        checkpoints = Checkpoints(folder, "key", every_seconds=every_seconds)
        start = checkpoints.newest()
        found = self.shoot(
            self.config, recorder=notebook, checkpoints=checkpoints, start=start, **self.more, **more
        )
        notebook.flush()
        return found

    def check(self, classifier: Classifier, fitted: Fitted, notebook: KilledNotebook) -> None:
        expected = self.classifier.state_dict()
        for name, value in classifier.state_dict().items():
            assert torch.equal(value, expected[name]), name
        assert notebook.numbers == self.numbers
        assert fitted.validation == self.fitted.validation
        assert fitted.test_metrics == self.fitted.test_metrics
        assert torch.equal(fitted.test.outputs, self.fitted.test.outputs)
        assert (fitted.best_step, fitted.steps) == (self.fitted.best_step, self.fitted.steps)
        assert fitted.images_seen == self.fitted.images_seen


def dying_at(call: int) -> Callable[[int], None]:
    """Return what dies when it is told something for the so-manieth time: each step and each validation."""
    calls = itertools.count(1)

    def progress(done: int) -> None:
        if next(calls) == call:
            raise Kill

    return progress


@pytest.fixture(autouse=True)
def _always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tell the progress of every step, and write a checkpoint at every validation, whatever it costs."""
    monkeypatch.setattr("graft.train.callbacks._SECONDS_BETWEEN_NEWS", -1.0)
    monkeypatch.setattr("graft.train.resume._LARGEST_SHARE", math.inf)


def count_calls(scene: Scene) -> int:
    return scene.fitted.steps + len({step for step, name in scene.numbers if name == "val/loss"})


def check_kill(scene: Scene, folder: Path, call: int, every_seconds: float) -> None:
    notebook = KilledNotebook()
    with pytest.raises(Kill):
        scene.resume(folder, notebook, every_seconds, progress=dying_at(call))
    classifier, fitted = scene.resume(folder, notebook, every_seconds)
    scene.check(classifier, fitted, notebook)


@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_goes_on_to_the_same_bits(
    case: str, configure: Configure, shoot: Shoot, tmp_path: Path
) -> None:
    """Killed in the first round, after a validation, and near the end."""
    scene = Scene(shoot, configure(trainer__epochs=3, **CASES[case]), noise=255)
    last = count_calls(scene)
    for call, every_seconds in ((3, 0.0), (last // 2, math.inf), (last - 1, 0.0)):
        check_kill(scene, tmp_path / str(call), call, every_seconds)


@pytest.mark.full
@pytest.mark.parametrize("every_seconds", [0.0, math.inf])
@pytest.mark.parametrize("case", CASES)
def test_a_run_killed_anywhere_goes_on_to_the_same_bits(
    case: str, every_seconds: float, configure: Configure, shoot: Shoot, tmp_path: Path
) -> None:
    scene = Scene(shoot, configure(trainer__epochs=4, **CASES[case]), noise=255)
    for call in range(1, count_calls(scene) + 1):
        check_kill(scene, tmp_path / str(call), call, every_seconds)


def test_a_run_killed_again_and_again_ends(configure: Configure, shoot: Shoot, tmp_path: Path) -> None:
    scene = Scene(shoot, configure(trainer__epochs=2, **CASES["sgd, dropout, plateau"]), noise=255)
    notebook, steps = KilledNotebook(), []
    for _ in range(5):
        start = Checkpoints(tmp_path, "key").newest()
        steps.append(start.step if start else 0)
        with pytest.raises(Kill):
            scene.resume(tmp_path, notebook, progress=dying_at(2))
    assert steps == sorted(steps)
    assert steps[-1] > 2, "every attempt gets further"
    scene.check(*scene.resume(tmp_path, notebook), notebook)
    assert len(list(tmp_path.iterdir())) <= 2


def test_workers_that_read_batches_change_nothing(configure: Configure, shoot: Shoot, tmp_path: Path) -> None:
    """A loader with processes of its own draws less from the generator that dropout draws from."""
    knobs = {"backbone__name": "small_cnn", "head__name": "mlp", "head__dropout": 0.5, "trainer__epochs": 3}
    scene = Scene(shoot, configure(**knobs), noise=255)
    scene.config = configure(data__workers=1, **knobs)
    notebook = KilledNotebook()
    scene.check(*scene.resume(tmp_path / "undisturbed", notebook), notebook)
    check_kill(scene, tmp_path / "killed", 8, 0.0)


# Asked to stop


def ask_in_evaluation(classifier: Classifier, batch: int) -> Classifier:
    """Let a SIGTERM come while the so-manieth batch of any evaluation is computed."""
    calls = itertools.count(1)

    def hook(module: torch.nn.Module, *_: Any) -> None:
        if not module.training and next(calls) == batch:
            os.kill(os.getpid(), signal.SIGTERM)

    classifier.backbone.stages[-1].register_forward_hook(hook)
    return classifier


@pytest.fixture(scope="module")
def evaluated_in_two() -> dict[str, int]:
    """Two batches of validation and of test images."""
    return {"val": 300, "test": 300, "noise": 255}


@pytest.mark.parametrize(
    ("batch", "phase", "step"),
    [(1, "validating", 4), (2, "training", 4), (5, "validating", 12), (6, "done", 12), (7, "done", 12)],
)
def test_a_run_asked_to_stop_in_an_evaluation_goes_on_to_the_same_bits(
    batch: int, phase: str, step: int, configure: Configure, shoot: Shoot, classify: Any, tmp_path: Path,
    evaluated_in_two: dict[str, int],
) -> None:  # fmt: skip
    config = configure(trainer__epochs=3, **CASES["sgd, dropout, plateau"])
    scene = Scene(shoot, config, **evaluated_in_two)
    notebook = KilledNotebook()

    def make(batch: int = batch) -> Classifier:
        return ask_in_evaluation(classify(config), batch)

    with StopRequest() as stop, pytest.raises(RunInterrupted) as asked:
        scene.resume(tmp_path, notebook, math.inf, make, stop=stop)
    assert (asked.value.signum, asked.value.exit_code) == (signal.SIGTERM, 143)
    start = Checkpoints(tmp_path, "key").newest()
    assert start is not None
    assert (start.phase, start.step) == (phase, step)
    if phase == "validating":  # asked again before that validation is done
        with StopRequest() as stop, pytest.raises(RunInterrupted):
            scene.resume(tmp_path, notebook, math.inf, partial(make, 1), stop=stop)
    scene.check(*scene.resume(tmp_path, notebook), notebook)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_asked_to_stop_while_it_trains_stops_at_the_next_step(
    accumulate: int, configure: Configure, shoot: Shoot, tmp_path: Path
) -> None:
    config = configure(backbone__name="small_cnn", trainer__accumulate=accumulate)
    scene = Scene(shoot, config)
    notebook = KilledNotebook()

    def ask(done: int) -> None:
        if done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with StopRequest() as stop, pytest.raises(RunInterrupted) as asked:
        scene.resume(tmp_path, notebook, math.inf, stop=stop, progress=ask)
    assert asked.value.exit_code == 130
    start = Checkpoints(tmp_path, "key").newest()
    assert start is not None
    assert start.step == 2
    classifier, fitted = scene.resume(tmp_path, notebook)
    scene.check(classifier, fitted, notebook)
    assert fitted.earlier_seconds == start.seconds > 0
    assert fitted.train_seconds > fitted.earlier_seconds


def test_a_run_without_checkpoints_stops_too(configure: Configure, shoot: Shoot) -> None:
    with StopRequest() as stop, pytest.raises(RunInterrupted):
        shoot(configure(), stop=stop, progress=lambda _: os.kill(os.getpid(), signal.SIGTERM))


# What is written, and when


def test_frozen_weights_are_not_written(
    configure: Configure, shoot: Shoot, tmp_path: Path, classify: Any
) -> None:
    config = configure(backbone__name="small_cnn", transfer__freeze_depth=3, optim__name="adamw")
    with pytest.raises(Kill):
        shoot(config, checkpoints=Checkpoints(tmp_path, "key", every_seconds=0.0), progress=dying_at(3))
    start = Checkpoints(tmp_path, "key").newest()
    assert start is not None
    stored = {name.partition(".")[2] for name in start.tensors if name.startswith("classifier.")}
    assert stored == set(classify(config).trainable_state())
    assert not any(name.startswith("backbone.stages.0.") for name in stored)
    assert sum(name.startswith("optimizer.") for name in start.tensors) % 3 == 0


def test_short_rounds_do_not_get_a_checkpoint_each(
    configure: Configure, shoot: Shoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What writing costs is measured: here it is said to be slow."""
    config = configure(trainer__epochs=20, trainer__max_validations=20)
    written: list[int] = []
    monkeypatch.setattr("graft.train.resume._LARGEST_SHARE", 0.05)
    monkeypatch.setattr("graft.train.resume._FIRST_GUESS", 0.0)
    checkpoints = Checkpoints(tmp_path, "key", every_seconds=math.inf)
    write = checkpoints.write

    def write_slowly(state: State) -> None:
        time.sleep(0.3)
        written.append(state.step)
        write(state)

    monkeypatch.setattr(checkpoints, "write", write_slowly)
    _, fitted = shoot(config, checkpoints=checkpoints)
    assert written[0] == 4, "the first round"
    assert len(written) <= 2 + fitted.train_seconds * 0.05 / 0.3


def test_what_is_about_to_diverge_is_not_written(configure: Configure, shoot: Shoot, tmp_path: Path) -> None:
    config = configure(
        optim__lr=1e30, loss__name="mean_squared_error", trainer__epochs=50, trainer__max_validations=1
    )
    messages = []
    for _ in range(2):
        checkpoints = Checkpoints(tmp_path, "key", every_seconds=0.0)
        start = checkpoints.newest()
        with pytest.raises(DivergedError, match="The loss became") as diverged:
            shoot(config, checkpoints=checkpoints, start=start)
        messages.append(str(diverged.value))
        start = Checkpoints(tmp_path, "key").newest()
        assert start is not None
        assert start.step < 50
        assert all(bool(torch.isfinite(value).all()) for value in start.tensors.values())
    assert messages[0] == messages[1]


def test_a_run_goes_on_when_checkpoints_cannot_be_written(
    configure: Configure, shoot: Shoot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder is below a file: no user, not even root, can write there."""
    (tmp_path / "file").touch()
    checkpoints = Checkpoints(tmp_path / "file" / "folder", "key", every_seconds=0.0)
    _, fitted = shoot(configure(), checkpoints=checkpoints)
    assert fitted.steps == 8
    assert len(fitted.notes) == 1
    assert "This run trained without a checkpoint from step 1 on. Expected to write" in fitted.notes[0]
    assert "Not a directory" in fitted.notes[0]
    assert capsys.readouterr().err.count("without a checkpoint") == 1, "said once"
