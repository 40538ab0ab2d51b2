from __future__ import annotations

import numpy as np
import pytest

from graft.compare.canvas import DEPTH_COLOURS, FROM_SCRATCH_COLOUR, colour_arm, render_figure
from graft.compare.confusion import draw_confusion
from graft.compare.curves import place_budgets
from graft.compare.figures import draw_section
from graft.compare.report import compare_records
from graft.compare.select import select_trials


def section_of(records):
    return compare_records(records, experiment="demo", metric="accuracy").sections[0]


def test_curve_shows_the_numbers(sweep) -> None:
    section = section_of(sweep)
    figures = draw_section(section, "accuracy")
    assert list(figures) == ["accuracy_by_labels"]
    [axes] = figures["accuracy_by_labels"].axes
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
    figures = draw_section(section_of(runs), "accuracy")
    assert list(figures) == ["accuracy_by_arm", "accuracy_by_depth"]
    [axes] = figures["accuracy_by_arm"].axes
    assert len(axes.get_yticklabels()) == 14
    [axes] = figures["accuracy_by_depth"].axes
    legend = {text.get_text() for text in axes.get_legend().get_texts()}
    assert legend == {
        f"{name}, {kind}" for name in ("small_cnn", "resnet18") for kind in ("transfer", "from scratch")
    }


def test_an_arm_has_the_same_colour_everywhere(make_arm) -> None:
    assert colour_arm(make_arm(backbone="resnet18")) == FROM_SCRATCH_COLOUR
    assert colour_arm(make_arm("linear_probe", 5)) == DEPTH_COLOURS[5]
    assert len({*DEPTH_COLOURS, FROM_SCRATCH_COLOUR, colour_arm(make_arm("random_features", 5))}) == 8


@pytest.mark.parametrize(("kind", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_files_are_reproducible(sweep, kind: str, magic: bytes) -> None:
    first, again = (
        render_figure(draw_section(section_of(sweep), "accuracy")["accuracy_by_labels"], kind) for _ in "ab"
    )
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
    [axes] = draw_section(section, "accuracy")["accuracy_by_labels"].axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["5%", "replayed", "30%", "all"]
    assert axes.get_xlabel() == "labelled training images (log scale)"


def test_a_share_gives_a_file_name_that_links(make_arm, make_run) -> None:
    arms = [make_arm(), *(make_arm("fine_tune", depth) for depth in range(4))]
    runs = [make_run(arm, val=0.5, test=0.5, labels=labels) for arm in arms for labels in ("12.5%", "all")]
    assert list(draw_section(section_of(runs), "accuracy")) == [
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
        figure = draw_section(section_of(some), "accuracy")["accuracy_by_arm"]
        assert f"95 % corrected resampled t interval {words}" in figure.get_supxlabel()
    alone = draw_section(section_of(runs[::3]), "accuracy")["accuracy_by_arm"]
    assert "Student-t interval over 2 seeds x 1 fold" in alone.get_supxlabel()


def test_confusion_matrix_shows_its_counts() -> None:
    figure = draw_confusion([[5, 1], [0, 4]], ["cat", "lynx"], "linear probe")
    assert [text.get_text() for text in figure.axes[0].texts] == ["5", "1", "4"]
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), [[5 / 6, 1 / 6], [0, 1]])
    with pytest.raises(ValueError, match=r"expected counts of shape \(3, 3\), but got \(2, 2\)"):
        draw_confusion([[5, 1], [0, 4]], ["a", "b", "c"], "")
