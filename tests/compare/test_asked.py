from __future__ import annotations

import pytest

from graft.compare.asked import read_options
from graft.errors import GraftError


def test_values_stand_after_a_space_or_an_equals_sign() -> None:
    asked, rest = read_options(
        [
            "mine",
            "--where",
            "labels<=5 and lr=0.1",
            "other",
            "--metric=loss",
            "--margin",
            "0.5",
            "paths.root=x",
        ]
    )
    assert rest == ["mine", "other", "paths.root=x"]
    assert asked.where is not None
    assert asked.where.text == "labels<=5 and lr=0.1"
    assert (asked.metric, asked.margin) == ("loss", 0.5)
    assert not asked.is_usual
    assert asked.words[0] == "--where 'labels<=5 and lr=0.1'"


def test_what_only_looks_leaves_the_usual_comparison() -> None:
    asked, rest = read_options(["mine", "--json", "--expect", "transfer helps", "--expect=fine_tune hurts"])
    assert (asked.is_usual, asked.as_json, rest) == (True, True, ["mine"])
    assert [one.verdict for one in asked.expects] == ["helps", "hurts"]
    assert not read_options(["--oracle"])[0].is_usual


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--jsn"], r"`option` to be one of: --json, .*but got '--jsn'"),
        (["--where"], "Expected a value after `--where`"),
        (["--metric", "--json"], "Expected a value after `--metric`, such as: --metric balanced_accuracy"),
        (["--metric", "acuracy"], "Did you mean 'accuracy'"),
        (["--margin", "-1"], "positive number, in points"),
        (["--margin=much"], "but got 'much'"),
        (["--metric=loss", "--metric=nll"], "Expected `--metric` once, but got it 2 times"),
    ],
)
def test_a_mistake_is_said(words: list[str], said: str) -> None:
    with pytest.raises(GraftError, match=said):
        read_options(words)
