"""From runs to the report, and the golden page.

``GRAFT_UPDATE_GOLDEN=1 pytest tests/compare/test_report.py`` writes the files of tests/golden
anew; read the difference before committing it.
"""

from __future__ import annotations

import csv
import json
import math
import os
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from graft.compare.comparison import Comparison
from graft.compare.latex import render_latex
from graft.compare.markdown import render_markdown
from graft.compare.report import compare_records, format_json, write_report
from graft.compare.runs import format_runs, read_runs
from graft.compare.terminal import render_table
from graft.errors import GraftError
from graft.plan.arms import Arm
from graft.plan.replicates import Replicate
from graft.track.record import RunRecord

GOLDEN = Path(__file__).parents[1] / "golden"
QUESTION = "Does pretraining on rendered glyphs pay on handwritten digits?"


@pytest.fixture
def comparison(sweep: list[RunRecord]) -> Comparison:
    return compare_records(sweep, experiment="demo", metric="accuracy", question=QUESTION)


def sentence_of(records: list[RunRecord], metric: str = "accuracy") -> str:
    [section] = compare_records(records, experiment="demo", metric=metric).sections
    return section.budgets[0].sentence


def test_golden_report(sweep, make_arm, make_run) -> None:
    """The committed runs give the committed pages, to the letter."""
    if os.environ.get("GRAFT_UPDATE_GOLDEN"):
        probe = make_arm("linear_probe", 5)
        failed = make_run(
            probe, val=0, test=0, labels="20", seed=5, status="failed", notes={"reason": "out of memory"}
        )
        (GOLDEN / "runs.csv").write_text(format_runs([*sweep, failed]))
    comparison = compare_records(
        read_runs(GOLDEN / "runs.csv"), experiment="demo", metric="accuracy", question=QUESTION
    )
    pages = {
        "report.md": render_markdown(comparison),
        "comparison.json": format_json(comparison),
        "table.tex": render_latex(comparison),
    }
    for name, page in pages.items():
        if os.environ.get("GRAFT_UPDATE_GOLDEN"):
            (GOLDEN / name).write_text(page)
        assert page == (GOLDEN / name).read_text(), name


def test_sentences_say_who_wins_where(comparison) -> None:
    few, many = (budget.sentence for budget in comparison.sections[0].budgets)
    assert few.startswith("At 2 labels per class, linear probe beats training from scratch by 2")
    assert "(5 seeds): transfer helps; it is worth 4.0 times the labels [" in few
    assert "; linear probe beats fine-tune by" in few
    assert many.startswith("At 20 labels per class, fine-tune beats training from scratch by")
    assert "Of 2 transfer arms, 1 helps and 1 is not established." in many


def test_headline_is_chosen_on_validation(make_arm, make_run) -> None:
    runs = []
    for seed, wobble in enumerate((0.0, 0.01, -0.01, 0.02, -0.03)):
        runs.append(make_run(make_arm(), val=0.5 + wobble, test=0.5 - wobble, seed=seed))
        runs.append(make_run(make_arm("linear_probe", 5), val=0.8 + wobble, test=0.6 + wobble, seed=seed))
        runs.append(make_run(make_arm("fine_tune", 0), val=0.7 + wobble, test=0.9, seed=seed))
    said = sentence_of(runs)
    assert said.startswith(
        "At 2 labels per class, linear probe beats training from scratch by 9.6 points [4.8, 14.4]"
    )
    assert "linear probe falls short of fine-tune by 30.2 points" in said


def test_negative_transfer_and_a_loss(make_arm, make_run) -> None:
    runs = []
    for seed in range(4):
        for arm, loss in ((make_arm(), 1.0), (make_arm("fine_tune", 0), 1.3 + 0.01 * seed)):
            metrics = {"val/loss": loss, "test/loss": loss}
            runs.append(make_run(arm, val=0.5, test=0.5, seed=seed, metrics=metrics))
    assert "falls short of training from scratch by 0.315 nats [0.294, 0.336] (4 seeds): transfer hurts" in (
        sentence_of(runs, "loss")
    )


def test_one_seed_has_no_interval_and_no_verdict(make_arm, make_run) -> None:
    runs = [make_run(make_arm(), val=0.5, test=0.5), make_run(make_arm("fine_tune", 0), val=0.9, test=0.9)]
    comparison = compare_records(runs, experiment="demo", metric="accuracy")
    [budget] = comparison.sections[0].budgets
    assert "+40.0 points (1 seed), is not established (one seed says nothing" in budget.sentence
    assert budget.rows[0].verdict == "not established"
    assert math.isnan(budget.rows[0].test.low)
    assert any("With one seed there is no interval and no verdict" in doubt for doubt in comparison.doubts)
    assert "nan" not in render_markdown(comparison).lower()


def test_without_a_twin_there_is_a_note(make_arm, make_run) -> None:
    runs = [make_run(make_arm("fine_tune", 0), val=0.9, test=0.9, seed=seed) for seed in range(5)]
    comparison = compare_records(runs, experiment="demo", metric="accuracy")
    assert "no from-scratch twin to compare with" in comparison.sections[0].budgets[0].sentence
    assert any("`sweep.twin=auto` adds it" in note for note in comparison.notes)


def test_from_scratch_alone(make_arm, make_run) -> None:
    assert "there is no transfer arm to judge" in sentence_of([make_run(make_arm(), val=0.5, test=0.5)])


def test_holm_explains_an_interval_that_excludes_zero(make_arm, make_run) -> None:
    runs = []
    for labels in ("2", "5", "10", "20", "50", "100"):
        for seed, gain in enumerate((0.01, 0.02, 0.03, 0.05, 0.01)):
            runs.append(make_run(make_arm(), val=0.5, test=0.5, seed=seed, labels=labels))
            runs.append(
                make_run(make_arm("fine_tune", 0), val=0.6, test=0.5 + gain, seed=seed, labels=labels)
            )
    said = sentence_of(runs)
    assert "is not established (p = 0.033 by itself, but 0.2 after Holm's correction)" in said
    assert "what would settle it: about 8 seeds instead of 5: `seed='range(8)'`" in said


def test_doubts_name_what_to_do(sweep, make_arm, make_run) -> None:
    extra = make_run(make_arm(), val=0.1, test=0.1, seed=0, labels="20", lr=0.5)
    lost = make_run(make_arm(), val=0.1, test=0.1, seed=1, labels="20", lr=0.5, status="diverged")
    few = [record for record in [*sweep, extra, lost] if not (record.labels == "2" and record.seed > 2)]
    edge = [
        record
        for record in few
        if record.labels == "20" or not record.trial.startswith("batch_size=32 lr=0.01 ")
    ]
    doubts = "\n".join(compare_records(edge, experiment="demo", metric="accuracy").doubts)
    assert "From scratch has a lower test accuracy than 1-nearest-neighbour" in doubts
    assert "Raise `trainer.min_steps`" in doubts
    assert "Only 3 seeds at 2 labels per class" in doubts
    assert "Linear probe: the chosen learning rate 0.001 is the highest tried at 2 labels per class" in doubts
    assert "add `0.003` to `optim.lr`" in doubts
    assert (
        "Tuning budgets differ at 20 labels per class: 4 trials for from scratch; 3 trials for fine-tune"
        in doubts
    )
    assert "4 runs of the grid cannot be compared (3 missing and 1 diverged)" in doubts
    assert "a lower `optim.lr`" in doubts


def test_runs_that_were_cut_are_no_failures(sweep, make_arm, make_run) -> None:
    cut = make_run(make_arm(), val=0.1, test=0.1, seed=0, labels="20", lr=0.5, status="pruned")
    doubts = "\n".join(compare_records([*sweep, cut], experiment="demo", metric="accuracy").doubts)
    assert "Cut early by `sweep.prune=asha`: 1 run of the grid." in doubts
    assert "pruned" not in doubts


def test_notes_of_the_source_are_told(comparison) -> None:
    [doubt] = [one for one in comparison.doubts if one.startswith("Pretraining data: the ten digits")]
    assert "compare with weights of another source" in doubt
    [note] = comparison.notes
    assert note.startswith("No copies of training images in test are on record: `graft check data=digits`")


def test_several_conditions_are_reported_apart(sweep, make_arm, make_run) -> None:
    other = [make_run(make_arm(), val=0.5, test=0.5, condition="other99", seed=seed) for seed in range(2)]
    lost = make_run(make_arm(), val=0, test=0, condition="lost999", status="killed")
    comparison = compare_records([*other, *sweep, lost], experiment="demo", metric="accuracy")
    assert [section.condition for section in comparison.sections] == ["c0ffee1234", "other99"]
    page = render_markdown(comparison)
    assert "## digits (condition c0ffee)" in page
    assert "## digits (condition other9)" in page
    assert "digits (condition lost99): none of 1 runs can be compared" in page.lower().replace(
        "Digits", "digits"
    )


def test_test_of_trials_that_were_not_chosen_is_not_read(sweep, comparison) -> None:
    """Whatever stands in test/ of the other runs, the page is the same."""
    chosen = set(comparison.chosen)
    assert len(chosen) == 3 * 2 * 5
    blind = [
        one if one.run_id in chosen else replace(one, metrics={**one.metrics, "test/accuracy": math.nan})
        for one in sweep
    ]
    again = compare_records(blind, experiment="demo", metric="accuracy", question=QUESTION)
    assert render_markdown(again) == render_markdown(comparison)


def test_chosen_run_without_test_metric(make_arm, make_run) -> None:
    run = make_run(make_arm(), val=0.5, test=math.nan)
    with pytest.raises(
        GraftError, match=r"a number for `test/accuracy` in each chosen run, but run .* has nan"
    ):
        compare_records([run], experiment="demo", metric="accuracy")


def test_written_report(comparison, tmp_path) -> None:
    folder = tmp_path / "reports" / "demo"
    files = write_report(comparison, folder)
    assert [path.relative_to(folder).as_posix() for path in files] == [
        "index.html",
        "report.md",
        "runs.csv",
        "comparison.json",
        "table.tex",
        *(
            f"figures/{name}.{kind}"
            for name in ("accuracy_by_labels", "accuracy_pairs", "accuracy_by_rate", "accuracy_by_cost")
            for kind in ("png", "svg", "csv")
        ),
    ]
    assert {path for path in folder.rglob("*") if path.is_file()} == set(files)
    assert "](figures/accuracy_by_labels.png)" in files[1].read_text()
    assert read_runs(files[2]) == list(comparison.records)
    before = {path: path.read_bytes() for path in files}
    assert {path: path.read_bytes() for path in write_report(comparison, folder)} == before


def test_json_is_strict(comparison) -> None:
    values = json.loads(format_json(comparison), parse_constant=pytest.fail)
    row = values["sections"][0]["budgets"][0]["rows"][-1]
    assert row["arm"] == comparison.sections[0].budgets[0].rows[-1].arm.text
    assert row["p_adjusted"] is None


def test_unwritable_folder(comparison, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        GraftError, match=r"Expected a folder to write the report to, but .* cannot be written"
    ):
        write_report(comparison, tmp_path / "file" / "report")


def test_failed_write_keeps_the_last_good_file(comparison, tmp_path, monkeypatch) -> None:
    write_report(comparison, tmp_path)
    before = (tmp_path / "report.md").read_text()

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(GraftError, match="No space left on device"):
        write_report(replace(comparison, question="other"), tmp_path)
    assert (tmp_path / "report.md").read_text() == before
    assert not list(tmp_path.glob(".report*"))


def test_terminal_tables(comparison) -> None:
    console = Console(file=StringIO(), width=120, color_system=None)
    tables = render_table(comparison)
    for table in tables:
        console.print(table)
    assert len(tables) == 2
    printed = console.file.getvalue()
    assert "20 labels per class" in printed
    assert "linear probe" in printed
    assert "helps" in printed
    assert "points to twin" in printed


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)


@given(
    st.dictionaries(TEXT, st.floats(allow_nan=False), max_size=3),
    st.dictionaries(TEXT, TEXT, max_size=3),
    st.integers(0, 99),
    TEXT,
)
def test_runs_round_trip(
    tmp_path_factory, metrics: dict[str, float], notes: dict[str, str], seed: int, name: str
) -> None:
    arm = Arm(
        "row_gru(hidden_size=128 layers=2)",
        "my weights@12",
        "fine_tune",
        3,
        "linear",
        "focal",
        "none",
        "8px@1",
    )
    replicate = Replicate(seed, 2, 3)
    record = RunRecord(
        name, "key", "finished", arm, "lr=0.1", "c", "all", replicate, "digits", name, metrics, notes, 5
    )
    plain = RunRecord(
        "other", "key", "killed", arm, "lr=0.1", "c", "2", Replicate(seed), "digits", "demo", {}, {}
    )
    path = tmp_path_factory.mktemp("runs") / "runs.csv"
    path.write_text(format_runs([record, plain]), newline="", encoding="utf-8")
    assert read_runs(path) == [record, plain]


def test_unreadable_runs(tmp_path) -> None:
    path = tmp_path / "runs.csv"
    with pytest.raises(GraftError, match="there is no such file"):
        read_runs(path)
    path.write_text("run_id,seed\n1,2\n")
    with pytest.raises(GraftError, match="lacks the columns: run_key, status"):
        read_runs(path)
    golden = (GOLDEN / "runs.csv").read_text().splitlines()
    path.write_text("\n".join([golden[0], golden[1].replace("backbone=", "spine=")]))
    with pytest.raises(GraftError, match="but line 2 says: expected the words"):
        read_runs(path)


def test_tables_of_runs_from_before_folds_are_read(sweep, tmp_path) -> None:
    rows = list(csv.reader(StringIO(format_runs(sweep))))
    kept = [place for place, name in enumerate(rows[0]) if name not in ("replicate", "folds")]
    path = tmp_path / "runs.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([row[place] for place in kept] for row in rows)
    assert read_runs(path) == sweep


def folded_runs(make_arm, make_run, seeds: int = 1) -> list[RunRecord]:
    gains = (0.10, 0.12, 0.08, 0.11, 0.09)
    return [
        make_run(arm, val=value, test=value, seed=seed, fold=fold, folds=5, labels="30%")
        for seed in range(seeds)
        for fold, gain in enumerate(gains)
        for arm, value in ((make_arm(), 0.6 + 0.05 * gain), (make_arm("linear_probe", 5), 0.6 + 1.05 * gain))
    ]


def test_folds_are_compared_by_the_corrected_test(make_arm, make_run) -> None:
    """Mean 10 points, deviation sqrt(2.5), times sqrt(1/5 + 1/4) and t(4) = 2.776 is 2.94."""
    comparison = compare_records(
        folded_runs(make_arm, make_run), experiment="demo", metric="accuracy", question=QUESTION
    )
    [budget] = comparison.sections[0].budgets
    assert budget.sentence == (
        "At 30% of the labels, linear probe beats training from scratch by 10.0 points [7.1, 12.9] (5 folds):"
        " transfer helps."
    )
    page = render_markdown(comparison)
    assert "**30% of the labels, 5 folds**" in page
    assert "corrected resampled t-test (Nadeau and Bengio, 2003)" in page
    assert "fold by fold" in page
    assert "Student-t" not in page
    doubt, _ = comparison.doubts
    assert doubt.startswith("A single learning rate was tried for from scratch and linear probe")
    twice = compare_records(folded_runs(make_arm, make_run, 2), experiment="demo", metric="accuracy")
    assert "10.0 points [7.1, 12.9] (2 seeds x 5 folds)" in twice.sections[0].budgets[0].sentence
    row = json.loads(format_json(twice))["sections"][0]["budgets"][0]["rows"][0]
    assert row["replicates"][-1] == "seed=1 repeat=0 fold=4"


def test_missing_folds_are_doubted_and_listed(make_arm, make_run) -> None:
    runs = folded_runs(make_arm, make_run)[:-1]
    comparison = compare_records(runs, experiment="demo", metric="accuracy")
    doubts = "\n".join(comparison.doubts)
    assert "Only 4 folds at 30% of the labels: the spread between folds is badly known." in doubts
    assert "`data.fold='range(5)'`" in doubts
    assert "1 run missing (seed=0 repeat=0 fold=4; 1 trial)" in render_markdown(comparison)
    one = compare_records(runs[:2], experiment="demo", metric="accuracy")
    assert "(one seed says nothing" in one.sections[0].budgets[0].sentence


def test_few_whole_folds_ask_for_a_repeat(make_arm, make_run) -> None:
    runs = [
        make_run(make_arm(), val=0.5, test=0.5 + fold, seed=seed, fold=fold, folds=3)
        for seed in range(5)
        for fold in range(3)
    ]
    [doubt, _] = compare_records(runs, experiment="demo", metric="accuracy").doubts
    assert doubt.startswith("Only 3 folds at 2 labels per class")
    assert "`data.fold_repeat=0,1`" in doubt


def test_an_arm_must_beat_the_baselines_that_cost_nothing(make_arm, make_run) -> None:
    probe = make_arm("linear_probe", 5)
    facts = {"test/majority_accuracy": 0.6}
    runs = [
        make_run(arm, val=test, test=test, seed=seed, metrics=facts | more)
        for arm, test, more in ((make_arm(), 0.6, {}), (probe, 0.7, {"test/feature_knn_accuracy": 0.75}))
        for seed in range(5)
    ]
    majority, neighbours, *_ = compare_records(runs, experiment="demo", metric="accuracy").doubts
    assert majority.startswith(
        "From scratch has no higher test accuracy than always saying the largest class"
        " (0.600 against 0.600 at 2 labels per class): it may have learned nothing."
    )
    assert "`--metric balanced_accuracy`" in majority
    assert neighbours.startswith(
        "Linear probe has a lower test accuracy than nearest neighbours on its own frozen features"
        " (0.700 against 0.750"
    )


def test_warnings_about_the_data_are_told_once(make_arm, make_run) -> None:
    notes = {"data_warnings": "3 images are unreadable.\n2 pairs are duplicates.\n"}
    runs = [make_run(make_arm(), val=0.5, test=0.5, seed=seed, notes=notes) for seed in range(5)]
    comparison = compare_records(runs, experiment="demo", metric="accuracy")
    assert comparison.notes == ("Data: 2 pairs are duplicates.", "Data: 3 images are unreadable.")


def test_a_quick_look_with_another_seed_leaves_no_gaps(sweep, make_arm, make_run) -> None:
    quick = make_run(make_arm("linear_probe", 5), val=0.8, test=0.8, labels="20", lr=0.001, seed=9)
    comparison = compare_records([*sweep, quick], experiment="demo", metric="accuracy")
    assert not comparison.sections[0].gaps
    assert not [one for one in comparison.doubts if "cannot be compared" in one]


def test_validation_images_that_all_seeds_share_count_once(sweep) -> None:
    def doubt(**notes: str) -> list[str]:
        metrics = {"labels_val": 25.0}
        records = [
            replace(one, metrics={**one.metrics, **metrics}, notes={**one.notes, **notes}) for one in sweep
        ]
        comparison = compare_records(records, experiment="demo", metric="accuracy")
        return [one for one in comparison.doubts if one.startswith("Few validation images")]

    assert doubt() == []  # 25 under each of five seeds
    [said] = doubt(split="d1")
    assert "25 at 2 and 20 labels per class, a standard error of up to 10 points" in said


def test_with_two_seeds_no_difference_is_larger_than_there_can_be(sweep) -> None:
    few = [one for one in sweep if one.seed < 2]
    [section] = compare_records(few, experiment="demo", metric="accuracy").sections
    told = [row.to_twin.estimate for budget in section.budgets for row in budget.rows if row.to_twin]
    sure = [one for one in told if one.has_interval]
    assert sure
    assert all(-1 <= one.low <= one.high <= 1 for one in sure)
