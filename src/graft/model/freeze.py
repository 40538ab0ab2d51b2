"""Frozen means frozen: no gradient, no optimizer, no mode, no buffer of a frozen part ever changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from torch import nn
from torch.nn import Parameter

from graft.config.names import STAGES
from graft.errors import GraftError
from graft.model.graph import norm_parameters
from graft.model.stages import Part

if TYPE_CHECKING:
    from graft.model.classifier import Classifier


class _Member(NamedTuple):
    group: str
    name: str
    parameter: Parameter
    decays: bool
    is_frozen: bool


def freeze(classifier: Classifier, depth: int) -> None:
    """Freeze the leading ``depth`` stages, let the others train; a depth always gives the same state.

    Args:
        classifier: Changed in place: gradients, modes and what runs without a graph.
        depth: 0 = all stages train ... 5 = only the head trains.

    Raises:
        GraftError: ``depth`` is not between 0 and 5.
    """
    if not 0 <= depth <= STAGES:
        raise GraftError(f"Expected `transfer.freeze_depth` between 0 and {STAGES}, but got {depth}.")
    backbone = classifier.backbone
    for number, stage in enumerate(backbone.stages, start=1):
        stage.requires_grad_(number > depth)
    backbone.frozen_depth = depth
    classifier.train(classifier.training)


def parameter_groups(classifier: Classifier) -> dict[str, list[tuple[str, Parameter]]]:
    """Sort every parameter that trains into one named group.

    Returns:
        ``stage1/decay``, ``stage1/no_decay`` ... ``head/decay``, ``head/no_decay``; a group may be empty.
        Norms and
        biases are in ``no_decay``.

    Raises:
        RuntimeError: A parameter is in two groups, in none though it trains, or declared frozen though it
        trains.
    """
    places = [f"stage{number}" for number in range(1, STAGES + 1)] + ["head"]
    groups: dict[str, list[tuple[str, Parameter]]] = {
        f"{place}/{kind}": [] for place in places for kind in ("decay", "no_decay")
    }
    claimed: dict[int, str] = {}
    for member in _members(classifier):
        if id(member.parameter) in claimed:
            raise RuntimeError(
                f"{member.name} is claimed by {claimed[id(member.parameter)]} and by {member.group}."
            )
        claimed[id(member.parameter)] = member.group
        if member.is_frozen == member.parameter.requires_grad:
            declared = "frozen" if member.is_frozen else "trained"
            raise RuntimeError(f"{member.name} is declared {declared}, but its gradient says otherwise.")
        if not member.is_frozen:
            kind = "decay" if member.decays else "no_decay"
            groups[f"{member.group}/{kind}"].append((member.name, member.parameter))
    forgotten = [name for name, parameter in classifier.named_parameters() if id(parameter) not in claimed]
    if forgotten:
        raise RuntimeError(f"Claimed by no group and not declared frozen: {', '.join(forgotten)}.")
    return groups


def _members(classifier: Classifier) -> Iterator[_Member]:
    """Walk through all parameters, stage by stage, saying what each is."""
    backbone, head = classifier.backbone, classifier.head
    for number, stage in enumerate(backbone.stages, start=1):
        assert isinstance(stage, Part)
        for name, parameter in stage.named_parameters():
            full = f"backbone.stages.{number - 1}.{name}"
            decays = name not in stage.norms and not _is_bias(name)
            yield _Member(f"stage{number}", full, parameter, decays, number <= backbone.frozen_depth)
    norms = norm_parameters(head) | _norms_of_parts(head)
    for name, parameter in head.named_parameters():
        is_frozen = name in head.frozen_names
        yield _Member("head", f"head.{name}", parameter, name not in norms and not _is_bias(name), is_frozen)


def _norms_of_parts(module: nn.Module) -> frozenset[str]:
    return frozenset(
        f"{path}.{name}" if path else name
        for path, part in module.named_modules()
        if isinstance(part, Part)
        for name in part.norms
    )


def _is_bias(name: str) -> bool:
    """Say whether a parameter is a bias: ``bias``, ``in_proj_bias``, ``bias_hh_l0``."""
    leaf = name.rpartition(".")[2]
    return leaf == "bias" or leaf.endswith("_bias") or leaf.startswith("bias_")
