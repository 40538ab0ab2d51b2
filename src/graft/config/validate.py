"""Check a whole configuration and return every complaint at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Set
from dataclasses import Field, fields, is_dataclass
from typing import Any, NamedTuple

from graft.config import names
from graft.config.schema import Config
from graft.errors import GraftError, expected_one_of

#: The knob that is wrong by itself, and the complaint.
_Single = tuple[str, str]


class _Together(NamedTuple):
    """Knobs that do not go together, and the complaint."""

    keys: tuple[str, ...]
    complaint: str


def validate(config: Config) -> list[str]:
    """Return all complaints about ``config``, an empty list when there is none.

    Args:
        config: A composed configuration whose types are right already.
    """
    single = [*_check_fields(config, ""), *_check_names(config)]
    wrong = {key for key, _ in single}
    return [*(complaint for _, complaint in single), *_check_combinations(config, wrong)]


def require_valid(config: Config) -> None:
    """Raise one `GraftError` that holds all complaints about ``config``.

    Raises:
        GraftError: When there is at least one complaint.
    """
    complaints = validate(config)
    if len(complaints) == 1:
        raise GraftError(complaints[0])
    if complaints:
        listed = "\n".join(f"  {number}. {complaint}" for number, complaint in enumerate(complaints, 1))
        raise GraftError(f"The configuration has {len(complaints)} mistakes:\n{listed}")


def _check_fields(section: Any, prefix: str) -> Iterator[_Single]:
    """Check every value against the range and the choices that the schema gives it."""
    for item in fields(section):
        key, value = f"{prefix}{item.name}", getattr(section, item.name)
        if is_dataclass(value):
            yield from _check_fields(value, f"{key}.")
        elif value == "":
            meaning = item.metadata["meaning"]
            yield key, f"Expected a value for `{key}` ({meaning}), but got none. Give it as `{key}=...`."
        elif isinstance(value, list):
            for position, entry in enumerate(value):
                yield from ((key, complaint) for complaint in _check_value(f"{key}[{position}]", entry, item))
        elif value is not None:
            yield from ((key, complaint) for complaint in _check_value(key, value, item))


def _check_value(key: str, value: Any, item: Field[Any]) -> Iterator[str]:
    low, high, choices = item.metadata["low"], item.metadata["high"], item.metadata["choices"]
    if choices and value not in choices:
        yield expected_one_of(key, value, choices)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if not math.isfinite(value):
        yield f"Expected `{key}` to be a finite number, but got {value}."
    elif (low is not None and value < low) or (high is not None and value > high):
        yield f"Expected `{key}` {_between(low, high)}, but got {_number(value)}."


def _between(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"between {_number(low)} and {_number(high)}"
    return f"at least {_number(low)}" if low is not None else f"at most {_number(high or 0)}"


def _number(value: float) -> str:
    """Write whole numbers with all their digits, which ``g`` would round away."""
    return str(value) if isinstance(value, int) else f"{value:g}"


def _check_names(config: Config) -> list[_Single]:
    """Check the names of builders against the closed registries."""
    registries: list[tuple[str, str, tuple[str, ...]]] = [
        ("data.name", config.data.name, names.DATA_SETS),
        ("head.name", config.head.name, names.HEADS),
        ("loss.name", config.loss.name, names.LOSSES),
        ("augment.name", config.augment.name, names.AUGMENTATIONS),
        ("metric", config.metric, (*names.METRICS, names.AUTO_METRIC)),
    ]
    backbone = config.backbone.name
    if backbone not in names.BACKBONES:  # asking installed packages costs time, so only when it can matter
        registries.append(("backbone.name", backbone, names.BACKBONES + names.entry_point_backbones()))
    return [
        (key, expected_one_of(key, value, known))
        for key, value, known in registries
        if value != "" and value not in known
    ]


def _check_combinations(config: Config, wrong: Set[str]) -> Iterator[str]:
    """Check what is allowed singly but impossible together, where each of it is right singly."""
    for check in _COMBINATIONS:
        for keys, complaint in check(config):
            if wrong.isdisjoint(keys):
                yield complaint


def _check_method(config: Config) -> Iterator[_Together]:
    method, depth, weights = config.transfer.method, config.transfer.freeze_depth, config.backbone.weights
    both = ("transfer.method", "transfer.freeze_depth")
    if method == "from_scratch" and depth > 0:
        yield _Together(
            both,
            f"Expected `transfer.freeze_depth=0` with `transfer=from_scratch`, but got {depth}: frozen "
            "random stages are not training from scratch; that control is `transfer=random_features`.",
        )
    if method == "random_features" and depth == 0:
        yield _Together(
            both,
            f"Expected `transfer.freeze_depth` between 1 and {names.STAGES} with `transfer=random_features`, "
            "but got 0: that is `transfer=from_scratch`.",
        )
    if method == "linear_probe" and depth != names.STAGES:
        yield _Together(
            both,
            f"Expected `transfer.freeze_depth={names.STAGES}` with `transfer=linear_probe`, but got {depth}. "
            "For another depth ask for `transfer=fine_tune`.",
        )
    if method in names.PRETRAINED and weights == "none":
        yield _Together(
            ("transfer.method", "backbone.weights"),
            f"Expected pretrained weights with `transfer={method}`, but got `backbone.weights=none`. "
            "Give the name of a bundle made by `graft pretrain`, a path, or `default`; or ask for "
            "`transfer=from_scratch`.",
        )
    until = config.transfer.freeze_until
    if until is not None and method != "fine_tune":
        yield _Together(
            ("transfer.method", "transfer.freeze_until"),
            f"Expected `transfer=fine_tune` with `transfer.freeze_until={until}`, but got {method!r}.",
        )
    if method not in names.PRETRAINED and config.head.init == "from_weights":
        yield _Together(
            ("transfer.method", "head.init"),
            f"Expected `head.init` new or zero with `transfer={method}`, which loads no weights, "
            "but got from_weights.",
        )


def _check_data(config: Config) -> Iterator[_Together]:
    data = config.data
    if data.name == "folder" and data.root is None:
        yield _Together(
            ("data.name", "data.root"), "Expected `data.root=<folder>` with `data=folder`, but got none."
        )
    if data.val_labels_per_class is not None and data.labels_per_class is None:
        yield _Together(
            ("data.val_labels_per_class", "data.labels_per_class"),
            "Expected `data.labels_per_class` beside `data.val_labels_per_class`, but got none.",
        )
    for key, size in (("data.test_size", data.test_size), ("data.val_size", data.val_size)):
        if math.isfinite(size) and size >= 1 and size != int(size):
            yield _Together(
                (key,),
                f"Expected `{key}` to be a fraction below 1 or a whole number of images, but got {size:g}.",
            )
    if data.val_size == 0:
        yield _Together(
            ("data.val_size",),
            "Expected `data.val_size` above 0, but got 0: validation chooses the epoch and the trial.",
        )
    if data.std is not None and any(std == 0 for std in data.std):
        yield _Together(("data.std",), f"Expected `data.std` above 0 in every channel, but got {data.std}.")


def _check_source(config: Config) -> Iterator[_Together]:
    data = config.data
    if data.name == "table" and data.table is None:
        yield _Together(
            ("data.name", "data.table"), "Expected `data.table=<file>` with `data=table`, but got none."
        )
    if data.name != "table" and data.table is not None:
        yield _Together(
            ("data.name", "data.table"),
            f"Expected `data=table` with `data.table`, but got {data.name!r}, which reads no table.",
        )


def _check_split(config: Config) -> Iterator[_Together]:
    data = config.data
    if data.label_fraction == 0:
        yield _Together(("data.label_fraction",), "Expected `data.label_fraction` above 0, but got 0.")
    if data.label_fraction is not None and data.labels_per_class is not None:
        yield _Together(
            ("data.label_fraction", "data.labels_per_class"),
            "Expected one label budget, but got both `data.label_fraction` and `data.labels_per_class`.",
        )
    if data.folds is not None and data.fold >= data.folds:
        yield _Together(
            ("data.fold", "data.folds"),
            f"Expected `data.fold` between 0 and {data.folds - 1} with `data.folds={data.folds}`, "
            f"but got {data.fold}.",
        )
    if data.folds is None and (data.fold or data.fold_repeat):
        yield _Together(
            ("data.fold", "data.fold_repeat", "data.folds"),
            "Expected `data.folds=<how many>` beside `data.fold` and `data.fold_repeat`, but got none.",
        )
    drawing = ("labels_per_class", "val_labels_per_class", "label_fraction", "folds")
    also = [f"data.{name}" for name in drawing if getattr(data, name) is not None]
    if data.split_file is not None and also:
        yield _Together(
            ("data.split_file", *also),
            "Expected `data.split_file` to say alone which images train, choose and test, but got "
            f"{', '.join(f'`{key}`' for key in also)} beside it.",
        )


def _check_optim(config: Config) -> Iterator[_Together]:
    optim = config.optim
    if optim.nesterov and (optim.name != "sgd" or optim.momentum == 0):
        yield _Together(
            ("optim.name", "optim.momentum"),
            "Expected `optim.name=sgd` and `optim.momentum` above 0 with `optim.nesterov=true`, "
            f"but got {optim.name} and {optim.momentum:g}.",
        )
    if optim.lr == 0:
        yield _Together(("optim.lr",), "Expected `optim.lr` above 0, but got 0: nothing would train.")
    if optim.gradient_clip == 0:
        yield _Together(
            ("optim.gradient_clip",),
            "Expected `optim.gradient_clip` above 0, or null for no clipping, but got 0.",
        )


def _check_classes(config: Config) -> Iterator[_Together]:
    balance = config.data.balance
    if balance != "none" and config.loss.class_weights is not None:
        yield _Together(
            ("data.balance", "loss.class_weights"),
            f"Expected either `data.balance` or `loss.class_weights`, but got both: {balance} and "
            f"{config.loss.class_weights}.",
        )
    if config.augment.views is not None and config.augment.name == "none":
        yield _Together(
            ("augment.views", "augment.name"),
            f"Expected an augmentation with `augment.views={config.augment.views}`, but got `augment=none`, "
            "which shows every image as it is.",
        )


def _check_ridge(config: Config) -> Iterator[_Together]:
    """Check what a head that is solved on frozen features, and not trained, has no use for."""
    transfer, loss, trainer = config.transfer, config.loss, config.trainer
    if not config.head.strengths:
        yield _Together(("head.strengths",), "Expected at least one value in `head.strengths`, but got none.")
    if config.head.name != "ridge":
        return
    expected = (
        ("transfer.freeze_depth", transfer.freeze_depth == names.STAGES, "`transfer=linear_probe`",
         f"{transfer.method} with `transfer.freeze_depth={transfer.freeze_depth}`"),
        ("head.init", config.head.init == "new", "`head.init=new`", config.head.init),
        ("loss.name", loss.name == "cross_entropy" and not loss.label_smoothing,
         "`loss.name=cross_entropy` without label smoothing, to which its probabilities are fitted",
         f"{loss.name} with `loss.label_smoothing={loss.label_smoothing:g}`"),
        ("data.balance", config.data.balance != "sampler", "`data.balance=class_weights`", "sampler"),
        ("augment.name",
         config.augment.name == "none" and not (config.augment.mixup or config.augment.cutmix),
         "`augment=none` without mixup and cutmix, because it sees every image once", config.augment.name),
        ("trainer.devices", trainer.devices * trainer.num_nodes == 1, "one device",
         f"{trainer.devices * trainer.num_nodes}"),
    )  # fmt: skip
    for key, right, wanted, came in expected:
        if not right:
            yield _Together(
                ("head.name", key),
                f"Expected {wanted} with `head=ridge`, which is solved on frozen features, but got {came}.",
            )


def _check_trainer(config: Config) -> Iterator[_Together]:
    trainer = config.trainer
    if trainer.precision == "16-mixed" and trainer.accelerator == "cpu":
        yield _Together(
            ("trainer.precision", "trainer.accelerator"),
            "Expected `trainer.precision` 32 or bf16-mixed on a CPU, but got 16-mixed: it would silently "
            "become bf16.",
        )
    if trainer.accumulate > config.data.batch_size:
        yield _Together(
            ("trainer.accumulate", "data.batch_size"),
            f"Expected `trainer.accumulate` of at most `data.batch_size` ({config.data.batch_size}), "
            f"but got {trainer.accumulate}.",
        )


def _check_reuse(config: Config) -> Iterator[_Together]:
    if config.reuse.dtype != "float32" and not config.reuse.enabled:
        yield _Together(
            ("reuse.dtype", "reuse.enabled"),
            f"Expected `reuse=on` with `reuse.dtype={config.reuse.dtype}`, which says what shared "
            "activations are rounded to, but got `reuse=off`. Leave `reuse.dtype` out.",
        )


def _check_places(config: Config) -> Iterator[_Together]:
    for key, name in (
        ("tracking.experiment", config.tracking.experiment),
        ("bundle.name", config.bundle.name or "unnamed"),
    ):
        if "/" in name or "\\" in name or name.startswith("."):
            yield _Together(
                (key,),
                f"Expected `{key}` to be a plain name, because a file or folder gets it, but got {name!r}.",
            )


_COMBINATIONS = (
    _check_method,
    _check_data,
    _check_source,
    _check_split,
    _check_optim,
    _check_classes,
    _check_ridge,
    _check_trainer,
    _check_reuse,
    _check_places,
)
