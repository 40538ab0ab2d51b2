"""What training costs a run: the same sum, whichever path each of its processes went."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from graft.config.load import to_config
from graft.inputs import gather_inputs
from graft.meter import Meter
from graft.plan.groups import Sharing
from graft.plan.spec import specify
from graft.run import execute, gather_facts
from graft.track.reader import read_run
from graft.track.store import open_store
from graft.train.checkpoint import Cost, State, open_checkpoints


def make_inputs(*, shared):
    """10 training images in batches of 5, 3 validation images after every 4 steps; 1 s for an image."""
    return SimpleNamespace(
        budget=SimpleNamespace(steps_per_round=4),
        split=SimpleNamespace(val=[0] * 3),
        batches=SimpleNamespace(
            schedule=SimpleNamespace(steps_per_pass=2, batch_size=5), split=SimpleNamespace(train=[0] * 10)
        ),
        shared=SimpleNamespace(seconds=7.0, seconds_per_image=1.0) if shared else None,
    )


def start_at(step, phase, cost, seconds=2.0):
    return State(step, phase, seconds, {}, {}, cost)


def test_a_run_on_the_plain_path_costs_what_it_takes():
    assert Meter(make_inputs(shared=False)).price(5.0, 10) == Cost(5.0, 5.0)


def test_a_run_on_activations_would_send_its_images_and_pays_for_what_was_computed():
    cost = Meter(make_inputs(shared=True), Sharing(3, seconds=0.5)).price(5.0, 10)
    assert cost.alone == 5.0 + 50 + 3 * 3  # the last round is not whole, and validated
    assert cost.amortised == 5.0 + 7.0 + 0.5
    assert Meter(make_inputs(shared=True)).price(5.0, 1, seen=10).alone == 5.0 + 10 + 3


@pytest.mark.parametrize(("phase", "validated"), [("training", 2), ("validating", 1), ("done", 2)])
def test_a_validation_that_is_still_to_come_is_not_counted(phase, validated):
    assert Meter(make_inputs(shared=True)).price(0.0, 8, phase).alone == 40 + 3 * validated


@pytest.mark.parametrize("phase", ["training", "validating", "done"])
@pytest.mark.parametrize("paths", [(False, True), (True, False), (True, True), (False, False)], ids=str)
def test_the_parts_of_an_interrupted_run_add_up(paths, phase):
    first, second = (make_inputs(shared=shared) for shared in paths)
    before = Meter(first).price(2.0, 8, phase)
    whole = Meter(second, start=start_at(8, phase, before)).price(5.0, 12)
    sent_first = 40 + 3 * (1 if phase == "validating" else 2)
    sent_second = 60 + 3 * 3 - sent_first
    assert whole.alone == 5.0 + paths[0] * sent_first + paths[1] * sent_second
    assert whole.really == 5.0 + 7.0 * sum(paths)


def test_a_state_that_does_not_know_its_cost_went_the_path_of_now():
    start = start_at(8, "training", None)
    assert Meter(make_inputs(shared=True), start=start).price(5.0, 12) == Cost(5.0 + 60 + 9, 5.0 + 7.0)
    assert Meter(make_inputs(shared=False), start=start).price(5.0, 12) == Cost(5.0, 5.0)


def test_a_share_of_a_sweep_is_paid_once_however_often_it_tries_the_run():
    sweep, other = Sharing(3, seconds=0.5), Sharing(3, seconds=0.25)
    inputs = make_inputs(shared=False)  # it found no room in the end, and pays all the same
    cost = Meter(inputs, sweep).price(1.0, 1)
    for step, sharing in ((2, sweep), (3, sweep), (4, other)):
        cost = Meter(inputs, sharing, start_at(step - 1, "training", cost, 1.0)).price(1.0, step)
    assert cost.amortised == 1.0 + 0.5 + 0.25


PLAIN, SHARED = Sharing(0, reason="too large"), Sharing(2, seconds=1000.0)


@pytest.mark.parametrize("order", [(PLAIN, SHARED), (SHARED, PLAIN)], ids=["plain first", "shared first"])
def test_a_run_that_goes_on_by_another_path_keeps_what_its_first_part_cost(order, tmp_path, monkeypatch):
    """A second for every image, so that nothing else is of weight."""
    monkeypatch.setattr("graft.reuse.share._measure", lambda *_: 1.0)
    config = to_config({
        "data": {"name": "digits", "labels_per_class": 3, "image_size": 16, "test_size": 40},
        "backbone": {"name": "small_cnn", "weights": "none"},
        "transfer": {"method": "random_features", "freeze_depth": 2},
        "trainer": {"min_steps": 8, "epochs": 1, "max_validations": 4, "accelerator": "cpu"},
        "checkpoint": {"every_seconds": 0.0001},
        "paths": {"root": str(tmp_path)},
    })  # fmt: skip
    spec, ids = specify(config, gather_facts(config)), []

    def stop(step, total):
        if step >= total // 2:
            raise RuntimeError("the power went")

    with pytest.raises(RuntimeError):
        execute(spec, sharing=order[0], progress=stop)
    start = open_checkpoints(config, spec.key).newest()
    assert start.step > 0
    sent_first = Meter(gather_inputs(spec, PLAIN))._count_sent(start.step, start.phase)
    # Of the sweep's share nothing is counted alone.
    assert start.cost.alone == pytest.approx(start.seconds + sent_first * (order[0] is SHARED))
    execute(spec, sharing=order[1], on_start=ids.append)
    metrics = read_run(open_store(None, tmp_path), ids[0]).metrics
    inputs = gather_inputs(spec, PLAIN)
    sent = int(metrics["images_seen"]) + 4 * len(inputs.split.val)
    images = sent_first if order[0] is SHARED else sent - sent_first
    loop = metrics["train_seconds"] - images
    assert 0 < loop < metrics["run_seconds"]
    assert metrics["amortised_seconds"] >= loop + 1000.0
    assert metrics["amortised_seconds"] < loop + 1900.0, "the share of the sweep, once"


def test_what_a_state_says_of_its_cost_is_written_down(tmp_path):
    checkpoints = open_checkpoints(to_config({"paths": {"root": str(tmp_path)}}), "key")
    state = State(3, "training", 0.5, {}, {}, Cost(4.0, 2.0, frozenset({0.25, 1 / 3})))
    for said in (state, replace(state, cost=None)):
        checkpoints.write(said)
        assert checkpoints.newest() == said
