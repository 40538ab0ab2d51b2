from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from graft.errors import GraftError
from graft.plan.spec import RunSpec, specify
from graft.track.experiment import check_experiment
from graft.track.store import Store
from graft.track.writer import recording, start_run

Plan = Callable[..., RunSpec]


def on_other_images(spec: RunSpec, digest: str, name: str = "digits") -> RunSpec:
    config = replace(spec.config, data=replace(spec.config.data, name=name))
    return specify(config, replace(spec.facts, data_digest=digest))


def finish(store: Store, spec: RunSpec) -> None:
    with recording(store, spec, None, {}):
        pass


def test_a_new_experiment_takes_anything(store: Store, plan: Plan) -> None:
    check_experiment(store, "never seen", [plan("never seen")])


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 5},
        {"data": {"name": "digits", "labels_per_class": 5}},
        {"optim": {"lr": 0.5}},
        {"backbone": {"name": "small_cnn"}},
    ],
)
def test_more_of_the_same_extends_an_experiment(store: Store, plan: Plan, changes: dict[str, Any]) -> None:
    finish(store, plan("longer"))
    check_experiment(store, "longer", [plan("longer", **changes)])


def test_another_data_set_is_another_experiment(store: Store, plan: Plan) -> None:
    finish(store, plan("ours"))
    other = on_other_images(plan("ours"), "e" * 64, "glyphs")
    with pytest.raises(GraftError) as error:
        check_experiment(store, "ours", [other])
    assert str(error.value) == (
        "Expected the data set of the experiment 'ours', which is digits (dddddddd), but got glyphs "
        "(eeeeeeee). Give these runs an experiment of their own: `tracking.experiment=ours_glyphs`."
    )
    check_experiment(store, "ours", [plan("ours"), other])  # a further data set beside the first
    with pytest.raises(GraftError, match=r"digits \(eeeeeeee\): its images or labels have changed\. Give"):
        check_experiment(store, "ours", [on_other_images(plan("ours"), "e" * 64)])


def test_another_selection_metric_is_another_experiment(store: Store, plan: Plan) -> None:
    finish(store, plan("chosen"))
    with pytest.raises(
        GraftError,
        match=r"Expected `metric=accuracy`, which chooses in the experiment 'chosen', but got 'macro_f1'.*"
        r"tracking.experiment=chosen_macro_f1",
    ):
        check_experiment(store, "chosen", [plan("chosen", metric="macro_f1")])


def test_only_finished_runs_decide(store: Store, plan: Plan) -> None:
    start_run(store, plan("mistaken"), parent_id=None, notes={}).end("failed", "the wrong folder")
    check_experiment(store, "mistaken", [on_other_images(plan("mistaken"), "e" * 64)])


def test_what_nobody_named_is_never_refused(store: Store, plan: Plan) -> None:
    finish(store, plan())
    check_experiment(store, "default", [on_other_images(plan(), "e" * 64)])


def test_runs_from_before_metrics_were_tagged(store: Store, plan: Plan) -> None:
    writer = start_run(store, plan("older"), parent_id=None, notes={})
    writer.end("finished")
    store.client.delete_tag(writer.run_id, "graft.metric")
    check_experiment(store, "older", [plan("older", metric="macro_f1")])
