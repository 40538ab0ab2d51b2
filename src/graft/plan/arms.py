"""What is compared (arm), how it was tuned (trial), on what (condition), and the from-scratch twin of an arm.

All three are canonical text of values, so that two runs that mean the same are named the same.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, Self

from graft.config.names import PRETRAINED, ROW_BACKBONES, STAGES
from graft.config.schema import AugmentConfig, Config, DataConfig, HeadConfig, LossConfig, OptimConfig
from graft.plan.obstacles import effective_rounding

#: Heads that are linear: on a frozen backbone they are probes, whatever the method is called.
_LINEAR_HEADS = ("linear", "ridge")

#: Heads that are not linear, and train alike under ``linear_probe`` and ``fine_tune`` at depth 5.
_OTHER_HEADS = ("mlp", "cosine")


class _CanonicalText:
    """Dataclass fields as ``key=value`` words, and back."""

    @property
    def text(self) -> str:
        """Canonical text, the same for the same values; what has its default is left out."""
        defaults = {item.name: item.default for item in fields(self)}  # type: ignore[arg-type]
        said = {key: value for key, value in asdict(self).items() if value != defaults[key]}  # type: ignore[call-overload]
        return shlex.join(f"{key}={_plain(value)}" for key, value in said.items())

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read canonical text back.

        Raises:
            ValueError: When the text is not one that `text` gave.
        """
        words = dict(word.split("=", 1) for word in shlex.split(text))
        kinds = {item.name: item.type for item in fields(cls)}  # type: ignore[arg-type]
        needed = {item.name for item in fields(cls) if item.default is MISSING}  # type: ignore[arg-type]
        if not needed <= set(words) <= set(kinds):
            raise ValueError(f"expected the words {sorted(kinds)}, but got {sorted(words)}")
        return cls(**{key: int(value) if kinds[key] == "int" else value for key, value in words.items()})


@dataclass(frozen=True)
class Arm(_CanonicalText):
    """What is compared.

    Attributes:
        freeze_until: The node up to which it is frozen, empty where that is the end of a natural stage.
    """

    backbone: str
    weights: str
    method: str
    freeze_depth: int
    head: str
    loss: str
    augment: str
    input: str
    freeze_until: str = ""

    @property
    def from_scratch(self) -> bool:
        """Whether the arm uses no pretrained weights and trains everything."""
        return self.method == "from_scratch"

    @property
    def label(self) -> str:
        """Short name for tables and figures."""
        frozen = f", frozen to {self.freeze_until or self.freeze_depth}" if self.freeze_depth else ""
        solved = self.method == "linear_probe" and self.head == "ridge"
        method = {
            "from_scratch": "from scratch",
            "linear_probe": "ridge probe" if solved else "linear probe",
            "fine_tune": f"fine-tune{frozen}",
            "random_features": f"random features{frozen}",
        }[self.method]
        parts = [method, self.backbone]
        parts += [self.weights.partition("@")[0]] if self.weights != "none" else []
        parts += [
            value
            for value, usual in (
                (self.head, "ridge" if solved else "linear"),
                (self.loss, "cross_entropy"),
                (self.augment, "none"),
            )
            if value != usual
        ]
        return " · ".join(parts)

    @property
    def twin(self) -> Arm:
        """The from-scratch arm that answers this one."""
        head = re.sub(r"\(init=from_weights\)|init=from_weights,|,init=from_weights", "", self.head)
        head = "linear" if head == "ridge" else head
        scratch = {"weights": "none", "method": "from_scratch", "freeze_depth": 0, "freeze_until": ""}
        return replace(self, **scratch, head=head)  # type: ignore[arg-type]


def normalise(config: Config, *, grid: bool = False) -> Config:
    """Return the one spelling of a configuration that means the same.

    ``fine_tune`` at depth 5 with a linear head *is* ``linear_probe``; with an ``mlp`` or ``cosine``
    head, which trains alike under both, both are ``fine_tune``. In a grid the depth axis
    applies to pretrained arms only: from scratch loses its depth, and its head where that needs weights;
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
        transfer, head = replace(transfer, freeze_depth=0, freeze_until=None), _without_weights(head)
    if grid and transfer.method == "linear_probe":
        transfer = replace(transfer, freeze_depth=STAGES, freeze_until=None)
    if transfer.method == "fine_tune" and transfer.freeze_depth == STAGES and head.name in _LINEAR_HEADS:
        transfer = replace(transfer, method="linear_probe")
    if transfer.method == "linear_probe" and transfer.freeze_depth == STAGES and head.name in _OTHER_HEADS:
        transfer = replace(transfer, method="fine_tune")
    return replace(config, transfer=transfer, head=head)


def _without_weights(head: HeadConfig) -> HeadConfig:
    """Return the head as from scratch has it: new, and trained where it is solved on frozen features."""
    name = "linear" if head.name == "ridge" else head.name
    return replace(head, name=name, init="new" if head.init == "from_weights" else head.init)


def place_cut(config: Config, depth: int | None, natural: bool) -> Config:
    """Return the one spelling of ``transfer.freeze_until``, which a node at the end of a stage does not need.

    Args:
        config: The configuration.
        depth: The stage that the node ends, None where no node is named.
        natural: Whether that stage ends there anyway.
    """
    if depth is None:
        return config
    until = None if natural else config.transfer.freeze_until
    return replace(config, transfer=replace(config.transfer, freeze_depth=depth, freeze_until=until))


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
        transfer=replace(config.transfer, method="from_scratch", freeze_depth=0, freeze_until=None),
        backbone=replace(config.backbone, allow_partial=False),
        head=_without_weights(config.head),
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
        freeze_until=config.transfer.freeze_until or "",
    )


def describe_trial(config: Config) -> str:
    """Return the canonical text of how the run is tuned."""
    return _words(effective_tuning(config))


def effective_tuning(config: Config) -> dict[str, Any]:
    """Return the ``optim`` values in effect and the batch size; of a head that is solved, its strengths.

    With them goes what activations are rounded to, where they are.
    """
    rounding = effective_rounding(config)
    rounded = {"activations": rounding} if rounding else {}
    if config.head.name == "ridge":
        return {"strengths": sorted(set(config.head.strengths)), **rounded}
    optim = effective_optim(config.optim, config.transfer.freeze_depth)
    return optim | {"batch_size": config.data.batch_size, **rounded}


def effective_backbone(config: Config) -> dict[str, Any]:
    """Return the backbone's options that its architecture reads."""
    if config.backbone.name in ROW_BACKBONES:
        return {"hidden_size": config.backbone.hidden_size, "layers": config.backbone.layers}
    return {}


def effective_head(head: HeadConfig) -> dict[str, Any]:
    """Return the knobs of a head that have an effect."""
    knobs: dict[str, Any] = {"name": head.name}
    if head.name == "ridge":
        return knobs
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
