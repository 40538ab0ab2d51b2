"""Tables of chosen runs in MLflow's dashboard: transfer beside from scratch, one for each label budget."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from urllib.parse import quote

from graft.config.names import METRICS
from graft.track.store import Store

#: What MLflow's page reads a shared view from: a tag of the experiment, named in the address.
_VIEW_TAG = "mlflow.sharedViewState."

#: Pixels, so that a run's name can be read whole.
_NAME_WIDTH = 520


def save_views(store: Store, experiment_id: str, budgets: Sequence[str], metric: str) -> None:
    """Keep one table for each label budget with an experiment, the best on test first.

    MLflow's page opens a table without a single metric in it, and takes other columns only from a view that
    somebody shared. It loads 100 runs at a time, which the chosen runs of all budgets together often exceed.

    Args:
        store: Where to write.
        experiment_id: MLflow's id of the experiment.
        budgets: The label budgets, as runs carry them.
        metric: The selection metric.
    """
    for labels in budgets:
        client = store.client
        client.set_experiment_tag(experiment_id, _VIEW_TAG + _name_view(labels), _describe(labels, metric))


def link_view(experiment_id: str, labels: str) -> str:
    """Return where the dashboard shows the chosen runs of a label budget."""
    key = quote(_name_view(labels), safe="")
    return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={key}"


def _name_view(labels: str) -> str:
    return "graft-" + re.sub(r"[^A-Za-z0-9.-]+", "_", labels.replace("%", "percent"))


def _describe(labels: str, metric: str) -> str:
    name = "attributes.`Run Name`"
    columns = [f"metrics.`{key}`" for key in (f"test/{metric}", f"val/{metric}", "train_seconds")]
    wanted = {"chosen": "true", "kind": "run", "labels": labels}
    view = {
        "searchFilter": " and ".join(f"tags.`graft.{tag}` = '{value}'" for tag, value in wanted.items()),
        "orderByKey": columns[0],
        "orderByAsc": not METRICS[metric].higher_is_better,
        "selectedColumns": columns,
        "columnOrder": [name, *columns],
        "columnWidths": {name: _NAME_WIDTH},
    }
    return json.dumps(view)
