from __future__ import annotations

from dataclasses import replace

import pytest

from graft.compare.expect import list_failures, parse_expectation
from graft.compare.report import compare_records
from graft.errors import GraftError


@pytest.fixture
def comparison(sweep):
    return compare_records(sweep, experiment="demo", metric="accuracy")


@pytest.mark.parametrize(
    "text", ["fine_tune helps", "transfer helps at 2", "linear probe helps at 2", "transfer helps"]
)
def test_what_holds_has_no_failures(comparison, text: str) -> None:
    assert list_failures(comparison, parse_expectation(text)) == []


def test_what_does_not_hold_says_what_came_instead(comparison) -> None:
    [failure] = list_failures(comparison, parse_expectation("linear_probe helps"))
    assert failure.startswith("linear probe, 20 labels per class: ")
    assert "+0.1 points" in failure
    assert len(list_failures(comparison, parse_expectation("fine_tune hurts"))) == 2
    [alone] = list_failures(comparison, parse_expectation("from_scratch helps at 2"))
    assert alone.endswith("there is no twin to compare with")


def test_what_was_left_out_or_never_compared_does_not_hold(sweep, make_arm, make_run) -> None:
    """Fine-tuning helps wherever it was compared; at 20 labels another depth lost most of its seeds."""
    thin = make_run(make_arm("fine_tune", 3), val=0.9, test=0.9, labels="20")
    lost = make_run(make_arm("fine_tune", 0), val=0, test=0, labels="50", status="diverged")
    comparison = compare_records([*sweep, thin, lost], experiment="demo", metric="accuracy")
    assert list_failures(comparison, parse_expectation("fine_tune helps")) == [
        "fine-tune (frozen to 3), 20 labels per class: left out, too few of its runs can be compared",
        "fine-tune, 50 labels per class: left out, too few of its runs can be compared",
    ]
    assert list_failures(comparison, parse_expectation("fine_tune helps at 2")) == []
    assert len(list_failures(comparison, parse_expectation("fine_tune helps at 50"))) == 1
    assert list_failures(comparison, parse_expectation("fine-tune (frozen to 3) helps")) == [
        "fine-tune (frozen to 3), 2 labels per class: no such arm is compared",
        "fine-tune (frozen to 3), 20 labels per class: left out, too few of its runs can be compared",
        "fine-tune (frozen to 3), 50 labels per class: no such arm is compared",
    ]
    assert list_failures(comparison, parse_expectation("transfer helps")) == [
        "transfer, 50 labels per class: no such arm is compared"
    ]


def test_it_has_to_hold_in_each_condition(sweep, make_arm, make_run) -> None:
    """Where there is from scratch alone, there is nothing to judge."""
    others = [
        make_run(arm, val=0.5, test=0.5, condition="other99", seed=seed)
        for arm in (make_arm(), make_arm("linear_probe", 5))
        for seed in range(2)
    ]
    alone = [one for one in others if one.arm.from_scratch]
    comparison = compare_records([*sweep, *alone], experiment="demo", metric="accuracy")
    assert list_failures(comparison, parse_expectation("fine_tune helps at 2")) == []
    comparison = compare_records([*sweep, *others], experiment="demo", metric="accuracy")
    assert list_failures(comparison, parse_expectation("fine_tune helps at 2")) == [
        "digits (condition other9): fine_tune, 2 labels per class: no such arm is compared"
    ]
    both = [replace(one, condition="fewer99") for one in sweep if one.labels == "2"]
    comparison = compare_records([*sweep, *both], experiment="demo", metric="accuracy")
    assert list_failures(comparison, parse_expectation("linear_probe equivalent at 20"))[-1] == (
        "digits (condition fewer9): linear_probe, 20 labels per class: no such arm is compared"
    )


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("linear_probe equivalent", "equivalent"),
        ("fine_tune is not established at all", "not established"),
        ("  transfer hurts at 30% ", "hurts"),
    ],
)
def test_every_verdict_can_be_expected(text: str, verdict: str) -> None:
    assert parse_expectation(text).verdict == verdict


@pytest.mark.parametrize("text", ["", "fine_tune", "helps", "fine_tune wins", "fine_tune helps on 10"])
def test_a_broken_expectation_says_grammar_and_choices(text: str) -> None:
    with pytest.raises(GraftError, match=r"Expected `--expect` as <who> <verdict> \[at <labels>\]") as caught:
        parse_expectation(text)
    assert "one of: helps, hurts, equivalent, not established" in str(caught.value)


def test_who_and_labels_have_to_be_compared(comparison) -> None:
    with pytest.raises(GraftError, match=r"`who of --expect` to be one of: fine-tune, .*Did you mean"):
        list_failures(comparison, parse_expectation("finetune helps"))
    with pytest.raises(GraftError, match=r"`labels of --expect` to be one of: .*but got '5'"):
        list_failures(comparison, parse_expectation("fine_tune helps at 5"))


def test_nothing_holds_where_there_is_from_scratch_alone(make_arm, make_run) -> None:
    alone = [make_run(make_arm(), val=0.5, test=0.5, seed=seed) for seed in range(3)]
    comparison = compare_records(alone, experiment="demo", metric="accuracy")
    assert list_failures(comparison, parse_expectation("transfer helps")) == [
        "transfer: no such arm is compared"
    ]
