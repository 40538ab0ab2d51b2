"""Train a source model and write it as a weights bundle."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from graft import __version__
from graft.config.schema import Config
from graft.errors import GraftError
from graft.inputs import open_run_images
from graft.model.bundle import Sidecar, bundle_folder, read_sidecar, verify
from graft.model.weights import write_bundle
from graft.plan.arms import effective_backbone
from graft.plan.spec import RunSpec, specify
from graft.progress import show_progress
from graft.run import decode_images, gather_facts
from graft.sweep.worker import Job, execute_job
from graft.track.reader import finished_runs, read_run
from graft.track.results import checkpoint_folder
from graft.track.store import open_store
from graft.track.writer import RunWriter

#: Numbers of the training that a bundle passes on.
_TOLD = ("val/", "test/", "train_seconds")


def make_bundle(config: Config, console: Console) -> None:
    """Train the source model that ``config`` describes, unless it is there already, and write its bundle.

    Args:
        config: A valid configuration; its weights are kept whatever it says of that.
        console: Where to say what was done.

    Raises:
        GraftError: When stages are frozen: a run keeps what it trained, and a bundle holds a whole network.
        RunFailedError: When the training did not finish.
    """
    frozen = config.transfer.freeze_until or config.transfer.freeze_depth
    if frozen:
        raise GraftError(
            "Expected `transfer.freeze_depth=0` to make a weights bundle, which holds a whole network, but "
            f"got {frozen}. To go on from other weights: `transfer=fine_tune`."
        )
    config = replace(config, checkpoint=replace(config.checkpoint, keep="all"))
    root = Path(config.paths.root).resolve()
    name = config.bundle.name or f"{config.data.name}-{config.backbone.name}"
    folder = bundle_folder(root, name)
    with show_progress(console, "reading images") as progress:
        spec = specify(config, gather_facts(config, progress))
    if _made_by(folder) == spec.key:
        console.print(f"The bundle {name!r} is there already: {folder}")
        return
    store = open_store(config.tracking.uri, root)
    run_id = finished_runs(store).get(spec.key)
    kept = checkpoint_folder(root, spec.key) / "weights.safetensors"
    if run_id is None or not kept.exists():
        console.print(f"Pretraining {config.backbone.name} on {config.data.name} for the bundle {name!r}.")
        with show_progress(console, "decoding images") as progress:
            decode_images(spec, progress)
        with show_progress(console, "training steps") as progress:
            execute_job(Job(spec), progress).require_finished()
        run_id = finished_runs(store)[spec.key]
    sidecar = _describe(spec, read_run(store, run_id).metrics)
    state, head = _split_state(load_file(kept))
    write_bundle(folder, state, head, sidecar)
    RunWriter(store, run_id).log_folder(folder, "bundle")
    shown = ", ".join(
        f"{key} {value:.3f}" for key, value in sidecar.metrics.items() if key.endswith("/accuracy")
    )
    console.print(f"The bundle {name!r} is written ({shown}): {folder}\nUse it: backbone.weights={name}")


def _made_by(folder: Path) -> str:
    """Return the run key of the run that made a bundle, empty when there is no sound one."""
    try:
        sidecar = read_sidecar(folder)
        verify(folder, sidecar)
    except GraftError:
        return ""
    return sidecar.run_key


def _describe(spec: RunSpec, metrics: Mapping[str, float]) -> Sidecar:
    """Return what the bundle says about itself; hash and size are filled in when it is written."""
    images = open_run_images(spec.config)
    return Sidecar(
        architecture=spec.config.backbone.name,
        options=effective_backbone(spec.config),
        classes=list(images.class_names),
        channels=int(spec.facts.preprocessing["channels"]),
        image_size=int(spec.facts.preprocessing["size"]),
        preprocessing=dict(spec.facts.preprocessing),
        data=spec.config.data.name,
        data_digest=spec.facts.data_digest,
        metrics={key: value for key, value in metrics.items() if key.startswith(_TOLD)},
        graft_version=__version__,
        run_key=spec.key,
        parent=spec.facts.weights_sha256,
    )


def _split_state(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Divide a checkpoint into the backbone's tensors, by the names of the network, and the head's."""
    stages = re.compile(r"^backbone\.stages\.\d+\.")
    backbone = {stages.sub("", name): value for name, value in state.items() if stages.match(name)}
    head = {name.removeprefix("head."): value for name, value in state.items() if name.startswith("head.")}
    return backbone, head
