from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graft.compare.select import Choice, order_labels, pair, select_trials
from graft.errors import GraftError
from graft.plan.arms import Arm
from graft.plan.replicates import Replicate
from graft.track.record import RunRecord


def seeds_of(choice: Choice) -> list[int]:
    return [replicate.seed for replicate in choice.runs]


def choices_of(records: list[RunRecord]) -> dict[tuple[Arm, str], Choice]:
    return {
        (choice.arm, choice.labels): choice
        for one in select_trials(records, "accuracy")
        for choice in one.choices
    }


def test_validation_chooses(make_arm, make_run) -> None:
    good = [make_run(make_arm(), val=0.9, test=0.1, seed=seed, lr=0.01) for seed in (0, 1)]
    bad = [make_run(make_arm(), val=0.8, test=0.99, seed=seed, lr=0.1) for seed in (0, 1)]
    choice = choices_of(bad + good)[make_arm(), "2"]
    assert choice.trial == good[0].trial
    assert choice.validation == pytest.approx(0.9)
    assert seeds_of(choice) == [0, 1]
    assert choice.trials == (good[0].trial, bad[0].trial)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False))
def test_test_metrics_and_order_never_change_the_choice(
    sweep: list[RunRecord], random: random.Random
) -> None:
    tests = [record.metrics["test/accuracy"] for record in sweep]
    random.shuffle(tests)
    changed = [
        replace(record, metrics={**record.metrics, "test/accuracy": test})
        for record, test in zip(sweep, tests, strict=True)
    ]
    random.shuffle(changed)
    before, after = choices_of(sweep), choices_of(changed)
    assert {key: choice.trial for key, choice in before.items()} == {
        key: choice.trial for key, choice in after.items()
    }


def test_a_loss_is_chosen_the_other_way_round(make_arm, make_run) -> None:
    runs = [
        make_run(make_arm(), val=0.9, test=0.9, lr=lr, metrics={"val/loss": loss, "test/loss": 1.0})
        for lr, loss in ((0.1, 2.0), (0.01, 1.0))
    ]
    [selection] = select_trials(runs, "loss")
    assert selection.choices[0].trial == runs[1].trial


def test_ties_go_to_the_simpler_then_to_the_cheaper_trial(make_arm, make_run) -> None:
    simple = make_run(make_arm(), val=0.9, test=0.5, trial="lr=1", seconds=9)
    richer = make_run(make_arm(), val=0.9, test=0.5, trial="lr=1 momentum=0.9", seconds=1)
    assert choices_of([richer, simple])[make_arm(), "2"].trial == "lr=1"
    cheaper = make_run(make_arm(), val=0.9, test=0.5, trial="lr=2", seconds=3)
    assert choices_of([richer, simple, cheaper])[make_arm(), "2"].trial == "lr=2"


def test_common_seeds_are_compared_and_the_rest_is_listed(make_arm, make_run) -> None:
    probe = make_arm("linear_probe", 5)
    runs = [make_run(make_arm(), val=0.5, test=0.5, seed=seed) for seed in range(3)]
    runs += [make_run(probe, val=0.7, test=0.7, seed=seed) for seed in (0, 2)]
    runs.append(make_run(probe, val=0, test=0, seed=1, status="failed", notes={"reason": "out of memory"}))
    [selection] = select_trials(runs, "accuracy")
    assert [seeds_of(choice) for choice in selection.choices] == [[0, 2], [0, 2]]
    assert [(gap.arm, gap.replicate.seed, gap.status, gap.reason) for gap in selection.gaps] == [
        (probe, 1, "failed", "out of memory")
    ]


def test_a_seed_that_only_one_trial_reached_is_not_compared(make_arm, make_run) -> None:
    """A sweep cut short: the trial that is ahead by a seed is not chosen for that."""
    runs = [make_run(make_arm(), val=0.5, test=0.5, seed=seed, lr=0.1) for seed in range(3)]
    runs += [make_run(make_arm(), val=0.6, test=0.6, seed=seed, lr=0.2) for seed in range(2)]
    [selection] = select_trials(runs, "accuracy")
    assert selection.choices[0].trial == runs[-1].trial
    assert seeds_of(selection.choices[0]) == [0, 1]
    assert [(gap.replicate.seed, gap.status) for gap in selection.gaps] == [(2, "missing")]


@pytest.mark.parametrize("bad", [{"status": "diverged"}, {"metrics": {"val/accuracy": 1.797e308}}])
def test_a_diverged_trial_is_never_chosen(make_arm, make_run, bad) -> None:
    runs = [make_run(make_arm(), val=0.5, test=0.5, seed=seed, lr=0.1) for seed in range(2)]
    runs += [
        make_run(make_arm(), val=0.9, test=0.9, seed=0, lr=9),
        make_run(make_arm(), val=0, test=0, seed=1, lr=9, **bad),
    ]
    [selection] = select_trials(runs, "accuracy")
    assert selection.choices[0].trial == runs[0].trial
    assert [gap.status for gap in selection.gaps] == ["diverged"]


def test_an_arm_without_a_common_seed_is_left_out(make_arm, make_run) -> None:
    probe = make_arm("linear_probe", 5)
    runs = [make_run(make_arm(), val=0.5, test=0.5, seed=seed) for seed in range(2)]
    runs.append(make_run(probe, val=0.7, test=0.7, seed=7))
    [selection] = select_trials(runs, "accuracy")
    assert [choice.arm for choice in selection.choices] == [make_arm()]
    [left_out] = selection.left_out
    assert (left_out.arm, left_out.labels) == (probe, "2")
    assert left_out.finished == (Replicate(7),)
    assert left_out.compared == (Replicate(0), Replicate(1))


def build_grid(make_run, seeds_of_arms: dict[Arm, range]) -> list[RunRecord]:
    return [
        make_run(arm, val=0.5, test=0.5, seed=seed) for arm, seeds in seeds_of_arms.items() for seed in seeds
    ]


def compared_of(records: list[RunRecord]) -> tuple[set[Arm], set[int], set[Arm]]:
    """Return the arms compared at the label budget, their seeds, and the arms left out."""
    [selection] = select_trials(records, "accuracy")
    [seeds] = {tuple(seeds_of(choice)) for choice in selection.choices}
    return (
        {choice.arm for choice in selection.choices},
        set(seeds),
        {one.arm for one in selection.left_out},
    )


@pytest.mark.parametrize("quick", [1, 12])
def test_quick_arms_cost_the_others_no_seeds(make_arm, make_run, quick: int) -> None:
    """Neither one look at another backbone with its twin, nor a screening of many, cuts a comparison down."""
    sound = {make_arm(): range(5), make_arm("fine_tune", 0): range(5)}
    thin = [
        make_arm(*method, backbone=f"net{place}") for place in range(quick) for method in ((), ("fine_tune",))
    ]
    records = build_grid(make_run, sound | dict.fromkeys(thin, range(1)))
    assert compared_of(records) == (set(sound), set(range(5)), set(thin))


def test_an_arm_that_lacks_a_seed_is_kept_where_it_brings_more_than_it_costs(make_arm, make_run) -> None:
    arms = [make_arm("fine_tune", depth) for depth in range(5)]
    short = make_arm("linear_probe", 5)
    few = {make_arm(): range(5), arms[0]: range(5), short: range(4)}
    assert compared_of(build_grid(make_run, few)) == (set(few), set(range(4)), set())
    many = dict.fromkeys([make_arm(), *arms], range(5))
    records = build_grid(make_run, many | {short: range(4)})
    assert compared_of(records) == (set(many), set(range(5)), {short})


def test_a_sweep_cut_short_is_compared_on_what_all_have(make_arm, make_run) -> None:
    """The first arm is a seed ahead; all others, the twin among them, are not left out for that."""
    arms = [make_arm(), *(make_arm("fine_tune", depth) for depth in range(5))]
    for seeds in (1, 2, 4):
        records = build_grid(make_run, dict.fromkeys(arms, range(seeds)) | {arms[1]: range(seeds + 1)})
        assert compared_of(records) == (set(arms), set(range(seeds)), set())


def test_a_thin_twin_is_never_given_up_for_the_seeds_of_its_arms(make_arm, make_run) -> None:
    arms = [make_arm("fine_tune", depth) for depth in range(5)]
    records = build_grid(make_run, dict.fromkeys(arms, range(5)) | {make_arm(): range(2)})
    assert compared_of(records) == ({make_arm(), *arms}, {0, 1}, set())
    alone = build_grid(make_run, dict.fromkeys(arms, range(5)))
    assert compared_of(alone) == (set(arms), set(range(5)), set())


def test_the_thin_twin_of_another_backbone_is_left_out_alone(make_arm, make_run) -> None:
    first = {make_arm(): range(5), make_arm("fine_tune", 0): range(5)}
    arm, twin = make_arm("fine_tune", 0, backbone="net"), make_arm(backbone="net")
    records = build_grid(make_run, first | {arm: range(5), twin: range(1)})
    assert compared_of(records) == ({*first, arm}, set(range(5)), {twin})


def test_arms_without_a_twin_count_only_where_there_is_no_verdict_to_lose(make_arm, make_run) -> None:
    pair_of = {make_arm(): range(5), make_arm("fine_tune", 0): range(5)}
    alone = [make_arm("fine_tune", depth, backbone="net") for depth in range(5)]
    records = build_grid(make_run, pair_of | dict.fromkeys(alone, range(20)))
    assert compared_of(records) == ({*pair_of, *alone}, set(range(5)), set())
    thin = dict.fromkeys(pair_of, range(1))
    records = build_grid(make_run, thin | dict.fromkeys(alone, range(5)))
    assert compared_of(records) == (set(alone), set(range(5)), set(thin))


def test_a_quick_look_at_more_rates_costs_an_arm_no_seeds(make_arm, make_run) -> None:
    runs = [make_run(make_arm(), val=0.5, test=0.5, seed=seed, lr=0.1) for seed in range(5)]
    runs += [make_run(make_arm(), val=0.9, test=0.9, lr=lr) for lr in range(1, 11)]
    [selection] = select_trials(runs, "accuracy")
    assert selection.choices[0].trial == runs[0].trial
    assert seeds_of(selection.choices[0]) == list(range(5))


def test_trials_that_all_diverged_somewhere(make_arm, make_run) -> None:
    runs = [make_run(make_arm(), val=0.5, test=0.5, seed=seed) for seed in range(2)]
    runs.append(make_run(make_arm(), val=0, test=0, seed=2, status="diverged"))
    with pytest.raises(
        GraftError, match=r"a trial without a diverged run, but got none: 2 finished"
    ) as caught:
        select_trials(runs, "accuracy")
    assert "(1 diverged)" in str(caught.value)
    assert "`optim.gradient_clip=1`" in str(caught.value)


def test_conditions_stand_apart_the_largest_first(make_arm, make_run) -> None:
    runs = [make_run(make_arm(), val=0.5, test=0.5, condition="small")]
    runs += [make_run(make_arm(), val=0.5, test=0.5, condition="zlarge", seed=seed) for seed in range(3)]
    assert [selection.condition for selection in select_trials(runs, "accuracy")] == ["zlarge", "small"]


def test_a_finished_run_goes_before_its_failed_attempt(make_arm, make_run) -> None:
    finished = make_run(make_arm(), val=0.5, test=0.5, run_id="b", run_key="same")
    failed = make_run(make_arm(), val=0, test=0, status="failed", run_id="a", run_key="same")
    again = replace(finished, run_id="c")
    [selection] = select_trials([failed, finished, again], "accuracy")
    assert selection.choices[0].runs[Replicate(0)].run_id == "b"
    assert selection.gaps == ()


def test_pairs_are_arm_and_twin_on_common_seeds(sweep, make_arm) -> None:
    [selection] = select_trials(sweep, "accuracy")
    pairs = pair(selection.choices)
    assert len(pairs) == 4
    assert all(
        one.twin.arm == one.choice.arm.twin and one.replicates == tuple(map(Replicate, range(5)))
        for one in pairs
    )
    alone = [choice for choice in selection.choices if not choice.arm.from_scratch]
    assert pair(alone) == []


def test_labels_are_ordered_as_numbers() -> None:
    assert order_labels(["all", "100", "20", "5", "20"]) == ["5", "20", "100", "all"]
    mixed = ["all", "100%", "replayed", "12.5%", "5%", "20"]
    assert order_labels(mixed) == ["20", "5%", "12.5%", "100%", "replayed", "all"]


def test_unknown_metric(sweep) -> None:
    with pytest.raises(
        GraftError, match=r"Expected `metric` to be one of: accuracy.*got 'acuracy'.*Did you mean"
    ):
        select_trials(sweep, "acuracy")


def test_metric_that_was_not_logged(sweep) -> None:
    with pytest.raises(GraftError, match=r"Expected `metric` to be one of: accuracy; but got 'macro_f1'"):
        select_trials(sweep, "macro_f1")


def test_no_finished_run(make_arm, make_run) -> None:
    runs = [
        make_run(make_arm(), val=0, test=0, status=status, seed=seed)
        for seed, status in enumerate(["failed", "killed"])
    ]
    with pytest.raises(
        GraftError, match=r"at least one finished run to compare, but got 1 failed, 1 killed.*graft train"
    ):
        select_trials(runs, "accuracy")
    with pytest.raises(GraftError, match="none at all"):
        select_trials([], "accuracy")


def test_all_finished_runs_diverged(make_arm, make_run) -> None:
    with pytest.raises(GraftError, match=r"a number for `val/accuracy`, but got NaN or infinity in all 1"):
        select_trials([make_run(make_arm(), val=float("nan"), test=0.5)], "accuracy")


def test_two_runs_that_claim_one_place(make_arm, make_run) -> None:
    one = make_run(make_arm(), val=0.5, test=0.5)
    with pytest.raises(
        GraftError, match=r"one finished run per arm, trial, labels and replicate .* but got two"
    ):
        select_trials([one, replace(one, run_id="zz", run_key="other")], "accuracy")


def test_folds_are_replicates_of_their_own(make_arm, make_run) -> None:
    probe, many = make_arm("linear_probe", 5), range(5)
    runs = [
        make_run(arm, val=0.5, test=0.5, seed=seed, fold=fold, folds=5)
        for arm, seed, fold in itertools.product((make_arm(), probe), (0, 1), many)
    ]
    [selection] = select_trials(runs[:-1], "accuracy")
    assert selection.folds == 5
    common = [Replicate(seed, 0, fold) for seed in (0, 1) for fold in many][:-1]
    assert [list(choice.runs) for choice in selection.choices] == [common, common]
    assert [(gap.arm, gap.replicate, gap.status) for gap in selection.gaps] == [
        (probe, Replicate(1, 0, 4), "missing")
    ]
    [one] = pair(selection.choices)
    assert one.replicates == tuple(common)
