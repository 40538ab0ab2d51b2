"""The images of runs as MLflow data sets, by name and digest: nothing of them is read."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence

from graft.plan.spec import RunSpec
from graft.track.away import ask_patiently
from graft.track.store import Store

#: MLflow takes digests of so many characters.
_LONGEST_DIGEST = 36


def log_data(store: Store, run_id: str, specs: Sequence[RunSpec]) -> None:
    """Say which images a run, or the runs of a sweep, work on: one call, whose cost is that of a tag.

    Two processes that name the same new data set at once get in each other's way, and try again. It is an
    extra for the dashboard, and the tags say the same: a store that does not take it stops no run.

    Args:
        store: Where to write.
        run_id: The run.
        specs: What it is about; each data set is named once.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    found = {}
    for spec in specs:
        data, digest = spec.config.data, spec.facts.data_digest
        place = {"root": data.root, "table": data.table}
        source = {"name": data.name, **{key: value for key, value in place.items() if value}}
        found[digest] = Dataset(
            name=data.name,
            digest=digest[:_LONGEST_DIGEST],
            source_type="graft",
            source=json.dumps(source),
            profile=json.dumps({"sha256": digest}),
        )
    inputs = [DatasetInput(one, [InputTag("mlflow.data.context", "training")]) for one in found.values()]
    with contextlib.suppress(MlflowException, RequestException, SQLAlchemyError):
        ask_patiently(lambda: store.client.log_inputs(run_id, inputs))
