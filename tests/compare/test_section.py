"""Runs with their predictions and histories, as an archive gives them: what the report then knows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from graft.compare.comparison import Comparison, Row
from graft.compare.report import compare_records
from graft.compare.section import build_section
from graft.compare.select import select_trials
from graft.track.archive import SavedScores
from graft.track.record import RunRecord

MakeArm = Callable[..., object]
IMAGES = 300
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
    assert "`--metric accuracy`" in doubt
    other = replace(records[0], metrics={**records[0].metrics, "test/accuracy": 0.99})
    comparison = compare([other, *records[1:]], kept)
    assert any("the predictions of some runs do not give their accuracy" in one for one in comparison.doubts)


def test_seeds_with_other_test_images_are_doubted(make_arm, make_run) -> None:
    records, kept = make_world(make_arm, make_run)
    one = kept.scores[records[0].run_id]
    kept.scores[records[0].run_id] = SavedScores(one.index + 7, one.label, one.scores)
    assert any("seeds differ in their test images" in doubt for doubt in compare(records, kept).doubts)


def test_a_metric_that_is_no_mean_over_images_is_doubted(make_arm, make_run) -> None:
    records, kept = make_world(make_arm, make_run)
    records = [
        replace(
            one,
            metrics={
                **one.metrics,
                "val/calibration_error": 0.1,
                "test/calibration_error": 0.1 + one.seed / 99,
            },
        )
        for one in records
    ]
    kept.history = lambda run_id, key: []  # type: ignore[method-assign]
    comparison = compare_records(records, experiment="demo", metric="calibration_error", archive=kept)  # type: ignore[arg-type]
    assert any("(calibration error is no mean over images)" in doubt for doubt in comparison.doubts)


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
    assert few.cost.break_even == "as good as from scratch at its best after 0.67 s instead of 8 s"
    assert math.isnan(few.cost.flops)
    known = [replace(one, notes={"pretrain_seconds": "600"}) for one in records]
    assert probes(compare(known, kept))[0].cost.break_even.endswith(
        "its pretraining (10 min 0 s) is paid back after 82 such runs"
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
    assert comparison.sections[0].rising == (("10", pytest.approx(0.032)),)
    [doubt] = [one for one in comparison.doubts if "still improved" in one]
    assert "(by 3.2 points at 10 labels per class)" in doubt
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
    assert compare([*records, *worse], None, selection="oracle").test_looks == 2 * len(records)


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
    [selection] = select_trials(sweep, "accuracy")
    section = build_section(selection, "accuracy")
    assert len(section.tuning_curves) == 6
    assert [one.labels for one in section.importance] == ["2", "20"]
    assert section.class_sizes is None
