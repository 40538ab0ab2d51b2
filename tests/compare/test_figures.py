from __future__ import annotations

import csv

import numpy as np
import pandas as pd
import pytest

from graft.compare.canvas import DEPTH_COLOURS, FROM_SCRATCH_COLOUR, colour_arm, mark_arm, render_figure
from graft.compare.curves import place_budgets
from graft.compare.drawing import format_table
from graft.compare.evidence import Evidence, Portrait, Predictions
from graft.compare.figures.calibration import list_bins
from graft.compare.figures.confusion import draw_confusion
from graft.compare.figures.section import draw_section
from graft.compare.report import compare_records
from graft.compare.select import select_trials


def section_of(records):
    return compare_records(records, experiment="demo", metric="accuracy").sections[0]


def figures_of(records, evidence=None):
    """Return the drawings of the first section by name."""
    drawings = draw_section(section_of(records), "accuracy", records, evidence or Evidence())
    return {one.name: one for one in drawings}


def test_curve_shows_the_numbers(sweep) -> None:
    section = section_of(sweep)
    figures = figures_of(sweep)
    assert list(figures) == ["accuracy_by_labels", "accuracy_pairs", "accuracy_by_rate", "accuracy_by_cost"]
    [axes] = figures["accuracy_by_labels"].figure.axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["2", "20"]
    legend = {text.get_text() for text in axes.get_legend().get_texts()}
    assert legend == {*section.names.values(), "1-NN on raw pixels"}
    drawn = {tuple(np.round(np.asarray(line.get_ydata(), dtype=float), 6)) for line in axes.lines}
    for curve in section.curves:
        assert tuple(round(point.estimate.mean, 6) for point in curve.points) in drawn
        assert all(tuple(np.round(point.values, 6)) in drawn for point in curve.points)


def test_one_budget_gives_a_plot_of_arms_and_a_grid_its_profile(make_arm, make_run) -> None:
    runs = []
    for backbone in ("small_cnn", "resnet18"):
        arms = [make_arm(backbone=backbone), make_arm("linear_probe", 5, backbone=backbone)]
        arms += [make_arm("fine_tune", depth, backbone=backbone) for depth in range(5)]
        for place, arm in enumerate(arms):
            runs += [
                make_run(arm, val=0.5 + 0.05 * place, test=0.5 + 0.05 * place + 0.01 * s, seed=s)
                for s in range(2)
            ]
    figures = figures_of(runs)
    assert list(figures)[:2] == ["accuracy_by_arm", "accuracy_by_depth"]
    assert "accuracy_by_rate" not in figures
    [axes] = figures["accuracy_by_arm"].figure.axes
    assert len(axes.get_yticklabels()) == 14
    [axes] = figures["accuracy_by_depth"].figure.axes
    legend = {text.get_text() for text in axes.get_legend().get_texts()}
    assert legend == {
        f"{name}, {kind}" for name in ("small_cnn", "resnet18") for kind in ("transfer", "from scratch")
    }


def test_cuts_inside_a_stage_stand_beside_their_depth(make_arm, make_run) -> None:
    arms = [make_arm("fine_tune", depth) for depth in range(5)]
    arms += [make_arm("fine_tune", 3, freeze_until=node) for node in ("features.6.relu", "features.7.relu")]
    runs = [
        make_run(arm, val=0.5, test=0.5 + 0.01 * seed, seed=seed)
        for arm in [*arms, make_arm()]
        for seed in range(2)
    ]
    figure = figures_of(runs)["accuracy_by_depth"].figure
    [axes] = figure.axes
    means = [tuple(container.lines[0].get_xdata()) for container in axes.containers]
    assert means == [(0, 1, 2, 3, 4), (2.6,), (2.8,)]
    assert len({container.lines[0].get_fillstyle() for container in axes.containers}) == 3
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend[-2:] == [f"small_cnn, frozen to features.{place}.relu" for place in (6, 7)]
    assert "A cut inside a stage stands left of the depth" in figure.get_supxlabel()


def test_an_arm_has_the_same_colour_everywhere(make_arm) -> None:
    assert colour_arm(make_arm(backbone="resnet18")) == FROM_SCRATCH_COLOUR
    assert colour_arm(make_arm("linear_probe", 5)) == DEPTH_COLOURS[5]
    assert len({*DEPTH_COLOURS, FROM_SCRATCH_COLOUR, colour_arm(make_arm("random_features", 5))}) == 8


@pytest.mark.parametrize(("kind", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_files_are_reproducible(sweep, kind: str, magic: bytes) -> None:
    first, again = (render_figure(figures_of(sweep)["accuracy_by_labels"].figure, kind) for _ in "ab")
    assert first == again
    assert first.startswith(magic)


def test_all_labels_are_placed_by_their_count(make_arm, make_run) -> None:
    runs = [
        make_run(make_arm(), val=0.5, test=0.5, labels=labels, metrics={"labels_train": count})
        for labels, count in (("2", 20.0), ("10", 100.0), ("all", 800.0))
    ]
    [selection] = select_trials(runs, "accuracy")
    assert place_budgets(selection.choices).places == {"2": 2.0, "10": 10.0, "all": 80.0}
    [bare] = select_trials(
        [make_run(make_arm(), val=0.5, test=0.5, labels=one) for one in ("5", "all")], "accuracy"
    )
    assert place_budgets(bare.choices).places == {"5": 5.0, "all": 10.0}
    [alone] = select_trials([make_run(make_arm(), val=0.5, test=0.5, labels="all")], "accuracy")
    assert place_budgets(alone.choices).places == {"all": 1.0}


def test_shares_of_the_labels_are_placed_by_their_count(make_arm, make_run) -> None:
    counts = {"5%": 40.0, "30%": 240.0, "replayed": 100.0, "all": 800.0}
    runs = [
        make_run(
            arm, val=0.5, test=0.5 + 0.01 * seed, seed=seed, labels=labels, metrics={"labels_train": count}
        )
        for arm in (make_arm(), make_arm("linear_probe", 5))
        for seed in range(2)
        for labels, count in counts.items()
    ]
    section = section_of(runs)
    assert section.axis.name == "labelled training images"
    assert list(section.axis.places.items()) == sorted(counts.items(), key=lambda item: item[1])
    assert [budget.labels for budget in section.budgets] == ["5%", "replayed", "30%", "all"]
    assert all(
        [point.labels for point in curve.points] == list(section.axis.places) for curve in section.curves
    )
    [axes] = figures_of(runs)["accuracy_by_labels"].figure.axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["5%", "replayed", "30%", "all"]
    assert axes.get_xlabel() == "labelled training images (log scale)"


def test_a_share_gives_a_file_name_that_links(make_arm, make_run) -> None:
    arms = [make_arm(), *(make_arm("fine_tune", depth) for depth in range(4))]
    runs = [make_run(arm, val=0.5, test=0.5, labels=labels) for arm in arms for labels in ("12.5%", "all")]
    assert list(figures_of(runs))[:3] == [
        "accuracy_by_labels",
        "accuracy_by_depth_12.5percent",
        "accuracy_by_depth_all",
    ]


def test_a_share_stands_among_labels_per_class(make_arm, make_run) -> None:
    runs = [
        make_run(make_arm(), val=0.5, test=0.5, labels=labels, metrics={"labels_train": count})
        for labels, count in (("2", 20.0), ("20", 200.0), ("10%", 80.0))
    ]
    [selection] = select_trials(runs, "accuracy")
    axis = place_budgets(selection.choices)
    assert (axis.name, axis.places) == (
        "labelled training images per class",
        {"2": 2.0, "10%": 8.0, "20": 20.0},
    )
    bare = [make_run(make_arm(), val=0.5, test=0.5, labels=labels) for labels in ("5%", "30%")]
    [selection] = select_trials(bare, "accuracy")
    assert place_budgets(selection.choices).name == "label budget"


def test_figures_say_when_intervals_are_over_folds(make_arm, make_run) -> None:
    runs = [
        make_run(make_arm(), val=0.5, test=0.5 + 0.01 * fold, seed=seed, fold=fold, folds=3)
        for seed in range(2)
        for fold in range(3)
    ]
    for some, words in ((runs[:3], "over 3 folds"), (runs, "over 2 seeds x 3 folds")):
        figure = figures_of(some)["accuracy_by_arm"].figure
        assert f"95 % corrected resampled t interval {words}" in figure.get_supxlabel()
    alone = figures_of(runs[::3])["accuracy_by_arm"].figure
    assert "Student-t interval over 2 seeds x 1 fold" in alone.get_supxlabel()


def predict(label: list[int], sure: list[float]) -> Predictions:
    """Return predictions of two classes, class 1 with the given probabilities."""
    high = np.asarray(sure)
    return Predictions(np.asarray(label), np.stack([1 - high, high], axis=1))


def portray() -> Portrait:
    winner = predict([0, 0, 1, 1, 1], [0.1, 0.8, 0.9, 0.95, 0.3])
    twin = predict([0, 0, 1, 1, 1], [0.6, 0.7, 0.9, 0.95, 0.3])
    return Portrait("20", "fine-tune", "from scratch", ("cat", "lynx"), winner, twin)


def test_confusion_shows_winner_twin_and_their_difference() -> None:
    drawing = draw_confusion(portray(), "animals")
    winner, twin, difference = (axes.images[0].get_array() for axes in drawing.figure.axes)
    np.testing.assert_allclose(winner, [[0.5, 0.5], [1 / 3, 2 / 3]])
    np.testing.assert_allclose(twin, [[0.0, 1.0], [1 / 3, 2 / 3]])
    np.testing.assert_allclose(difference, [[0.5, -0.5], [0.0, 0.0]])
    assert drawing.columns == ("true", "predicted", "images: fine-tune", "images: from scratch")
    assert drawing.rows[0] == ("cat", "lynx", 1, 2)
    assert [text.get_text() for text in drawing.figure.axes[0].texts] == ["50", "50", "33", "67"]


def test_bins_are_those_of_the_calibration_error() -> None:
    """Each image is in one bin, and a bin says how sure and how right its images are."""
    bins = list_bins(predict([0, 1, 1, 0], [0.9, 0.91, 0.95, 0.4]))
    assert [count for _, _, count in bins] == [1, 2, 1]
    np.testing.assert_allclose([sure for sure, _, _ in bins], [0.6, 0.905, 0.95])
    np.testing.assert_allclose([right for _, right, _ in bins], [1.0, 0.5, 1.0])


def test_evidence_gives_learning_curves_confusion_and_calibration(sweep) -> None:
    section = section_of(sweep)
    histories = dict.fromkeys(section.chosen, ((10, 0.2), (20, 0.4), (30, 0.5)))
    short = section.chosen[0]
    histories[short] = ((10, 0.7), (30, 0.5))
    figures = figures_of(sweep, Evidence(histories, {section.condition: portray()}))
    assert list(figures)[3:] == ["learning_curves", "accuracy_by_cost", "confusion", "calibration"]
    rows = figures["learning_curves"].rows
    [arm] = {row[0] for row in rows} - {"fine-tune", "linear probe"}
    assert [row[2:] for row in rows if row[:2] == (arm, "2")] == [(10, 0.3, 5), (30, 0.5, 5)]
    assert len([row for row in rows if row[:2] == (arm, "20")]) == 3


def test_rates_show_the_mean_of_the_best_trial(sweep) -> None:
    """An oracle: pandas groups the same runs."""
    rows = figures_of(sweep)["accuracy_by_rate"].rows
    table = pd.DataFrame(
        [(one.arm.label, one.labels, one.trial.split()[1], one.metrics["val/accuracy"]) for one in sweep],
        columns=["arm", "labels", "rate", "value"],
    )
    means = table.groupby(["arm", "labels", "rate"])["value"].mean()
    assert len(rows) == len(means) == 18
    np.testing.assert_allclose(sorted(row[3] for row in rows), sorted(means))


def test_pairs_are_subtracted_seed_by_seed(sweep) -> None:
    section = section_of(sweep)
    rows = [row for row in figures_of(sweep)["accuracy_pairs"].rows if row[:2] == ("fine-tune", "2")]
    values = {
        curve.arm.method: point.values
        for curve in section.curves
        for point in curve.points
        if point.labels == "2"
    }
    wanted = np.subtract(values["fine_tune"], values["from_scratch"])
    np.testing.assert_allclose([row[3] for row in rows[1:]], wanted)
    assert rows[0][3] == pytest.approx(wanted.mean())


def test_the_front_holds_no_arm_that_another_beats_in_both(make_arm, make_run) -> None:
    arms = [make_arm(), *(make_arm("fine_tune", depth) for depth in range(4))]
    runs = [
        make_run(arm, val=test, test=test, seconds=seconds)
        for arm, test, seconds in zip(arms, (0.5, 0.9, 0.7, 0.6, 0.8), (5, 9, 1, 3, 9), strict=True)
    ]
    front = {row[2]: row[6] for row in figures_of(runs)["accuracy_by_cost"].rows}
    assert front[1.0] == "yes"
    assert front[3.0] == front[5.0] == "no"
    rows = figures_of(runs)["accuracy_by_cost"].rows
    assert [row[3] for row in rows if row[6] == "yes"] == [0.9, 0.7]


def test_every_number_of_a_figure_is_in_its_table(sweep) -> None:
    """Read back from the CSV, the means are those of the section, to the last digit."""
    section = section_of(sweep)
    table = list(csv.DictReader(format_table(figures_of(sweep)["accuracy_by_labels"]).splitlines()))
    wanted = {
        (section.names[curve.arm], point.labels): point.estimate.mean
        for curve in section.curves
        for point in curve.points
    }
    wanted |= {("1-NN on raw pixels", labels): 0.7 for labels in ("2", "20")}
    assert {(row["arm"], row["labels"]): float(row["mean"]) for row in table} == wanted


def test_arms_that_differ_in_the_head_alone_have_other_markers(make_arm) -> None:
    arms = [make_arm("linear_probe", 5), make_arm("linear_probe", 5, head="ridge")]
    looks = [mark_arm(arm, arms) for arm in arms]
    assert looks[0]["marker"] == looks[1]["marker"]
    assert looks[0]["fillstyle"] != looks[1]["fillstyle"]
