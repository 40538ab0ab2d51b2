"""What is compared (arm), how it was tuned (trial), on what (condition), and the from-scratch twin of an arm.

All three are canonical text of values, so that two runs that mean the same are named the same.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from graft.config.names import PRETRAINED, ROW_BACKBONES, STAGES
from graft.config.schema import AugmentConfig, Config, DataConfig, HeadConfig, LossConfig, OptimConfig

#: Heads that are not linear, and train alike under ``linear_probe`` and ``fine_tune`` at depth 5.
_OTHER_HEADS = ("mlp", "cosine")


class _CanonicalText:
    """Dataclass fields as ``key=value`` words, and back."""

    @property
    def text(self) -> str:
        """Canonical text, the same for the same values."""
        return shlex.join(f"{key}={_plain(value)}" for key, value in asdict(self).items())  # type: ignore[call-overload]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read canonical text back.

        Raises:
            ValueError: When the text is not one that `text` gave.
        """
        words = dict(word.split("=", 1) for word in shlex.split(text))
        kinds = {item.name: item.type for item in fields(cls)}  # type: ignore[arg-type]
        if set(words) != set(kinds):
            raise ValueError(f"expected the words {sorted(kinds)}, but got {sorted(words)}")
        return cls(**{key: int(value) if kinds[key] == "int" else value for key, value in words.items()})


@dataclass(frozen=True)
class Arm(_CanonicalText):
    """What is compared."""

    backbone: str
    weights: str
    method: str
    freeze_depth: int
    head: str
    loss: str
    augment: str
    input: str

    @property
    def from_scratch(self) -> bool:
        """Whether the arm uses no pretrained weights and trains everything."""
        return self.method == "from_scratch"

    @property
    def label(self) -> str:
        """Short name for tables and figures."""
        frozen = f", frozen to {self.freeze_depth}" if self.freeze_depth else ""
        method = {
            "from_scratch": "from scratch",
            "linear_probe": "linear probe",
            "fine_tune": f"fine-tune{frozen}",
            "random_features": f"random features{frozen}",
        }[self.method]
        parts = [method, self.backbone]
        parts += [self.weights.partition("@")[0]] if self.weights != "none" else []
        parts += [
            value
            for value, usual in ((self.head, "linear"), (self.loss, "cross_entropy"), (self.augment, "none"))
            if value != usual
        ]
        return " · ".join(parts)

    @property
    def twin(self) -> Arm:
        """The from-scratch arm that answers this one."""
        head = re.sub(r"\(init=from_weights\)|init=from_weights,|,init=from_weights", "", self.head)
        return replace(self, weights="none", method="from_scratch", freeze_depth=0, head=head)


def normalise(config: Config, *, grid: bool = False) -> Config:
    """Return the one spelling of a configuration that means the same.

    ``fine_tune`` at depth 5 with a linear head *is* ``linear_probe``; with an ``mlp`` or ``cosine``
    head, which trains alike under both, both are ``fine_tune``. In a grid the depth axis
    applies to pretrained arms only: from scratch loses its depth and a head from the weights;
    the linear probe gets its own depth, and random features that freeze nothing are from scratch.

    Args:
        config: A valid configuration, or one cell of a grid.
        grid: Whether the configuration is a cell of a grid.
    """
    transfer, head = config.transfer, config.head
    if not 0 <= transfer.freeze_depth <= STAGES:  # kept, for validation to name it
        return config
    if grid and transfer.method == "random_features" and transfer.freeze_depth == 0:
        transfer = replace(transfer, method="from_scratch")
    if grid and transfer.method == "from_scratch":
        transfer = replace(transfer, freeze_depth=0)
        head = replace(head, init="new") if head.init == "from_weights" else head
    if grid and transfer.method == "linear_probe":
        transfer = replace(transfer, freeze_depth=STAGES)
    if transfer.method == "fine_tune" and transfer.freeze_depth == STAGES and config.head.name == "linear":
        transfer = replace(transfer, method="linear_probe")
    if transfer.method == "linear_probe" and transfer.freeze_depth == STAGES and head.name in _OTHER_HEADS:
        transfer = replace(transfer, method="fine_tune")
    return replace(config, transfer=transfer, head=head)


def make_twin(config: Config) -> Config | None:
    """Return the from-scratch twin of a run, or None for a run that has no use of one.

    Data, splits, budgets, architecture, preprocessing and training budget stay; what means something only
    with weights becomes neutral. ``backbone.weights`` stays too: it names the preprocessing, and is out of
    the key.
    """
    if config.transfer.method in ("from_scratch", "random_features"):
        return None
    return replace(
        config,
        transfer=replace(config.transfer, method="from_scratch", freeze_depth=0),
        backbone=replace(config.backbone, allow_partial=False),
        head=replace(config.head, init="new") if config.head.init == "from_weights" else config.head,
        optim=replace(config.optim, backbone_lr_multiplier=1.0),
    )


def describe_arm(config: Config, weights_name: str, input_name: str) -> Arm:
    """Return the arm of a normalised configuration.

    Args:
        config: The configuration.
        weights_name: Name and short hash of the pretrained weights, ``none`` without.
        input_name: Size and short hash of the preprocessing, which an arm shares with its twin.
    """
    method = config.transfer.method
    options = effective_backbone(config)
    backbone = config.backbone.name + (f"({_words(options)})" if options else "")
    return Arm(
        backbone=backbone,
        weights=weights_name if method in PRETRAINED else "none",
        method=method,
        freeze_depth=config.transfer.freeze_depth,
        head=_named(effective_head(config.head)),
        loss=_named(effective_loss(config.loss) | effective_balance(config.data)),
        augment=_named(effective_augment(config.augment)),
        input=input_name,
    )


def describe_trial(config: Config) -> str:
    """Return the canonical text of all ``optim`` values in effect and the batch size."""
    return _words(
        effective_optim(config.optim, config.transfer.freeze_depth) | {"batch_size": config.data.batch_size}
    )


def effective_backbone(config: Config) -> dict[str, Any]:
    """Return the backbone's options that its architecture reads."""
    if config.backbone.name in ROW_BACKBONES:
        return {"hidden_size": config.backbone.hidden_size, "layers": config.backbone.layers}
    return {}


def effective_head(head: HeadConfig) -> dict[str, Any]:
    """Return the knobs of a head that have an effect."""
    knobs: dict[str, Any] = {"name": head.name}
    if head.init != "new":
        knobs["init"] = head.init
    if head.name == "mlp":
        knobs |= {"hidden": head.hidden, "dropout": head.dropout, "activation": head.activation}
    return knobs


def effective_loss(loss: LossConfig) -> dict[str, Any]:
    """Return the knobs of a loss that have an effect."""
    knobs: dict[str, Any] = {"name": loss.name}
    if loss.name == "cross_entropy" and loss.label_smoothing:
        knobs["label_smoothing"] = loss.label_smoothing
    if loss.name == "focal":
        knobs["focal_gamma"] = loss.focal_gamma
    if loss.class_weights is not None:
        knobs["class_weights"] = loss.class_weights
    return knobs


def effective_balance(data: DataConfig) -> dict[str, Any]:
    """Return the knobs of class balance that have an effect, none where there is no balance."""
    if data.balance == "none":
        return {}
    beta = {"balance_beta": data.balance_beta} if data.balance == "effective_number" else {}
    return {"balance": data.balance, **beta}


def effective_augment(augment: AugmentConfig) -> dict[str, Any]:
    """Return the name of an augmentation and the knobs that have an effect."""
    knobs = asdict(augment)
    return {key: value for key, value in knobs.items() if key == "name" or value}


def effective_optim(optim: OptimConfig, freeze_depth: int) -> dict[str, Any]:
    """Return the knobs of optimizer and schedule that have an effect."""
    knobs = asdict(optim)
    unread = {
        "momentum": optim.name != "sgd",
        "nesterov": optim.name != "sgd",
        "decay_norms_and_biases": optim.weight_decay == 0,
        "backbone_lr_multiplier": freeze_depth == STAGES,
        "step_every": optim.schedule != "step",
        "decay_factor": optim.schedule not in ("step", "plateau"),
        "plateau_checks": optim.schedule != "plateau",
    }
    return {key: value for key, value in knobs.items() if not unread.get(key, False)}


def _named(knobs: Mapping[str, Any]) -> str:
    """Return ``name(option=value,...)`` of a builder's knobs."""
    options = {key: value for key, value in knobs.items() if key != "name"}
    return f"{knobs['name']}({_words(options, ',')})" if options else str(knobs["name"])


def _words(knobs: Mapping[str, Any], separator: str = " ") -> str:
    return separator.join(f"{key}={_plain(value)}" for key, value in sorted(knobs.items()))


def _plain(value: Any) -> str:
    """Return the one text of a value: 1, 1.0 and 1e0 are the same number."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{float(value):.12g}"
    if isinstance(value, list | tuple):
        return "[" + ";".join(_plain(entry) for entry in value) + "]"
    return str(value)
