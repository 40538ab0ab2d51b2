"""Runs of a sweep that share: each ends as a run that does everything by itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from graft.config.schema import Config
from graft.plan.groups import Sharing
from graft.plan.halving import plan_halving
from graft.plan.spec import RunSpec, specify
from graft.run import execute, gather_facts
from graft.sweep.devices import Place
from graft.sweep.outcome import Outcome
from graft.sweep.pool import Pool
from graft.sweep.retry import Attempt
from graft.sweep.reuse import ReusePlan, compute_shared, plan_reuse
from graft.sweep.stopping import Stop
from graft.sweep.worker import Job, execute_job
from graft.together import take_trained, train_siblings
from graft.track.reader import read_experiment, read_run
from graft.track.results import checkpoint_folder
from graft.track.store import open_store

PROBE = {
    "transfer__method": "linear_probe", "transfer__freeze_depth": 5, "backbone__weights": "toy",
    "data__image_size": None, "checkpoint__keep": "all", "trainer__min_steps": 12,
}  # fmt: skip
#: Of a run's numbers, those that may differ from one time to the next.
TIMES = {"train_seconds", "amortised_seconds", "run_seconds"}

Make = Callable[..., RunSpec]


@pytest.fixture
def make(describe: Callable[..., Config]) -> Make:
    count = itertools.count()

    def make(**changes: Any) -> RunSpec:
        changes = PROBE | {"tracking__experiment": f"together{next(count)}"} | changes
        config = describe(**changes)
        return specify(config, gather_facts(config))

    return make


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def results(spec: RunSpec, root: Path) -> tuple[dict[str, float], dict[str, torch.Tensor], str]:
    """Return the numbers of the newest run of a key, its kept weights and its path."""
    store = open_store(None, root)
    wanted = f"tags.`graft.run_key` = '{spec.key}'"
    experiments = [one.experiment_id for one in store.client.search_experiments()]
    run = store.client.search_runs(experiments, wanted, max_results=1)[0]
    assert run.info.status == "FINISHED"
    metrics = read_run(store, run.info.run_id).metrics
    weights = load_file(checkpoint_folder(root, spec.key) / "weights.safetensors")
    numbers = {key: value for key, value in metrics.items() if key not in TIMES}
    return numbers, weights, run.data.tags["graft.path"]


def alone(spec: RunSpec, root: Path, execute_now: Callable[[RunSpec], object]) -> Any:
    execute_now(spec)
    found = results(spec, root)
    store = open_store(None, root)
    for one in store.client.search_experiments():
        for run in store.client.search_runs([one.experiment_id], f"tags.`graft.run_key` = '{spec.key}'"):
            store.client.delete_run(run.info.run_id)
    return found


def without_reuse(spec: RunSpec) -> RunSpec:
    config = replace(spec.config, reuse=replace(spec.config.reuse, enabled=False))
    plain = specify(config, spec.facts)
    assert plain.key == spec.key  # it changes no result
    return plain


def test_siblings_end_as_each_alone_without_any_reuse(make: Make, toy_root: Path) -> None:
    specs = [
        make(tracking__experiment="siblings", trainer__max_validations=2, optim__lr=lr, seed=seed, **more)
        for lr, seed, more in [
            (0.1, 0, {}),
            (0.01, 0, {"optim__weight_decay": 0.1}),
            (0.1, 1, {}),
            (0.03, 1, {"loss__label_smoothing": 0.1}),
            (0.1, 1, {"data__labels_per_class": 3}),
        ]
    ]
    assert len(set(plan_reuse(specs, workers=1).group_of.values())) == 1
    plain = [alone(spec, toy_root, lambda spec: execute(without_reuse(spec))) for spec in specs]
    jobs = [Job(specs[0], siblings=tuple(specs[1:])), *(Job(spec) for spec in specs[1:])]
    assert [execute_job(job).status for job in jobs] == ["finished"] * 5
    for spec, (numbers, weights, path) in zip(specs, plain, strict=True):
        assert path == "plain: reuse=off"
        mine, kept, said = results(spec, toy_root)
        assert "5 heads trained in one pass" in said
        assert mine == numbers
        assert kept.keys() == weights.keys()
        assert all(torch.equal(kept[name], weights[name]) for name in kept)


def test_a_sweep_decides_and_computes_before_its_runs(make: Make, toy_root: Path) -> None:
    fine = {"transfer__method": "fine_tune", "optim__lr": 0.02}
    specs = [
        make(tracking__experiment="decided", seed=seed, transfer__freeze_depth=depth, **more)
        for seed in range(2)
        for depth, more in [(0, fine), (3, fine), (5, {"optim__lr": 0.014}), (5, {"optim__lr": 0.015})]
    ]
    plan = plan_reuse(specs, workers=2)
    (network,) = plan.networks
    assert len(network.specs) == 6  # what trains as a whole shares nothing
    assert plan.sharing.keys() == {spec.key for spec in specs if spec.config.transfer.freeze_depth}
    assert all(
        sharing.boundary <= spec.config.transfer.freeze_depth
        for spec in specs
        if (sharing := plan.sharing.get(spec.key))
    )
    done = compute_shared(plan)
    assert sum(sharing.seconds for sharing in done.sharing.values()) > 0
    for spec in specs:
        plain = alone(spec, toy_root, lambda spec: execute(without_reuse(spec)))
        assert execute_job(Job(spec, sharing=done.sharing.get(spec.key))).status == "finished"
        mine = results(spec, toy_root)
        assert mine[0] == plain[0]
        assert all(torch.equal(mine[1][name], plain[1][name]) for name in plain[1])


def test_every_worker_gets_heads(make: Make) -> None:
    specs = [make(tracking__experiment="shared", optim__lr=lr / 100) for lr in range(1, 8)]
    plan = plan_reuse(specs, workers=3)
    sizes = [list(plan.group_of.values()).count(group) for group in sorted(set(plan.group_of.values()))]
    assert sizes == [3, 3, 1] or sizes == [3, 3]


def test_a_diverged_head_takes_nobody_with_it(make: Make, toy_root: Path) -> None:
    wild = make(tracking__experiment="wild", optim__lr=1e18, loss__name="mean_squared_error")
    calm = make(tracking__experiment="wild", optim__lr=0.11)
    assert execute_job(Job(wild, siblings=(calm,))).status == "diverged"
    assert execute_job(Job(calm)).status == "finished"
    assert "2 heads" in results(calm, toy_root)[2]


def test_a_group_that_fails_trains_one_by_one(
    make: Make, toy_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fall(*_: object, **__: object) -> None:
        raise RuntimeError("no group today")

    monkeypatch.setattr("graft.reuse.fused.fit_group", fall)
    specs = [make(tracking__experiment="fallen", optim__lr=lr) for lr in (0.12, 0.2)]
    train_siblings(specs, None)
    assert "no group today" in capsys.readouterr().err
    assert take_trained(specs[0].key) is None
    assert execute_job(Job(specs[0], siblings=(specs[1],))).status == "finished"
    assert results(specs[0], toy_root)[2] == "shared: stages 1 to 5 were computed once"
    store = open_store(None, toy_root)
    [record] = [one for one in read_experiment(store, "fallen") if one.run_key == specs[0].key]
    assert "failed (RuntimeError: no group today)" in record.notes["notes"]


@dataclass
class Listener:
    """Keeps what every run printed; none is tried again."""

    logs: list[str] = field(default_factory=list)

    def advanced(self, under_way: int, fraction: float) -> None:
        """Nobody looks."""

    def ended(self, attempt: Attempt, outcome: Outcome, run_id: str | None, log: str) -> Outcome:
        self.logs.append(log)
        return outcome


@pytest.mark.full
def test_a_group_that_raises_is_tried_once(make: Make, toy_root: Path, tmp_path: Path) -> None:
    specs = [make(tracking__experiment="raised", optim__lr=lr, reuse__disk_gb=0.0) for lr in (0.1, 0.2, 0.3)]
    reuse = ReusePlan(group_of=dict.fromkeys((spec.key for spec in specs), 0))
    listener = Listener()
    outcomes = Pool([Place(1)], tmp_path, listener, Stop(), reuse=reuse).execute(specs, None)
    assert [outcome.status for outcome in outcomes] == ["finished"] * 3
    assert ["RuntimeError" in log for log in listener.logs] == [True, False, False]
    for record in read_experiment(open_store(None, toy_root), "raised"):
        assert "with others it failed (RuntimeError: plain: `reuse.disk_gb=0`" in record.notes["notes"]


def test_what_is_not_kept_is_computed_and_said(make: Make, toy_root: Path) -> None:
    spec = make(tracking__experiment="nothing-kept", optim__lr=0.13)
    sharing = Sharing(0, reason="too large")
    assert execute_job(Job(spec, sharing=sharing)).status == "finished"
    assert results(spec, toy_root)[2] == "plain: too large"


def test_a_run_that_is_cut_is_no_finished_one_and_goes_on_when_asked(make: Make, toy_root: Path) -> None:
    fine = {"transfer__method": "fine_tune", "transfer__freeze_depth": 0, "trainer__min_steps": 40}
    specs = [make(tracking__experiment="race", optim__lr=lr, **fine) for lr in (0.02, 1e-9)]
    other = make(tracking__experiment="race", optim__lr=1e-9, seed=1, **fine)
    races = plan_halving([*specs, other], toy_root)
    outcomes = [execute_job(Job(spec, halving=races[spec.key])) for spec in specs]
    assert [outcome.status for outcome in outcomes] == ["finished", "pruned"]
    assert "1 of 1 other trials of its arm were better" in outcomes[1].reason
    assert execute_job(Job(other, halving=races[other.key])).status == "pruned"
    store = open_store(None, toy_root)
    records = {record.run_key: record for record in read_experiment(store, "race")}
    whole, cut = (records[spec.key] for spec in specs)
    assert (whole.status, cut.status) == ("finished", "pruned")
    assert 0 < cut.metrics["images_seen"] < whole.metrics["images_seen"]
    assert cut.metrics["amortised_seconds"] == cut.metrics["train_seconds"] > 0  # it shares nothing
    assert execute_job(Job(specs[1])).status == "finished"
    records = {record.run_key: record for record in read_experiment(store, "race")}
    assert len(records) == 2  # gone on with in its own record
    assert records[specs[1].key].metrics["images_seen"] == whole.metrics["images_seen"]
    times = [records[specs[1].key].metrics[name] for name in ("train_seconds", "amortised_seconds")]
    assert times[0] == times[1] != cut.metrics["amortised_seconds"]
    # The whole trial is back in the race, now that its first replicate was trained to its end.
    assert execute_job(Job(other, halving=races[other.key])).status == "finished"
