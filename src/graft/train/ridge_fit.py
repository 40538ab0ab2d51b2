"""Fit a linear head in closed form: one pass over frozen features, the strength chosen on validation."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from graft.config.schema import Config
from graft.data.balance import weigh_classes
from graft.data.datamodule import ImageDataModule
from graft.data.image_set import Int64Array
from graft.data.transforms import normalise
from graft.errors import DivergedError, GraftError
from graft.model.classifier import Classifier
from graft.model.features import ARITHMETIC, EXTRACTION_BATCH, choose_device
from graft.train.callbacks import rank_validation
from graft.train.evaluation import Evaluation
from graft.train.fit import Budget, Fitted, build_run_loss, fit
from graft.train.losses import Loss
from graft.train.metrics import CHEAP, measure
from graft.train.ridge import Float64Array, RidgeHead, find_temperature, require_memory, solve_ridge
from graft.train.task import Recorder


@dataclass(frozen=True)
class _Choice:
    """The head of one strength.

    Attributes:
        standing: The larger, the better on validation.
        strength: Its penalty.
        factor: What the scores of the regression are multiplied with, to give probabilities that fit.
        head: The head, factor included.
    """

    standing: tuple[float, float, float]
    strength: float
    factor: float
    head: RidgeHead


def fit_ridge(
    classifier: Classifier,
    data: ImageDataModule,
    config: Config,
    budget: Budget,
    *,
    recorder: Recorder | None = None,
    progress: Callable[[int], None] | None = None,
    **_: object,
) -> Fitted:
    """Solve the head for every strength, choose one on validation, test once.

    It takes as long as one pass over the images, so there is nothing to go on from, and a signal ends it at
    once. It counts as one step with one validation after it.

    Args:
        classifier: Frozen up to its head, which is linear; holds the chosen weights afterwards.
        data: Images, or their features, of the run.
        config: The run's configuration.
        budget: What ``progress`` counts in.
        recorder: Takes the numbers of the validation.
        progress: Told how far it is, in optimizer steps of ``budget``.

    Raises:
        GraftError: The metric has no meaning on the validation images, no training image has a weight, or the
            features are too many for the memory.
        DivergedError: A feature is NaN or infinite.
    """
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    reader = _Reader(classifier, data, config, budget, progress)
    loss = build_run_loss(config, data)
    require_memory(len(reader.train), len(reader.val), classifier.backbone.feature_dim)
    started = time.perf_counter()
    train, val = reader.read(reader.train), reader.read(reader.val)
    choice = _choose(config, data, loss, classifier, (reader.train, train), (reader.val, val))
    _take_over(classifier.head.last, choice.head)
    seen = reader.evaluate(reader.val, val)
    seconds = time.perf_counter() - started
    validation = measure(seen, loss)
    if recorder is not None:
        told = {f"val/{name}": validation[name] for name in dict.fromkeys((*CHEAP, config.metric))}
        told["train/loss"] = measure(reader.evaluate(reader.train, train), loss, ["loss"])["loss"]
        told |= {"ridge/strength": choice.strength, "ridge/temperature": 1 / choice.factor}
        recorder.record(told, 1)
    test = reader.evaluate(reader.test, reader.read(reader.test))
    if progress is not None:
        progress(budget.total_steps)
    return Fitted(
        best_step=1,
        validation=validation,
        test=test,
        test_metrics=measure(test, loss),
        steps=1,
        train_seconds=seconds,
        images_seen=len(reader.train),
        notes=_describe_edge(choice.strength, config.head.strengths),
    )


class _Reader:
    """Reads features of a run's images, and what its head says of them."""

    def __init__(
        self,
        classifier: Classifier,
        data: ImageDataModule,
        config: Config,
        budget: Budget,
        progress: Callable[[int], None] | None,
    ) -> None:
        self.device = choose_device(config.trainer)
        self.classifier = classifier.eval().to(self.device)
        self.data = data
        self.arithmetic = ARITHMETIC[config.trainer.precision]
        limit = config.trainer.limit_batches
        most = None if limit is None else limit * EXTRACTION_BATCH
        order = np.random.default_rng(config.seed).permutation(data.split.train)
        self.train = np.sort(order[:most])
        self.val, self.test = np.asarray(data.split.val[:most]), np.asarray(data.split.test[:most])
        self._steps, self._progress, self._done = budget.total_steps, progress, 0

    @torch.no_grad()
    def read(self, rows: Int64Array) -> Tensor:
        """Return the features of ``rows`` ``(n,)``, float32 ``(n, D)`` on the CPU.

        Batches are always full, as where features are stored: so both give the same to the bit.

        Raises:
            DivergedError: A feature is NaN or infinite.
        """
        parts = []
        for start in range(0, len(rows), EXTRACTION_BATCH):
            batch = rows[start : start + EXTRACTION_BATCH]
            filled = np.concatenate([batch, np.full(EXTRACTION_BATCH - len(batch), batch[0])])
            x = self.data.inputs.read(filled).to(self.device)
            x = x if self.data.activations else normalise(x, self.data.preprocessing)
            with self._computing():
                features = self.classifier.features(x)
            parts.append(features[: len(batch)].float().cpu())
            self._tell(len(batch))
        found = torch.cat(parts)
        if not bool(found.isfinite().all()):
            raise DivergedError(
                "Expected finite features of the frozen backbone, but got NaN or infinity. Use "
                "`trainer.precision=32`, or other weights."
            )
        return found

    @torch.no_grad()
    def evaluate(self, rows: Int64Array, features: Tensor) -> Evaluation:
        """Return what the head says of the features of ``rows``."""
        with self._computing():
            outputs = self.classifier.head(features.to(self.device))
        return describe_outputs(self.data, rows, outputs.float().cpu())

    def _computing(self) -> torch.autocast:
        is_mixed = self.arithmetic != torch.float32
        kind = self.arithmetic if is_mixed else None
        return torch.autocast(self.device.type, dtype=kind, enabled=is_mixed)

    def _tell(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            total = len(self.train) + len(self.val) + len(self.test)
            self._progress(self._steps * self._done // total)


def describe_outputs(data: ImageDataModule, rows: Int64Array, outputs: Tensor) -> Evaluation:
    """Return outputs ``(n, classes)`` of ``rows`` ``(n,)`` as an evaluation, in the order of the data set."""
    order = np.argsort(rows)
    return Evaluation(
        torch.from_numpy(rows[order]), torch.from_numpy(data.labels[rows[order]]), outputs[order]
    )


def _choose(
    config: Config,
    data: ImageDataModule,
    loss: Loss,
    classifier: Classifier,
    train: tuple[Int64Array, Tensor],
    val: tuple[Int64Array, Tensor],
) -> _Choice:
    """Return the head that is best on validation; of equal ones that of lower loss, then the stronger one."""
    last = classifier.head.last
    assert isinstance(last, nn.Linear)
    strengths = sorted(set(config.head.strengths))
    heads = solve_ridge(
        train[1].double().numpy(),
        data.labels[train[0]],
        last.out_features,
        strengths,
        _weigh_images(config, data, train[0]),
    )
    features, labels = val[1].double().numpy(), data.labels[val[0]]
    choices = []
    for strength, head in zip(strengths, heads, strict=True):
        scores = head.scores(features)
        factor = find_temperature(scores, labels)
        seen = describe_outputs(data, val[0], torch.from_numpy(factor * scores).float())
        metrics = measure(seen, loss, dict.fromkeys((*CHEAP, config.metric)))
        standing = (*rank_validation(metrics, config.metric), strength)
        choices.append(_Choice(standing, strength, factor, head.scaled(factor)))
    return max(choices, key=lambda choice: choice.standing)


def _weigh_images(config: Config, data: ImageDataModule, rows: Int64Array) -> Float64Array | None:
    """Return how much each training image counts, ``(n,)``, or None for all alike.

    Raises:
        GraftError: None counts at all.
    """
    counts = np.bincount(data.labels[rows], minlength=int(data.labels.max()) + 1)
    by_class = weigh_classes(config.data, counts) or config.loss.class_weights
    if by_class is None and data.image_weights is None:
        return None
    weights = np.ones(len(rows)) if by_class is None else np.asarray(by_class)[data.labels[rows]]
    if data.image_weights is not None:
        weights = weights * data.image_weights[rows]
    if not weights.any():
        raise GraftError(
            "Expected a weight above 0 for a training image, but all are 0. Give `loss.class_weights` a "
            "value above 0 for a class that has training images."
        )
    return np.asarray(weights, dtype=np.float64)


@torch.no_grad()
def _take_over(last: nn.Module, head: RidgeHead) -> None:
    assert isinstance(last, nn.Linear)
    last.weight.copy_(torch.from_numpy(head.weight))
    last.bias.copy_(torch.from_numpy(head.bias))


def _describe_edge(strength: float, strengths: list[float]) -> tuple[str, ...]:
    """Say where a better strength may lie beyond those that were tried."""
    if len(set(strengths)) == 1 or strength not in (min(strengths), max(strengths)):
        return ()
    end, further = ("lowest", strength / 10) if strength == min(strengths) else ("highest", strength * 10)
    where = f"The chosen strength {strength:g} is the {end} of `head.strengths`"
    return (f"{where}: a better one may lie beyond. Add {further:g}.",)


def choose_fit(config: Config) -> Callable[..., Fitted]:
    """Return what trains a run: `fit` step by step, `fit_ridge` at once; both take the same arguments."""
    return fit_ridge if config.head.name == "ridge" else fit
