"""Load weights into a backbone, and say exactly what does not fit."""

from __future__ import annotations

from collections.abc import Set

from torch import Tensor

from graft.config.schema import HeadConfig
from graft.errors import GraftError
from graft.model.backbone import Backbone
from graft.model.tensor_files import current_name
from graft.model.weights import LoadedWeights

_LINES_SHOWN = 20
# Classifiers that torchvision's googlenet and inception_v3 use in their own training only.
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
# What wrappers put before the names of the network that they hold.
_PREFIXES = ("module.", "model.", "backbone.")


def apply_weights(
    backbone: Backbone, loaded: LoadedWeights, head: HeadConfig, *, allow_partial: bool
) -> tuple[dict[str, Tensor], list[str]]:
    """Load weights into a backbone and into its tail.

    Args:
        backbone: Changed in place.
        loaded: The weights.
        head: Says whether the network's own classifier is kept, and whether its last layer is.
        allow_partial: Go on with what fits where something does not.

    Returns:
        The head that came with the weights, and lines that the user should read.

    Raises:
        GraftError: Names or shapes differ; prints the difference.
    """
    tail = backbone.tail.state_dict() if backbone.tail is not None else {}
    last_layer = f"{backbone.plan.last_layer}."
    own = backbone.network_state_dict()
    if head.name == "pretrained_classifier":
        own |= {name: value for name, value in tail.items() if not name.startswith(last_layer)}
    state = _rename(loaded.state, own.keys() | tail.keys())
    given = {name: value for name, value in state.items() if name in own or not name.startswith(_AUXILIARY)}
    given |= {name: value for name, value in loaded.head.items() if name in tail}
    child = f"{last_layer.split('.')[0]}."
    is_head = {name: name not in own and (name in tail or name.startswith(child)) for name in given}
    body = {name: value for name, value in given.items() if not is_head[name]}
    weights_head = loaded.head or {name: given[name] for name in given if name in tail}
    lines = _compare(own, body, backbone.table_names)
    fitting = {name: value for name, value in body.items() if name in own and own[name].shape == value.shape}
    if lines and not (allow_partial and fitting):
        raise GraftError(_describe(loaded, lines, bool(fitting)))
    _refuse_non_finite(loaded, fitting | weights_head)
    backbone.load_network_state_dict(fitting)
    notes = list(loaded.source.notes) + _describe_head(
        weights_head or {n: given[n] for n in given if is_head[n]}, head
    )
    if lines:
        notes.append(
            f"{loaded.source.name} was loaded partly "
            f"(`backbone.allow_partial`): {len(fitting)} of {len(own)} tensors."
        )
    return weights_head, notes


def _rename(state: dict[str, Tensor], known: Set[str]) -> dict[str, Tensor]:
    """Return tensors by the names of the network: without the prefixes of wrappers, and without old names.

    Args:
        state: Tensors by the names of a file.
        known: Names of the network; what it calls by such a name or prefix itself is left alone, and so are
            two networks in one file, whose names would fall together.
    """
    for prefix in _PREFIXES * 2:
        bare = {name.removeprefix(prefix): value for name, value in state.items()}
        if len(bare) == len(state) and not any(name.startswith(prefix) for name in known):
            state = bare
    return {name if name in known else current_name(name): value for name, value in state.items()}


def _compare(own: dict[str, Tensor], given: dict[str, Tensor], tables: frozenset[str]) -> list[str]:
    """List the differences: missing -, unexpected +, other shapes with !=."""
    missing = [
        name
        for name in own
        if name not in given
        and name not in tables  # fixed by the architecture
        and not name.endswith("num_batches_tracked")  # files older than PyTorch 0.4.1 lack it
    ]
    return (
        [f"- {name} {tuple(own[name].shape)}" for name in missing]
        + [f"+ {name} {tuple(given[name].shape)}" for name in given if name not in own]
        + [
            f"  {name}: {tuple(own[name].shape)} != {tuple(given[name].shape)}"
            for name in own
            if name in given and own[name].shape != given[name].shape
        ]
    )


def _refuse_non_finite(loaded: LoadedWeights, state: dict[str, Tensor]) -> None:
    """Refuse weights that no training could have meant: they would look like a diverged run."""
    for name, value in state.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise GraftError(
                f"Expected finite numbers in the weights {loaded.source.name!r}, but {name!r} holds nan or "
                "inf: the file is damaged, or its training diverged."
            )


def _describe(loaded: LoadedWeights, lines: list[str], something_fits: bool) -> str:
    shown = lines[:_LINES_SHOWN] + (
        [f"  ... and {len(lines) - _LINES_SHOWN} more"] if len(lines) > _LINES_SHOWN else []
    )
    listed = "\n".join(f"    {line}" for line in shown)
    way_on = (
        " `backbone.allow_partial=true` goes on with what fits." if something_fits else " Nothing in it fits."
    )
    return (
        f"Expected the weights of {loaded.source.name} to fit the network, but {len(lines)} tensors differ "
        f"(- missing, + unexpected, expected != given):\n{listed}\n {way_on}"
    )


def _describe_head(weights_head: dict[str, Tensor], head: HeadConfig) -> list[str]:
    if not weights_head or head.init == "from_weights":
        return []
    outputs = [value.shape[0] for value in weights_head.values() if value.dim()][-1]
    what = "last layer of the head" if head.name == "pretrained_classifier" else "head"
    line = f"The {what} that came with the weights ({outputs} outputs) is left out"
    return [f"{line}; the new one starts by `head.init={head.init}`."]
