"""What an MLflow run says of a verdict: doubts before tables, and keys of gains that stay."""

from __future__ import annotations

from dataclasses import replace

import pytest

from graft.compare.comparison import Comparison
from graft.compare.describe import describe_verdict, list_gains
from graft.compare.report import compare_records
from graft.plan.arms import Arm
from graft.track.record import RunRecord


def compare(records: list[RunRecord]) -> Comparison:
    return compare_records(records, experiment="demo", metric="accuracy", question="Does it pay?")


@pytest.fixture
def run_pair(make_run):
    """Return the runs of an arm and its twin with three seeds."""

    def build(arm: Arm, **place: str) -> list[RunRecord]:
        return [
            make_run(one, val=worth, test=worth + seed / 100, seed=seed, **place)
            for one, worth in ((arm, 0.8), (arm.twin, 0.5))
            for seed in range(3)
        ]

    return build


def test_doubts_stand_before_the_tables(run_pair, make_arm) -> None:
    comparison = compare(run_pair(make_arm("linear_probe", 5)))
    comparison = replace(comparison, doubts=("Nobody looked.",))
    said = describe_verdict(comparison)
    parts = [
        "**",
        "- At 2 labels",
        "- Nobody looked.",
        "The question: Does it pay?",
        "index.html",
        "| arm |",
    ]
    places = [said.index(part) for part in parts]
    assert places == sorted(places)


def test_several_conditions_are_told_apart(run_pair, make_arm) -> None:
    arm = make_arm("linear_probe", 5)
    runs = run_pair(arm) + run_pair(arm, condition="beef1234567", data="other set", labels="5")
    said = describe_verdict(compare(runs))
    for opening in ("**digits (condition c0ffee): ", "**other set (condition beef12): "):
        assert said.count(opening) == 2  # the answer and the table
    assert set(list_gains(compare(runs))) == {
        f"gain/{condition}/linear_probe_small_cnn_glyphs/{labels}{end}"
        for condition, labels in (("digits_c0ffee", "2"), ("other_set_beef12", "5"))
        for end in ("", "/low", "/high")
    }


def test_the_key_of_an_arm_stays_when_others_join(run_pair, make_arm) -> None:
    first = run_pair(make_arm("fine_tune", 3))
    alone = list_gains(compare(first))
    assert set(alone) == {
        f"gain/fine-tune_frozen_to_3_small_cnn_glyphs/2{end}" for end in ("", "/low", "/high")
    }
    company = run_pair(make_arm("fine_tune", 3, backbone="resnet18")) + run_pair(
        make_arm("fine_tune", 3, head="mlp(hidden=64)")
    )
    together = list_gains(compare(first + company))
    assert set(alone) < set(together)
    assert "gain/fine-tune_frozen_to_3_resnet18_glyphs/2" in together


def test_arms_alike_but_in_weights_or_input_have_keys_of_their_own(run_pair, make_arm) -> None:
    runs = run_pair(make_arm("linear_probe", 5)) + run_pair(make_arm("linear_probe", 5, input="64px@cd34"))
    keys = {key for key in list_gains(compare(runs)) if key.endswith("/2")}
    assert keys == {
        "gain/linear_probe_small_cnn_glyphs_1234abcd_32px_ab12/2",
        "gain/linear_probe_small_cnn_glyphs_1234abcd_64px_cd34/2",
    }
