from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.compare.naming import name_arms, name_budgets
from graft.plan.arms import Arm

ARMS = st.builds(
    Arm,
    backbone=st.sampled_from(["small_cnn", "resnet18"]),
    weights=st.sampled_from(["none", "a@1", "a@2", "b@1"]),
    method=st.sampled_from(["from_scratch", "linear_probe", "fine_tune", "random_features"]),
    freeze_depth=st.just(3),
    head=st.sampled_from(["linear", "mlp(dropout=0.1,hidden=[256])"]),
    loss=st.sampled_from(["cross_entropy", "focal"]),
    augment=st.sampled_from(["none", "flip_crop"]),
    input=st.sampled_from(["32px@1", "64px@2"]),
)


@given(st.lists(ARMS, unique=True, min_size=1, max_size=12))
def test_names_tell_arms_apart(arms: list[Arm]) -> None:
    assert len(set(name_arms(arms).values())) == len(arms)


def test_what_is_shared_is_not_said(make_arm) -> None:
    arms = [make_arm(), make_arm("fine_tune", 3), make_arm("linear_probe", 5)]
    assert list(name_arms(arms).values()) == ["from scratch", "fine-tune (frozen to 3)", "linear probe"]
    other = make_arm("linear_probe", 5, weights="faces@99")
    assert name_arms([*arms, other])[other] == "linear probe · faces@99"


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["1"], "1 label per class"),
        (["30%"], "30% of the labels"),
        (["replayed"], "the labels of the replayed split"),
        (["2", "5", "all"], "2, 5 and all labels per class"),
        (["10%", "all"], "10% and all of the labels"),
        (["2", "10%"], "2 labels per class and 10% of the labels"),
        (["replayed", "all"], "the labels of the replayed split and all labels"),
    ],
)
def test_budgets_in_words(labels: list[str], words: str) -> None:
    assert name_budgets(labels) == words
