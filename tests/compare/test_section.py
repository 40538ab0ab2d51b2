"""Runs with their predictions and histories, as an archive gives them: what the report then knows."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from graft.compare.comparison import Comparison, Row
from graft.compare.image_scores import score_images
from graft.compare.markdown import render_markdown
from graft.compare.report import compare_records, format_json
from graft.compare.section import build_sections
from graft.compare.select import select_trials
from graft.track.archive import SavedScores
from graft.track.record import RunRecord

MakeArm = Callable[..., object]
IMAGES = 300
CLOSE = (0.55, 0.5775)
TRUTH = {"2": (0.55, 0.75), "10": (0.75, 0.80), "50": (0.83, 0.84)}


@dataclass
class Kept:
    """Predictions and histories of runs, kept in memory in the place of a store."""

    scores: dict[str, SavedScores] = field(default_factory=dict)
    histories: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def test_scores(self, run_id: str) -> SavedScores | None:
        return self.scores.get(run_id)

    def history(self, run_id: str, key: str) -> list[tuple[int, float]]:
        assert key == "val/accuracy"
        return self.histories.get(run_id, [])


def keep(record: RunRecord, right: np.ndarray, kept: Kept, history: Sequence[float] = ()) -> RunRecord:
    """Keep predictions of which ``right`` are right, and return the run with its test metric."""
    label = np.arange(len(right)) % 5
    scores = np.eye(5)[np.where(right, label, (label + 1) % 5)]
    kept.scores[record.run_id] = SavedScores(np.arange(len(right)), label, scores)
    kept.histories[record.run_id] = [(10 * step, value) for step, value in enumerate(history, 1)]
    metrics = {**record.metrics, "test/accuracy": float(right.mean()), "images_seen": 320.0}
    return replace(record, metrics=metrics)


def make_world(
    make_arm, make_run, truth: Mapping[str, tuple[float, float]] = TRUTH, seeds: int = 5, images: int = IMAGES
) -> tuple[list[RunRecord], Kept]:
    """Return runs of from scratch and a probe over label budgets; images have their own difficulty."""
    rng, kept, records = np.random.default_rng(1), Kept(), []
    hard = rng.random(images)
    for labels, means in truth.items():
        for seed in range(seeds):
            for arm, mean, seconds in zip(
                (make_arm(), make_arm("linear_probe", 5)), means, (8.0, 2.0), strict=True
            ):
                right = 0.6 * hard + 0.4 * rng.random(images) < mean
                counts = {"labels_train": 5.0 * int(labels), "labels_val": 10.0}
                run = make_run(
                    arm, val=mean, test=0, seed=seed, labels=labels, seconds=seconds, metrics=counts
                )
                records.append(keep(run, right, kept, history=(mean - 0.2, mean, mean)))
    return records, kept


def compare(records: Sequence[RunRecord], kept: Kept | None, **options: object) -> Comparison:
    return compare_records(records, experiment="demo", metric="accuracy", archive=kept, **options)  # type: ignore[arg-type]


def probes(comparison: Comparison) -> list[Row]:
    [section] = comparison.sections
    return [row for budget in section.budgets for row in budget.rows if row.arm.method == "linear_probe"]


def test_intervals_are_for_new_seeds_and_images(make_arm, make_run) -> None:
    records, kept = make_world(make_arm, make_run)
    comparison = compare(records, kept)
    for row in probes(comparison):
        assert row.covers == "seeds and images"
        assert row.to_twin is not None
        assert row.to_twin_seeds is not None
        assert row.to_twin.estimate.mean == pytest.approx(row.to_twin_seeds.estimate.mean)
        assert row.to_twin.estimate.low <= row.to_twin_seeds.estimate.low + 1e-12
        assert row.level >= 0.95
    assert comparison.sections[0].without_images == ()
    alone = compare(records, None)
    assert [row.covers for row in probes(alone)] == ["seeds"] * 3
    assert alone.sections[0].without_images == ()


def test_an_interval_excludes_zero_just_where_there_is_a_verdict(make_arm, make_run) -> None:
    records, kept = make_world(make_arm, make_run)
    rows = probes(compare(records, kept, margin=1e-9))
    assert {row.verdict for row in rows} == {"helps", "not established"}
    for row in rows:
        assert row.to_twin is not None
        excludes = row.to_twin.estimate.low > 0 or row.to_twin.estimate.high < 0
        assert excludes == (row.verdict in ("helps", "hurts"))
        assert bool(row.settles) == (row.verdict == "not established")


def test_equivalence_is_looked_at_first(make_arm, make_run) -> None:
    """Within a margin of half, even a large difference is none; a wide one is not established."""
    records, kept = make_world(make_arm, make_run)
    comparison = compare(records, kept, margin=0.5)
    assert [row.verdict for row in probes(comparison)] == ["equivalent"] * 3
    assert "is within 50 points: they are equivalent" in comparison.sections[0].budgets[0].sentence


def test_predictions_that_are_missing_or_wrong_are_doubted(make_arm, make_run) -> None:
    records, kept = make_world(make_arm, make_run)
    lost = Kept({key: one for key, one in kept.scores.items() if key != records[0].run_id}, kept.histories)
    comparison = compare(records, lost)
    assert [row.covers for row in probes(comparison)] == ["seeds", "seeds and images", "seeds and images"]
    [doubt] = [one for one in comparison.doubts if "on these test images alone" in one]
    assert "(some runs have no predictions)" in doubt
    assert "`paths.root=<new folder>`" in doubt
    other = replace(records[0], metrics={**records[0].metrics, "test/accuracy": 0.99})
    comparison = compare([other, *records[1:]], kept)
    assert any("the predictions of some runs do not give their accuracy" in one for one in comparison.doubts)


def test_seeds_with_other_test_images_are_doubted(make_arm, make_run) -> None:
    records, kept = make_world(make_arm, make_run)
    one = kept.scores[records[0].run_id]
    kept.scores[records[0].run_id] = SavedScores(one.index + 7, one.label, one.scores)
    assert any("seeds differ in their test images" in doubt for doubt in compare(records, kept).doubts)


def test_a_metric_that_is_no_mean_over_images_is_doubted(make_arm, make_run) -> None:
    """With five classes the five best hold the true one: there are no values."""
    records, kept = make_world(make_arm, make_run)
    of_five = {"val/top5_accuracy": 0.1, "test/top5_accuracy": 0.1}
    records = [replace(one, metrics={**one.metrics, **of_five}) for one in records]
    kept.history = lambda run_id, key: []  # type: ignore[method-assign]
    comparison = compare_records(records, experiment="demo", metric="top5_accuracy", archive=kept)  # type: ignore[arg-type]
    assert any("(top5 accuracy is no mean over images)" in doubt for doubt in comparison.doubts)


@pytest.mark.parametrize(
    ("metric", "verdict"), [("average_precision", "helps"), ("calibration_error", "hurts")]
)
def test_ranks_and_bins_have_intervals_over_images(make_arm, make_run, metric: str, verdict: str) -> None:
    """A probe that is right more often than its twin, and as unsure, is calibrated worse."""
    records, kept = make_world(make_arm, make_run, {"2": TRUTH["2"]})
    kept.history = lambda run_id, key: []  # type: ignore[method-assign]
    runs = []
    for one in records:
        saved = kept.scores[one.run_id]
        scored = score_images(metric, saved.label, saved.scores)
        assert scored is not None
        value = float(scored.values.mean())
        runs.append(replace(one, metrics={**one.metrics, f"val/{metric}": value, f"test/{metric}": value}))
    comparison = compare_records(runs, experiment="demo", metric=metric, archive=kept)  # type: ignore[arg-type]
    [row] = probes(comparison)
    assert (row.covers, row.verdict) == ("seeds and images", verdict)
    assert comparison.sections[0].without_images == ()


def copy_images(
    records: Sequence[RunRecord], kept: Kept, copied: np.ndarray, seeds: Sequence[int] = range(5)
) -> list[RunRecord]:
    """Let runs at 2 labels train on copies of images; the probe knows them all by heart, its twin none."""
    found = []
    for one in records:
        saved = kept.scores[one.run_id]
        right = saved.scores.argmax(axis=1) == saved.label
        marks = copied & (one.labels == "2") & (one.seed in seeds)
        right = np.where(marks, one.arm.method == "linear_probe", right)
        found.append(keep(one, right, kept))
        kept.scores[one.run_id] = replace(kept.scores[one.run_id], copied=marks)
    return found


def drop_images(records: Sequence[RunRecord], kept: Kept, dropped: np.ndarray) -> list[RunRecord]:
    """Return the runs at 2 labels as if their test set had never had some images."""
    found = []
    for one in records:
        saved = kept.scores[one.run_id]
        rest = ~dropped | (one.labels != "2")
        right = (saved.scores.argmax(axis=1) == saved.label)[rest]
        kept.scores[one.run_id] = SavedScores(saved.index[rest], saved.label[rest], saved.scores[rest])
        found.append(
            replace(one, metrics={**one.metrics, "test/accuracy": float(right.mean()), "images_seen": 320.0})
        )
    return found


def test_without_copies_the_verdict_is_that_of_a_test_set_without_them(make_arm, make_run) -> None:
    """All that the probe is ahead by is what it knows by heart; only some seeds trained on each copy."""
    truth = {"2": (0.55, 0.55), "10": (0.75, 0.80)}
    records, kept = make_world(make_arm, make_run, truth)
    first, second = np.arange(IMAGES) < 40, (np.arange(IMAGES) >= 30) & (np.arange(IMAGES) < 60)
    records = copy_images(records, kept, first, seeds=range(3))
    comparison = compare(copy_images_of_other_seeds(records, kept, second), kept)
    [section] = comparison.sections
    [budget] = section.copies
    assert (budget.labels, budget.copied, budget.images) == ("2", 60, IMAGES)
    with_them = {row.arm: row for row in section.budgets[0].rows}
    records = drop_images(records, kept, first | second)
    clean = {row.arm: row for row in compare(records, kept).sections[0].budgets[0].rows}
    assert len(budget.arms) == len(clean) == 2
    for one in budget.arms:
        assert one.test == pytest.approx(with_them[one.arm].test.mean)
        assert one.without == pytest.approx(clean[one.arm].test.mean)
        assert one.verdict == with_them[one.arm].verdict
        assert one.verdict_without == clean[one.arm].verdict
    [doubt] = [one for one in comparison.doubts if "copies of test images" in one]
    assert "(60 of 300 at 2 labels per class)" in doubt
    assert "Verdicts change (linear probe at 2 labels per class: not established, not helps)." in doubt
    assert "`graft check data=digits` shows them: remove the copies in training." in doubt


def copy_images_of_other_seeds(
    records: Sequence[RunRecord], kept: Kept, copied: np.ndarray
) -> list[RunRecord]:
    later = [one for one in records if one.seed > 2]
    return [*(one for one in records if one.seed <= 2), *copy_images(later, kept, copied)]


def test_copies_that_change_nothing_are_said_to(make_arm, make_run) -> None:
    records, kept = make_world(make_arm, make_run)
    records = copy_images(records, kept, np.arange(IMAGES) < 3)
    comparison = compare(records, kept)
    [doubt] = [one for one in comparison.doubts if "copies of test images" in one]
    assert "On the others, accuracy at 2 labels per class: linear probe has 0." in doubt
    assert "No verdict changes." in doubt
    assert json.loads(format_json(comparison))["sections"][0]["copies"][0]["copied"] == 3


def test_a_test_set_of_copies_alone(make_arm, make_run) -> None:
    records, kept = make_world(make_arm, make_run)
    comparison = compare(copy_images(records, kept, np.ones(IMAGES, dtype=bool)), kept)
    [doubt] = [one for one in comparison.doubts if "copies of test images" in one]
    assert "(300 of 300 at 2 labels per class). On the others there is no metric." in doubt


def test_runs_of_which_one_does_not_know_say_nothing_of_copies(make_arm, make_run) -> None:
    records, kept = make_world(make_arm, make_run, {"2": TRUTH["2"]})
    records = copy_images(records, kept, np.arange(IMAGES) < 30)
    for one in records[:2]:
        kept.scores[one.run_id] = replace(kept.scores[one.run_id], copied=None)
    comparison = compare(records, kept)
    assert comparison.sections[0].copies == ()
    assert "copies of test images" not in " ".join(comparison.doubts)


def test_folds_keep_their_corrected_test(make_arm, make_run) -> None:
    kept, records = Kept(), []
    rng = np.random.default_rng(0)
    for fold in range(5):
        for arm, mean in ((make_arm(), 0.5), (make_arm("linear_probe", 5), 0.8)):
            run = make_run(arm, val=mean, test=0, fold=fold, folds=5, labels="30%")
            records.append(keep(run, rng.random(100) < mean, kept))
    [row] = probes(compare(records, kept))
    assert row.covers == "folds"
    assert row.to_twin == row.to_twin_seeds
    assert row.multiplier is None


def test_a_probe_is_worth_more_labels(make_arm, make_run) -> None:
    """0.75 at 2 labels is what from scratch has at 10."""
    records, kept = make_world(make_arm, make_run)
    few, *_ = probes(compare(records, kept))
    assert few.multiplier is not None
    assert few.multiplier.value == pytest.approx(5.0, rel=0.25)
    assert few.multiplier.low < few.multiplier.value < few.multiplier.high
    said = compare(records, kept).sections[0].budgets[0].sentence
    assert f"transfer helps; it is worth {few.multiplier.text}" in said


def test_costs(make_arm, make_run) -> None:
    records, kept = make_world(make_arm, make_run)
    dear = [
        keep(make_run(one.arm, val=0.1, test=0, seed=one.seed, labels=one.labels, lr=0.3, seconds=5.0),
             np.zeros(IMAGES, dtype=bool), kept)
        for one in records if one.arm.method == "linear_probe"
    ]  # fmt: skip
    few, *_ = probes(compare([*records, *dear], kept))
    assert few.cost is not None
    assert few.cost.seconds == pytest.approx(2.0)
    assert few.cost.tuned_seconds == pytest.approx(7.0)
    assert few.cost.tuned_images == pytest.approx(640.0)
    assert few.cost.on_front
    assert few.cost.reach_seconds == pytest.approx(2.0 / 3)
    assert few.cost.twin_seconds == pytest.approx(16.0 / 3)  # of 8: the last third brought it nothing
    assert few.cost.break_even == "as good as from scratch at its best after 0.67 s instead of 5.3 s"
    assert math.isnan(few.cost.flops)
    known = [replace(one, notes={"pretrain_seconds": "600"}) for one in records]
    assert probes(compare(known, kept))[0].cost.paid_back_runs == 129
    assert probes(compare(known, kept))[0].cost.break_even.endswith(
        "its pretraining (10 min 0 s) is paid back after 129 such runs"
    )


def test_a_rising_baseline_is_doubted(make_arm, make_run) -> None:
    records, kept = make_world(make_arm, make_run)
    for record in records:
        rise = 0.03 if record.labels == "10" and record.arm.from_scratch else 0.0
        kept.histories[record.run_id] = [
            (step, 0.5 + 0.001 * record.seed * (step == 100) + rise * (step == 100))
            for step in range(10, 101, 10)
        ]
    comparison = compare(records, kept)
    assert comparison.sections[0].rising == (("10", pytest.approx(0.032), pytest.approx(0.1)),)
    [doubt] = [one for one in comparison.doubts if "still improved" in one]
    assert "(by 3.2 points in the last 10 % at 10 labels per class)" in doubt
    assert "`trainer.min_steps`" in doubt


def test_unbalanced_classes_are_doubted_under_accuracy(make_arm, make_run) -> None:
    records, kept = make_world(make_arm, make_run)
    for run_id, one in kept.scores.items():
        label = np.where(np.arange(IMAGES) < 280, 0, 1)
        right = one.scores.argmax(axis=1) == one.label
        kept.scores[run_id] = SavedScores(one.index, label, np.eye(2)[np.where(right, label, 1 - label)])
    [doubt] = [one for one in compare(records, kept).doubts if "Classes differ" in one]
    assert "(20 to 280 test images)" in doubt
    assert "`--metric balanced_accuracy`" in doubt


def test_random_features_are_in_no_family(make_arm, make_run) -> None:
    records, kept = make_world(make_arm, make_run)
    control = [
        keep(
            make_run(make_arm("random_features", 3), val=0.3, test=0, seed=seed, labels="2"),
            np.arange(IMAGES) < 90,
            kept,
        )
        for seed in range(5)
    ]
    with_control, without = compare([*records, *control], kept), compare(records, kept)
    assert with_control.sections[0].family == without.sections[0].family == 3
    [row] = [row for row in with_control.sections[0].budgets[0].rows if row.arm.method == "random_features"]
    assert row.verdict is None
    assert probes(with_control)[0].to_twin == probes(without)[0].to_twin


def test_identical_arms_have_no_verdict(make_arm, make_run) -> None:
    """The same predictions: equivalent where the test set is large enough to say so."""
    for images, verdict in ((300, "not established"), (2_000, "equivalent")):
        records, kept = make_world(make_arm, make_run, {"2": (0.7, 0.7)}, images=images)
        for scratch, probe in zip(records[::2], records[1::2], strict=True):
            kept.scores[probe.run_id] = kept.scores[scratch.run_id]
            probe.metrics["test/accuracy"] = scratch.metrics["test/accuracy"]  # type: ignore[index]
        [row] = probes(compare(records, kept))
        assert row.verdict == verdict


def test_what_looks_at_test_is_counted(make_arm, make_run) -> None:
    records, _ = make_world(make_arm, make_run)
    worse = [
        replace(
            one,
            run_id=f"w{one.run_id}",
            run_key=f"w{one.run_key}",
            trial="batch_size=32 lr=1 name=adamw",
            metrics={**one.metrics, "val/accuracy": 0.1},
        )
        for one in records
    ]
    assert compare([*records, *worse], None).test_looks == len(records)
    earlier = [replace(worse[0], notes={"chosen": "true"}), *worse[1:]]
    assert compare([*records, *earlier], None).test_looks == len(records) + 1
    oracle = compare([*records, *worse], None, selection="oracle")
    assert oracle.test_looks == len(oracle.newly_read) == 2 * len(records)
    read = [replace(one, notes={"test_read": "true"}) for one in worse]
    later = compare([*records, *read], None)
    assert (later.test_looks, len(later.newly_read)) == (2 * len(records), len(records))


def test_an_oracle_is_stamped_and_looks_at_test(make_arm, make_run) -> None:
    runs = [
        make_run(arm, val=val, test=1 - val, seed=seed, lr=lr)
        for arm in (make_arm(), make_arm("linear_probe", 5))
        for lr, val in ((0.1, 0.8), (0.01, 0.3))
        for seed in range(3)
    ]
    honest, oracle = compare(runs, None), compare(runs, None, selection="oracle")
    assert (honest.selection, oracle.selection) == ("validation", "oracle")
    assert probes(honest)[0].test.mean == pytest.approx(0.2)
    assert probes(oracle)[0].test.mean == pytest.approx(0.7)
    assert oracle.doubts[0].startswith("Test itself chose the trials (oracle)")


def test_results_of_a_newer_version_count(make_arm, make_run) -> None:
    runs = []
    for arm, version, val in (
        (make_arm(), "1", 0.5),
        (make_arm(), "2", 0.6),
        (make_arm("linear_probe", 5), "2", 0.7),
    ):
        for seed in range(3):
            run = make_run(arm, val=val, test=val, seed=seed, notes={"result_version": version})
            runs.append(replace(run, run_id=f"{run.run_id}v{version}", run_key=f"{run.run_key}v{version}"))
    comparison = compare(runs, None)
    assert probes(comparison)[0].to_twin.estimate.mean == pytest.approx(0.1)
    [doubt] = [one for one in comparison.doubts if "gives other results" in one]
    assert "(versions 1 and 2)" in doubt


def test_section_of_a_selection_alone(sweep) -> None:
    [section] = build_sections(select_trials(sweep, "accuracy"), "accuracy")
    assert len(section.tuning_curves) == 6
    assert [one.labels for one in section.importance] == ["2", "20"]
    assert section.class_sizes is None


def repeat(records: Sequence[RunRecord], kept: Kept) -> list[RunRecord]:
    """Return the same runs under another condition, with the same predictions."""
    found = [
        replace(one, condition="other99", run_id=f"o{one.run_id}", run_key=f"o{one.run_key}")
        for one in records
    ]
    for one in found:
        kept.scores[one.run_id] = kept.scores[one.run_id[1:]]
        kept.histories[one.run_id] = kept.histories[one.run_id[1:]]
    return found


def verdicts(comparison: Comparison) -> list[set[str | None]]:
    """Return the verdicts of the probes in each condition."""
    return [
        {row.verdict for budget in one.budgets for row in budget.rows if row.arm.method == "linear_probe"}
        for one in comparison.sections
    ]


def test_the_family_is_that_of_the_whole_report(make_arm, make_run) -> None:
    """p is 0.033: below 0.05 by itself, and 0.065 of two, whatever condition the other one is in."""
    runs = [
        make_run(arm, val=0.5, test=0.5 + gain, seed=seed, condition=condition)
        for condition in ("c0ffee1234", "other99")
        for seed, own in enumerate((0.01, 0.02, 0.03, 0.05, 0.01))
        for arm, gain in ((make_arm(), 0.0), (make_arm("linear_probe", 5), own))
    ]
    assert verdicts(compare(runs[:10], None)) == [{"helps"}]
    both = compare(runs, None)
    assert verdicts(both) == [{"not established"}] * 2
    assert [section.family for section in both.sections] == [2, 2]
    rows = [row for section in both.sections for row in section.budgets[0].rows if row.verdict]
    assert [(round(row.p_adjusted, 3), row.level) for row in rows] == [(0.065, 0.975)] * 2
    assert "all comparisons with a twin (2)" in render_markdown(both)


def test_contrasts_of_all_conditions_are_one_family(make_arm, make_run) -> None:
    gains = (0.01, 0.02, 0.03, 0.05, 0.01)
    runs = [
        make_run(arm, val=0.5 + gain, test=0.5 + gain, seed=seed, condition=condition)
        for condition in ("c0ffee1234", "other99")
        for seed, own in enumerate(gains)
        for arm, gain in ((make_arm("fine_tune"), 0.0), (make_arm("linear_probe", 5), own))
    ]
    for some, established in ((runs[:10], [True]), (runs, [False, False])):
        sections = compare(some, None).sections
        assert [one.budgets[0].contrasts[0].established for one in sections] == established


def test_without_copies_the_family_is_that_of_the_whole_report_too(make_arm, make_run) -> None:
    """Without the copies p is between 0.025 and 0.05: a second condition with the same runs decides."""
    records, kept = make_world(make_arm, make_run, {"2": CLOSE})
    records = copy_images(records, kept, np.arange(IMAGES) < 20)
    both = [*records, *repeat(records, kept)]
    for some, verdict in ((records, "helps"), (both, "not established")):
        for section in compare(some, kept, margin=1e-9).sections:
            [probe] = [one for one in section.copies[0].arms if one.arm.method == "linear_probe"]
            assert probe.verdict_without == verdict


def test_a_thin_arm_is_left_out_and_said(sweep, make_arm, make_run) -> None:
    """A quick look at one seed: verdicts stay as they were, and the report says how to complete it."""
    quick = [make_run(make_arm("fine_tune", 3), val=0.99, test=0.99, labels="20")]
    before, after = (compare(runs, None) for runs in (sweep, [*sweep, *quick]))
    for old, new in zip(before.sections[0].budgets, after.sections[0].budgets, strict=True):
        assert [(row.arm, row.to_twin, row.verdict) for row in old.rows] == [
            (row.arm, row.to_twin, row.verdict) for row in new.rows
        ]
    [doubt] = [one for one in after.doubts if "Left out" in one]
    assert doubt == (
        "Left out of the comparison, as too few of their runs are there: fine-tune (frozen to 3) at 20 labels"
        " per class. Ask for them again with `seed=0,1,2,3,4`: it does only what is missing."
    )
    gone = "fine-tune (frozen to 3), 20 labels per class: left out, has 1 of the 5 seeds compared"
    assert gone in render_markdown(after)
    [left_out] = json.loads(format_json(after))["sections"][0]["left_out"]
    assert (left_out["labels"], left_out["finished"]) == ("20", ["seed=0"])
    assert left_out["compared"] == [f"seed={seed}" for seed in range(5)]


def test_an_arm_without_its_twin_is_told_where_the_twin_is(sweep, make_arm, make_run) -> None:
    arm = make_arm("fine_tune", backbone="resnet18")
    more = [make_run(arm, val=0.7, test=0.7, labels="20", seed=seed) for seed in range(5)]
    more.append(make_run(arm.twin, val=0.6, test=0.6, labels="20"))
    comparison = compare([*sweep, *more], None)
    [doubt] = [one for one in comparison.doubts if "Left out" in one]
    assert "from scratch · resnet18 at 20 labels per class; without its twin an arm has no verdict." in doubt
    assert "sweep.twin=auto" not in " ".join(comparison.notes)


def test_folds_that_an_arm_lacks_are_asked_for(make_arm, make_run) -> None:
    arms = [make_arm(), make_arm("linear_probe", 5)]
    runs = [make_run(arm, val=0.5, test=0.5, fold=fold, folds=5) for arm in arms for fold in range(5)]
    runs.append(make_run(make_arm("fine_tune"), val=0.5, test=0.5, fold=0, folds=5))
    [doubt] = [one for one in compare(runs, None).doubts if "Left out" in one]
    assert "`seed=0 data.fold=0,1,2,3,4`" in doubt
