"""What a sweep says that its runs share, and the room it reckons with."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from graft.errors import RunInterrupted
from graft.inputs import open_view
from graft.plan.groups import Sharing
from graft.plan.spec import specify
from graft.reuse import speeds
from graft.reuse.entries import ITEM_BYTES, count_rows, list_entries
from graft.run import gather_facts
from graft.sharing import NO_ROOM, open_activations
from graft.sweep import reuse as room
from graft.sweep.reuse import _charge, compute_shared, plan_reuse
from graft.sweep.stopping import listening
from graft.sweep.worker import Job, execute_job

PROBE = {"transfer__method": "linear_probe", "transfer__freeze_depth": 5}


@pytest.fixture
def specs_of(describe, monkeypatch):
    """Make runs of three rates on a machine where stages take long."""
    measure = speeds.measure_chain
    monkeypatch.setattr(
        speeds,
        "measure_chain",
        lambda *args: (chain := measure(*args)) and replace(chain, seconds=[1.0] * len(chain.seconds)),
    )

    def make(**knobs):
        usual = {"transfer__method": "fine_tune", "backbone__weights": "toy", "data__image_size": None}
        configs = [describe(**usual | knobs, optim__lr=lr) for lr in (0.1, 0.2, 0.3)]
        return [specify(config, gather_facts(config)) for config in configs]

    return make


def test_a_stage_that_ends_at_a_node_is_named(specs_of):
    (line,) = plan_reuse(specs_of(transfer__freeze_until="relu_1"), workers=1).describe()
    assert "cnn2 with toy, after stage 2 (until relu_1): computed once for 3 runs" in line
    (line,) = plan_reuse(specs_of(transfer__freeze_depth=2), workers=1).describe()
    assert "after stage 2: computed once" in line


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_disk_that_is_reckoned_with_is_what_activations_take(specs_of, dtype):
    specs = specs_of(transfer__freeze_depth=2, reuse__dtype=dtype)
    rounded = None if dtype == "float32" else dtype
    plan = compute_shared(plan_reuse(specs, workers=1))
    (network,) = plan.networks
    root = open_activations(specs[0].config).root
    (entry,) = [one for one in list_entries(root) if one.about["name"]["dtype"] == rounded]
    each = math.prod(entry.about["shape"]) * ITEM_BYTES[dtype]
    assert network.storage.disk_bytes == count_rows(root / entry.digest) * each


def test_a_rounded_boundary_serves_only_the_runs_that_end_there(specs_of):
    specs = [
        *specs_of(transfer__freeze_depth=1, reuse__dtype="float16"),
        *specs_of(transfer__freeze_depth=2, reuse__dtype="float16"),
    ]
    (network,) = plan_reuse(specs, workers=1).networks
    assert network.storage.kept == (1, 2)
    most = min(network.storage.disk_bytes, 10**9)
    few = [
        replace(spec, config=replace(spec.config, reuse=replace(spec.config.reuse, disk_gb=(most - 1) / 1e9)))
        for spec in specs
    ]
    plan = plan_reuse(few, workers=1)
    (kept,) = plan.networks[0].storage.kept
    boundaries = {spec.config.transfer.freeze_depth: plan.sharing[spec.key].boundary for spec in few}
    assert boundaries == {depth: depth if depth == kept else 0 for depth in (1, 2)}
    assert "computed once for 3 runs" in plan.describe()[0]


def test_what_computing_took_is_charged_to_those_that_read_it_and_all_of_it():
    deep, shallow, plain = Sharing(2), Sharing(1), Sharing(0)
    before = {"a": deep, "b": shallow, "c": plain, "d": shallow}
    charged = _charge(before, before, 9.0, ())
    assert {key: one.seconds for key, one in charged.items()} == {"a": 3.0, "b": 3.0, "c": 0.0, "d": 3.0}
    charged = _charge(before, before | {"a": plain}, 9.0, ())
    assert {key: one.seconds for key, one in charged.items()} == {"a": 0.0, "b": 4.5, "c": 0.0, "d": 4.5}
    charged = _charge(before, dict.fromkeys(before, plain), 9.0, ())  # there was no room in the end
    assert {key: one.seconds for key, one in charged.items()} == {"a": 3.0, "b": 3.0, "c": 0.0, "d": 3.0}
    assert _charge({"c": plain}, {"c": plain}, 9.0, ())["c"].seconds == 0.0


def test_a_sweep_charges_what_it_spent(specs_of, monkeypatch):
    specs = specs_of(transfer__freeze_depth=2)
    _empty(specs)
    plan = plan_reuse(specs, workers=1)
    none = replace(plan.sharing[specs[0].key], boundary=0)
    plan = replace(plan, sharing=plan.sharing | {specs[0].key: none})  # as for a depth that is not kept
    assert "computed once for 2 runs" in plan.describe()[0]
    monkeypatch.setattr(room, "time", SimpleNamespace(perf_counter=itertools.count(0.0, 10.0).__next__))
    done = compute_shared(plan)
    assert [done.sharing[spec.key].seconds for spec in specs] == [0.0, 5.0, 5.0]


def _empty(specs):
    """Take away what other tests have stored, and return the store."""
    store = open_activations(specs[0].config)
    shutil.rmtree(store.root, ignore_errors=True)
    return store


def test_damaged_activations_are_computed_again_and_said_once(specs_of, monkeypatch):
    specs = specs_of(transfer__freeze_depth=2)
    store = _empty(specs)
    plan = compute_shared(plan_reuse(specs, workers=1))
    assert plan.news == ()
    entry = store.find(plan.networks[0].prefix.name(2))
    place = plan.networks[0].images[2][0] * entry.row_bytes
    with (entry.folder / "rows.bin").open("r+b") as file:
        file.seek(place)
        file.write(b"\xff" * 8)
    monkeypatch.setattr("graft.reuse.store._verified", set())
    again = compute_shared(plan_reuse(specs, workers=1))
    fault = f"{len(plan.networks[0].images[2])} activations in {entry.folder}"
    assert again.news == (f"Reuse: damaged, and computed again: {fault}.",)
    assert {sharing.faults for sharing in again.sharing.values()} == {(fault,)}
    assert compute_shared(plan_reuse(specs, workers=1)).news == ()


def test_what_finds_no_room_is_taken_back_and_the_runs_say_why(specs_of):
    specs = specs_of(transfer__freeze_depth=2)
    store = _empty(specs)
    plan = plan_reuse(specs, workers=1)
    assert "computed once for 3 runs" in plan.describe()[0]
    store.root.parent.mkdir(parents=True, exist_ok=True)
    store.root.write_text("a file where the folder should be")
    try:
        done = compute_shared(plan)
    finally:
        store.root.unlink()
    (line,) = done.news
    assert "after stage 2: nothing is kept after all: the activations do not fit" in line
    assert {(one.boundary, one.reason) for one in done.sharing.values()} == {(0, NO_ROOM)}


def test_a_ridge_head_reads_each_image_once(specs_of):
    (network,) = plan_reuse(specs_of(**PROBE, head__name="ridge"), workers=1).networks
    split = open_view(network.specs[0]).split
    once = len(split.train) + len(split.val) + len(split.test)
    neighbours = len(split.train) + len(split.test)
    stages = len(network.prefix.backbone.plan.boundaries)  # of one second each
    assert network.storage.plain_seconds == stages * (3 * once + neighbours)


def test_what_is_stored_already_is_not_charged_again(specs_of):
    specs = specs_of(transfer__freeze_depth=2)
    _empty(specs)
    before = plan_reuse(specs, workers=1)
    images = len(before.networks[0].images[2])
    assert before.networks[0].storage.seconds == pytest.approx(2.0 * images, rel=0.01)
    after = plan_reuse(specs, workers=1) if compute_shared(before) else None
    assert after.networks[0].storage.seconds < 0.01 * images
    assert after.networks[0].storage.disk_bytes == before.networks[0].storage.disk_bytes


def test_a_run_alone_keeps_only_what_pays(specs_of, monkeypatch):
    once = {"trainer__epochs": 1, "trainer__min_steps": 1, "data__test_size": 500}
    (spec, *_) = specs_of(transfer__freeze_depth=1, **once)
    store = _empty([spec])
    ends = []
    monkeypatch.setattr("graft.run.execute", lambda spec, **how: ends.append(how["sharing"]) or 0.5)
    assert execute_job(Job(spec)).status == "finished"
    assert ends[0].boundary == 0
    (often, *_) = specs_of(transfer__freeze_depth=1, trainer__min_steps=2000)
    assert execute_job(Job(often)).status == "finished"
    assert ends[1].boundary == 1
    assert not store.root.exists(), "nothing is computed before the run"


@pytest.fixture
def _hears_ctrl_c():
    """Whoever is started in the background of a shell ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_hears_ctrl_c")
def test_ctrl_c_ends_the_waiting_for_what_another_process_computes(specs_of):
    """A real process holds the lock, and a real signal comes; without it the waiting would have no end."""
    plan = plan_reuse(specs_of(transfer__freeze_depth=2), workers=1)
    (network,) = plan.networks
    root = open_activations(network.specs[0].config).root
    shutil.rmtree(root, ignore_errors=True)  # what is there already is read without waiting
    root.mkdir(parents=True)
    lock = root / f"{network.prefix.name(2).digest}.lock"
    hold = (
        "import sys, filelock; (lock := filelock.FileLock(sys.argv[1])).acquire(); print(flush=True); input()"
    )
    command = [sys.executable, "-c", hold, str(lock)]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other,
        listening() as stop,
    ):
        assert other.stdout.readline() == b"\n"
        told = []

        def advance(done, total):
            told.append(done)
            if len(told) == 2:
                os.kill(os.getpid(), signal.SIGINT)
            if stop.signum is not None:
                raise RunInterrupted(stop.signum)
            assert len(told) < 50, "the signal was not heard"

        with pytest.raises(RunInterrupted) as caught:
            compute_shared(plan, advance)
        assert other.poll() is None, "it holds the lock to the end"
        other.communicate(b"\n")
    assert caught.value.exit_code == 130
    assert told[:2] == [0, 0]
    compute_shared(plan)  # who comes later finds the lock free
    entry = open_activations(network.specs[0].config).find(network.prefix.name(2))
    assert len(entry.missing(network.images[2])) == 0
