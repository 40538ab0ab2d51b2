"""Doubts about where runs come from, each with a command that helps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from graft.compare.report import compare_records
from graft.track.record import RunRecord


def make_runs(make_arm, make_run, **notes: str) -> list[RunRecord]:
    return [
        make_run(arm, val=value + 0.01 * seed, test=value + 0.01 * seed, seed=seed, notes=notes)
        for arm, value in ((make_arm(), 0.5), (make_arm("linear_probe", 5), 0.8))
        for seed in range(5)
    ]


def told(records: list[RunRecord]) -> tuple[str, str]:
    comparison = compare_records(records, experiment="demo", metric="accuracy")
    return "\n".join(comparison.doubts), "\n".join(comparison.notes)


@pytest.mark.parametrize(
    ("notes", "said", "command"),
    [
        (
            {"source_contains_target": "glyphs has 10 of the 10 target classes"},
            "Pretraining data: glyphs has 10 of the 10 target classes.",
            "`backbone.weights=<other>`",
        ),
        (
            {"preprocessing_override": "data.image_size=32"},
            "Preprocessing of the weights overridden (data.image_size=32)",
            "Leave it out",
        ),
        (
            {"data_warnings": "nearly one picture in several splits: 3 found by the check"},
            "Training and test may share pictures (nearly one picture in several splits: 3",
            "`graft check data=digits`",
        ),
    ],
)
def test_what_runs_tell_of_themselves_is_doubted(make_arm, make_run, notes, said: str, command: str) -> None:
    doubts, _ = told(make_runs(make_arm, make_run, **notes))
    [doubt] = [line for line in doubts.splitlines() if said in line]
    assert command in doubt


def test_what_nobody_looked_at_is_noted(make_arm, make_run) -> None:
    _, notes = told(make_runs(make_arm, make_run))
    assert "`graft check data=digits` looks for them" in notes


def test_weights_of_an_unknown_source_are_doubted_once(make_arm, make_run) -> None:
    arms = [make_arm("linear_probe", 5, weights=f"net/IMAGENET1K_V{number}@ab") for number in range(1, 6)]
    runs = [make_run(arm, val=0.8, test=0.8) for arm in [*arms, make_arm()]]
    [doubt] = [line for line in told(runs)[0].splitlines() if "in pretraining is not known" in line]
    assert doubt.startswith(
        "Whether net/IMAGENET1K_V1, net/IMAGENET1K_V2, net/IMAGENET1K_V3 and 2 others"
        " (pretrained on ImageNet) saw images of digits in pretraining is not known"
    )
    assert "`graft pretrain data=<source> backbone=small_cnn`" in doubt
    assert "`backbone.weights=<source>-small_cnn`" in doubt


def test_a_bundle_says_what_it_was_trained_on(make_arm, make_run) -> None:
    assert "in pretraining" in told(make_runs(make_arm, make_run))[0]
    assert "in pretraining" not in told(make_runs(make_arm, make_run, source_data="glyphs"))[0]


def test_from_scratch_alone_has_no_source(make_arm, make_run) -> None:
    doubts, _ = told([run for run in make_runs(make_arm, make_run) if run.arm.from_scratch])
    assert "pretraining" not in doubts


@pytest.mark.parametrize(("count", "doubted"), [("0", False), ("3", True)])
def test_runs_that_know_of_copies(make_arm, make_run, count: str, doubted: bool) -> None:
    """What a run counted stands above what the check of the whole set said."""
    warned = {"data_warnings": "nearly one picture in several splits: 3 found by the check"}
    doubts, _ = told(make_runs(make_arm, make_run, test_copies=count, **warned))
    assert ("copies of test images (of up to 3 in a run); without predictions" in doubts) is doubted
    assert "Training and test may share" not in doubts
    assert "on record" not in told(make_runs(make_arm, make_run, test_copies=count))[1]
    some = make_runs(make_arm, make_run, test_copies=count)[:9] + make_runs(make_arm, make_run)[9:]
    assert "on record" in told(some)[1]


def test_several_versions_of_graft_are_doubted(make_arm, make_run) -> None:
    old, new = (make_runs(make_arm, make_run, version=version) for version in ("0.1.0", "0.2.0"))
    doubts, _ = told([*old[:5], *new[5:]])
    assert "several versions of graft (0.1.0 and 0.2.0)" in doubts
    assert "`paths.root=<new folder>`" in doubts


def test_several_states_of_the_repository_are_doubted(make_arm, make_run) -> None:
    old, new = (make_runs(make_arm, make_run, commit=commit * 40, git_dirty="false") for commit in "ab")
    doubts, _ = told([*old[:5], *new[5:]])
    assert "several states of your repository (commits aaaaaaaa and bbbbbbbb): if code that they" in doubts
    assert "`paths.root=<new folder>`" in doubts
    changed = make_runs(make_arm, make_run, commit="a" * 40, git_dirty="true")
    doubts, _ = told([*old[:7], *changed[7:]])
    assert "several states of your repository (3 of 10 with changes that were not committed)" in doubts
    doubts, _ = told([*changed[:5], *new[5:]])
    assert "(commits aaaaaaaa and bbbbbbbb, 5 of 10 with changes that were not committed)" in doubts


@pytest.mark.parametrize("dirty", ["true", "false"])
def test_one_state_of_the_repository_is_not_doubted(make_arm, make_run, dirty: str) -> None:
    """A run that did not finish is not compared, and one outside of a repository has no commit."""
    runs = make_runs(make_arm, make_run, commit="a" * 40, git_dirty=dirty)
    lost = make_run(make_arm(), val=0, test=0, seed=9, status="failed", notes={"commit": "b" * 40})
    assert "several states" not in told([*runs, lost])[0]
    assert "several states" not in told([*runs[:5], *make_runs(make_arm, make_run)[5:]])[0]


def test_changed_images_stand_apart(make_arm, make_run) -> None:
    old, new = (make_runs(make_arm, make_run, data_digest=digest * 64) for digest in "ab")
    changed = [
        replace(run, condition="other", run_id=f"b{run.run_id}", run_key=f"b{run.run_key}") for run in new
    ]
    _, notes = told([*old, *changed])
    assert "The images or labels of digits changed between runs (aaaaaaaa and bbbbbbbb)" in notes
    assert "run the sweep again on the data as they are" in notes


def test_unequal_tuning_is_doubted_with_what_equal_tuning_would_give(make_arm, make_run) -> None:
    more = [make_run(make_arm(), val=0.6, test=0.6, seed=seed, lr=0.1) for seed in range(5)]
    doubts, _ = told([*make_runs(make_arm, make_run), *more])
    assert (
        "Tuning budgets differ at 2 labels per class: 2 trials for from scratch; 1 trial for linear" in doubts
    )
    assert (
        "With 1 trial each, expected at 2 labels per class on validation:"
        " 0.820 for linear probe and 0.560 for from scratch." in doubts
    )
    assert "A single learning rate was tried for linear probe at 2 labels per class" in doubts
