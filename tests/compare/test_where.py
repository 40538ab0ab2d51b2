from __future__ import annotations

import contextlib
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.compare.where import parse_where
from graft.errors import GraftError
from graft.plan.arms import Arm


def kept(records, text: str) -> set[tuple[str, str, int]]:
    return {(one.arm.method, one.labels, one.seed) for one in parse_where(text).keep(records)}


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("labels<=5", {"2", "5"}),
        ("labels < 5", {"2"}),
        ("labels>5 and labels != all", {"20"}),
        ("labels>=20", {"20", "all"}),
        ('labels = "all"', {"all"}),
        ("labels>10%", {"30%", "all"} - {"all"}),
        ("labels==5 and seed=0", {"5"}),
    ],
)
def test_labels_are_compared_as_numbers(make_arm, make_run, text: str, labels: set[str]) -> None:
    runs = [make_run(make_arm(), val=1, test=1, labels=one) for one in ("2", "5", "20", "30%", "all")]
    assert {label for _, label, _ in kept(runs, text)} == labels


def test_twins_of_what_is_kept_stay(make_arm, make_run) -> None:
    arms = [make_arm(backbone=name) for name in ("small_cnn", "resnet18")]
    arms += [make_arm("fine_tune", depth, backbone="resnet18") for depth in (0, 3)]
    runs = [make_run(arm, val=1, test=1, lr=lr) for arm in arms for lr in (0.1, 0.01)]
    found = parse_where("freeze_depth>=3 and lr<=0.01").keep(runs)
    assert {(one.arm.method, one.arm.backbone, one.trial.split()[1]) for one in found} == {
        ("fine_tune", "resnet18", "lr=0.01"),
        ("from_scratch", "resnet18", "lr=0.01"),
    }
    assert len(parse_where("weights=glyphs").keep(runs)) == 6
    assert len(parse_where("weights=glyphs@1234abcd and method=fine_tune").keep(runs)) == 6


ARMS = {
    "backbone": ("fine_tune", 0, {"backbone": "resnet18"}),
    "weights": ("linear_probe", 5, {}),
    "method": ("fine_tune", 0, {}),
    "freeze_depth": ("fine_tune", 3, {}),
    "freeze_until": ("fine_tune", 3, {"freeze_until": "features.6.relu"}),
    "head": ("linear_probe", 5, {"head": "ridge"}),
    "loss": ("fine_tune", 0, {"loss": "focal"}),
    "augment": ("fine_tune", 0, {"augment": "flip"}),
    "input": ("fine_tune", 0, {"input": "64px@cd34"}),
}


@pytest.mark.parametrize("name", [item.name for item in fields(Arm)])
def test_a_condition_on_any_field_of_an_arm_keeps_its_twin(make_arm, make_run, name: str) -> None:
    """Whether the twin shares the value of the field or not, and no twin of another arm stays."""
    method, depth, changes = ARMS[name]
    arm = make_arm(method, depth, **changes)
    other = make_arm("fine_tune", 1, backbone="other")
    runs = [make_run(one, val=1, test=1) for one in (arm, arm.twin, other, other.twin)]
    found = parse_where(f'{name}="{getattr(arm, name)}" and backbone!=other').keep(runs)
    assert [one.arm for one in found] == [arm, arm.twin]


@pytest.mark.parametrize(
    ("text", "trials"),
    [
        ("backbone_lr_multiplier=0.1", {"lr=0.1", "lr=0.01"}),
        ("backbone_lr_multiplier=0.1 and lr<=0.01", {"lr=0.01"}),
        ("backbone_lr_multiplier=0.1 and lr=3", {"lr=0.1", "lr=0.01"}),
        ("strengths='[1;10]'", {"lr=0.1", "lr=0.01"}),
    ],
)
def test_tuning_values_that_a_twin_has_not_keep_its_trials(make_arm, make_run, text, trials) -> None:
    arm, twin = make_arm("fine_tune"), make_arm()
    runs = [
        make_run(twin, val=1, test=1, labels=labels, trial=f"backbone_lr_multiplier=1 lr={lr}")
        for lr in ("0.1", "0.01")
        for labels in ("2", "5")
    ]
    runs += [
        make_run(arm, val=1, test=1, trial=f"backbone_lr_multiplier=0.1 lr={lr}") for lr in ("0.01", "3")
    ]
    runs.append(make_run(make_arm("linear_probe", 5, head="ridge"), val=1, test=1, trial="strengths=[1;10]"))
    found = parse_where(f"{text} and labels=2").keep(runs)
    assert {one.trial.split()[1] for one in found if one.arm == twin} == trials
    assert {one.labels for one in found} == {"2"}


def test_what_matches_nothing_lists_the_values_that_exist(sweep) -> None:
    with pytest.raises(GraftError) as caught:
        parse_where("backbone=resnet18 and labels>100").keep(sweep)
    said = str(caught.value)
    assert (
        "Expected some of 90 runs to match --where 'backbone=resnet18 and labels>100', but none does." in said
    )
    assert said.endswith("The values there are: `backbone`: small_cnn; `labels`: 2, 20.")


def test_an_unknown_field_lists_the_fields(sweep) -> None:
    with pytest.raises(GraftError, match=r"`a field of --where` to be one of: backbone, .*Did you mean"):
        parse_where("backbones=resnet18").keep(sweep)


@pytest.mark.parametrize(
    ("text", "came"),
    [
        ("", "nothing"),
        ("labels", "'labels'"),
        ("labels<=", "'labels<='"),
        ("labels<=2 or seed=1", "'or seed=1'"),
        ("labels<=2 and", "nothing"),
        ("__import__('os')", r"\"__import__\('os'\)\""),
    ],
)
def test_a_broken_where_says_the_grammar(text: str, came: str) -> None:
    with pytest.raises(GraftError, match=f"but got {came}. A condition is a field") as caught:
        parse_where(text)
    assert '--where "backbone=resnet18 and labels<=20"' in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(GraftError):
        assert parse_where(text).conditions


def test_twins_stay_in_the_condition_of_their_arms_at_all_its_budgets(make_arm, make_run) -> None:
    """From scratch at more labels says how many labels the probe is worth; elsewhere it answers nobody."""
    probe, scratch = make_arm("linear_probe", 5), make_arm()
    here = make_run(probe, val=1, test=1, labels="2")
    twins = [make_run(scratch, val=1, test=1, labels=labels) for labels in ("2", "50")]
    elsewhere = make_run(scratch, val=1, test=1, condition="elsewhere")
    where = parse_where("method=linear_probe")
    assert where.keep([here, *twins, elsewhere]) == [here, *twins]
    assert where.match([here, *twins, elsewhere]) == [here]
