"""The race of an arm's trials: the worse ones are cut, the best one never, by the same rule for all arms."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.errors import PrunedError
from graft.plan.halving import REDUCTION, RUNGS, Halving, goes_on, plan_halving
from graft.plan.spec import Facts, specify

FACTS = Facts("d", (), "a" * 64, "glyphs", {"size": 16}, "32")


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30, unique=True))
def test_a_third_goes_on_and_the_best_among_it(values):
    on = [value for value in values if goes_on(value, values, True)]
    assert max(values) in on
    assert len(on) == math.ceil(len(values) / REDUCTION)
    losses = [-value for value in values]
    assert [-value for value in losses if goes_on(value, losses, False)] == on


def test_a_number_that_is_none_is_cut():
    assert not goes_on(math.nan, [math.nan, 0.1], True)


def race(folder, trial, leads=True):
    return Halving(folder, trial, leads, True)


def test_a_trial_is_judged_once_at_every_rung(tmp_path):
    shares = list(itertools.pairwise([0.0, 0.05, RUNGS[0], 0.2, RUNGS[1] + 0.01, 0.7, 1.0]))
    for before, now in shares:
        race(tmp_path, "a").judge(0.9, before, now)
    assert race(tmp_path, "a").find_cut() == ""
    race(tmp_path, "b").judge(0.8, *shares[0])
    with pytest.raises(PrunedError, match="pruned at 11% of the training: 1 of 1 other trials"):
        race(tmp_path, "b").judge(0.8, *shares[1])
    assert "pruned at 11%" in race(tmp_path, "b").find_cut()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "rung0", "rung1"]


def test_other_replicates_follow_the_first(tmp_path):
    follower = race(tmp_path, "b", leads=False)
    follower.judge(0.1, 0.0, 0.5)
    assert follower.find_cut() == ""
    race(tmp_path, "a").judge(0.9, 0.0, 0.5)
    with pytest.raises(PrunedError):
        race(tmp_path, "b").judge(0.1, 0.0, 0.5)
    assert follower.find_cut()


def test_a_trial_whose_cut_run_was_trained_to_its_end_is_cut_no_longer(tmp_path):
    race(tmp_path, "a").judge(0.9, 0.0, 0.5)
    with pytest.raises(PrunedError):
        Halving(tmp_path, "b", True, True, "key").judge(0.1, 0.0, 0.5)
    follower = race(tmp_path, "b", leads=False)
    assert follower.find_cut(lambda run: run != "key") == follower.find_cut() != ""
    assert follower.find_cut(lambda run: run == "key") == ""
    assert "key" not in follower.find_cut()


def test_the_last_validation_cuts_nobody(tmp_path):
    race(tmp_path, "a").judge(0.9, 0.0, 1.0)
    race(tmp_path, "b").judge(0.1, 0.0, 1.0)


def test_arms_and_label_budgets_race_apart_and_the_twin_by_the_same_rule(build_config, tmp_path):
    base = {"transfer.method": "fine_tune", "backbone.weights": "glyphs"}
    changes = [
        {}, {"optim.lr": 0.5}, {"seed": 1}, {"transfer.freeze_depth": 2}, {"data.labels_per_class": 3},
        {"transfer.method": "from_scratch", "backbone.weights": "none"},
    ]  # fmt: skip
    specs = [specify(build_config(base | change), FACTS) for change in changes]
    races = plan_halving(specs, tmp_path)
    one, rate, seed, depth, labels, twin = (races[spec.key] for spec in specs)
    assert one.folder == rate.folder == seed.folder
    assert len({one.folder, depth.folder, labels.folder, twin.folder}) == 4
    assert one.trial == seed.trial != rate.trial
    assert [race.leads for race in (one, rate, seed, depth, labels, twin)] == [
        True,
        True,
        False,
        True,
        True,
        True,
    ]


def test_experiments_race_apart(build_config, tmp_path):
    base = {"transfer.method": "fine_tune", "backbone.weights": "glyphs"}
    for experiment, value in (("first", 0.9), ("second", 0.1)):
        spec = specify(build_config(base | {"tracking.experiment": experiment, "optim.lr": value}), FACTS)
        [own] = plan_halving([spec], tmp_path).values()
        own.judge(value, 0.0, 0.5)  # and is not cut
        assert own.find_cut() == ""


def test_metrics_race_apart_each_in_its_own_direction(build_config, tmp_path):
    base = {"transfer.method": "fine_tune", "backbone.weights": "glyphs"}
    specs = {
        (metric, rate): specify(build_config(base | {"metric": metric, "optim.lr": rate}), FACTS)
        for metric in ("accuracy", "loss")
        for rate in (0.1, 0.2)
    }
    for cells in (specs, dict(reversed(specs.items()))):  # whichever comes first in the grid
        races = plan_halving(list(cells.values()), tmp_path / str(len(list(tmp_path.iterdir()))))
        races = {cell: races[spec.key] for cell, spec in cells.items()}
        for metric, better, worse in (("accuracy", 0.9, 0.1), ("loss", 0.1, 0.9)):
            races[metric, 0.1].judge(better, 0.0, 0.5)
            with pytest.raises(PrunedError):
                races[metric, 0.2].judge(worse, 0.0, 0.5)
            assert [bool(races[metric, rate].find_cut()) for rate in (0.1, 0.2)] == [False, True]
        assert races["accuracy", 0.1].folder != races["loss", 0.1].folder
