"""Models in MLflow: logged with their run, registered, and the best one called the champion."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from graft.track.away import needing_answers
from graft.track.store import Store

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from torch import nn

#: The alias of the best arm's model.
CHAMPION = "champion"

#: What a logged model needs to be loaded; MLflow would take seconds to find that out.
_PACKAGES = ("mlflow", "numpy", "torch")

#: Name of a model beside its run, and of its folder.
_NAME = "model"


@dataclass(frozen=True)
class Candidate:
    """A model to register.

    Attributes:
        run_id: The run that trained it.
        tags: What it can be found by.
        build: Returns it, in eval mode: uint8 images ``(N, C, size, size)`` to scores ``(N, classes)``.
        example: A batch of at least two images; MLflow would fix the size of a batch of one.
        classes: Number of scores.
    """

    run_id: str
    tags: Mapping[str, str]
    build: Callable[[], nn.Module]
    example: npt.NDArray[np.uint8]
    classes: int


def name_registered(*parts: str) -> str:
    """Return the name under which models are registered: of an experiment, and of a part of it.

    >>> name_registered("pets"), name_registered("digits/transfer", "letters")
    ('graft-pets', 'graft-digits-transfer+letters')
    """
    return f"graft-{'+'.join(parts)}".translate(str.maketrans("/:", "--"))


def register_models(store: Store, name: str, candidates: Sequence[Candidate]) -> int:
    """Log and register the models that are not registered yet, and call the first one the champion.

    Args:
        store: Where to write.
        name: Name of the registered model.
        candidates: The best one first; at least one.

    Returns:
        How many models were added.

    Raises:
        StoreAwayError: When the store does not answer.
    """
    with needing_answers(store.uri):
        known = _list_versions(store, name)
        fresh = [one for one in candidates if one.run_id not in known]
        for candidate in fresh:
            known[candidate.run_id] = _register(store, name, candidate)
        client = store.client
        client.set_registered_model_alias(name, CHAMPION, known[candidates[0].run_id].version)
    return len(fresh)


def _list_versions(store: Store, name: str) -> dict[str, ModelVersion]:
    """Return the versions of a registered model, made where it is not there, by the run that trained them."""
    from mlflow.exceptions import MlflowException

    try:
        store.client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    found: dict[str, ModelVersion] = {}
    token: str | None = None
    while True:
        quoted = name.replace("'", "\\'")
        page = store.client.search_model_versions(f"name = '{quoted}'", page_token=token)
        found |= {str(one.run_id): one for one in page}
        token = page.token
        if not token:
            return found


def _register(store: Store, name: str, candidate: Candidate) -> ModelVersion:
    """Log a model with its run, whose status and times stay as they are, and add it as a version."""
    from mlflow.entities import LoggedModelOutput

    client, run_id, tags = store.client, candidate.run_id, dict(candidate.tags)
    experiment_id = client.get_run(run_id).info.experiment_id
    model = client.create_logged_model(experiment_id, _NAME, source_run_id=run_id, tags=tags)
    try:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / _NAME
            _save(place, model.artifact_location, model.model_id, candidate)
            client.log_model_artifacts(model.model_id, str(place))
    except BaseException:
        client.finalize_logged_model(model.model_id, "FAILED")
        raise
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return client.create_model_version(
        name, source=model.artifact_location, run_id=run_id, model_id=model.model_id, tags=tags
    )


def _save(place: Path, location: str, model_id: str, candidate: Candidate) -> None:
    """Write a model as a graph, which runs no pickled code when it is loaded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns of its own modules when they are imported
        import mlflow.pytorch
        from mlflow.models import Model, ModelSignature
        from mlflow.types import Schema, TensorSpec

        images = TensorSpec(np.dtype("uint8"), (-1, *candidate.example.shape[1:]))
        scores = TensorSpec(np.dtype("float32"), (-1, candidate.classes))
        about = Model(artifact_path=location, run_id=candidate.run_id, model_uuid=model_id, model_id=model_id)
        mlflow.pytorch.save_model(
            candidate.build().eval(),
            str(place),
            mlflow_model=about,
            signature=ModelSignature(Schema([images]), Schema([scores])),
            input_example=candidate.example,
            pip_requirements=[f"{package}=={version(package)}" for package in _PACKAGES],
            serialization_format="pt2",
        )
