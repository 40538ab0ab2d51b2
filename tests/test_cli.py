"""The command line: help that fits a screen, mistakes in words, Hydra's own flags, tab completion."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from graft import __version__
from graft.cli import VERBS, main

COMPOSING = ("train", "pretrain")


@pytest.fixture
def say(capsys):
    """Run the command in this process; returns its exit code, what it printed, and what it complained."""

    def run(*words):
        try:
            code = main(list(words))
        except SystemExit as exit_:  # argparse inside Hydra
            code = exit_.code
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def in_a_process(*words, **environment):
    command = [sys.executable, "-m", "graft", *words]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=120)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_the_overview_names_every_verb_and_fits_a_screen(words, say):
    code, told, complaint = say(*words)
    assert (code, complaint) == (0, "")
    assert all(f"  {name}" in told for name in VERBS)
    assert_fits_a_screen(told)


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_fits_a_screen_and_shows_three_examples(verb, say):
    code, told, _ = say(verb, "--help")
    assert code == 0
    assert_fits_a_screen(told)
    assert told.startswith(f"usage: graft {verb}")
    assert sum(line.startswith(f"  graft {verb}") for line in told.splitlines()) >= 3


def assert_fits_a_screen(told):
    assert len(told.splitlines()) <= 24
    assert max(map(len, told.splitlines())) <= 110


def test_help_loads_nothing_heavy():
    code = "import sys; from graft.cli import main; main(['train', '--help']); main([]); print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = {name.partition(".")[0] for name in told.splitlines()[-1].split()}
    assert "graft" in loaded
    assert not loaded & {
        "torch",
        "hydra",
        "omegaconf",
        "mlflow",
        "numpy",
        "pandas",
        "pytorch_lightning",
        "rich",
    }


@pytest.mark.parametrize("words", [["--version"], ["-V"], ["version"]])
def test_the_version_is_told(words, say):
    assert say(*words) == (0, f"graft {__version__}\n", "")


#: What is typed, and what is complained; the exit code is 2 and there is no traceback.
MISTAKES = [
    (["trian"], "Expected `verb` to be one of: train,"),
    (["trian"], "Did you mean 'train'?"),
    (["compare", "path.root=x"], "Expected `option` to be one of: paths.root, tracking.uri"),
    (["compare", "--deep"], "Expected `option` to be one of: --where, --expect,"),
    (
        ["compare", "--expect", "fine_tune wins"],
        "Expected `--expect` as <who> <verdict> [at <labels>], but got",
    ),
    (["compare", "--where", "labels is 20"], "Expected a condition such as labels<=20 in --where"),
    (["compare", "--metric=acuracy"], "Did you mean 'accuracy'?"),
    (["compare", "--margin", "none"], "Expected `--margin` to be a positive number, in points"),
    (["compare", "--where"], 'Expected a value after `--where`, such as: --where "backbone='),
    (["ui", "port=high"], "Expected nothing but `port=<1 to 65535>`"),
    (["ui", "port=99999"], "Expected nothing but `port=<1 to 65535>`"),
    (["models", "--jso"], "Expected `option` to be one of: --json; but got '--jso'."),
    (["train", "optim.lrr=1"], "There is no knob `optim.lrr`"),
    (["train", "optim.lr=fast"], "Expected `optim.lr` to be a number, but got 'fast'."),
    (["train", "+new.key=1"], "There is no knob `new`"),
    (["train", "transfer=linear"], "Expected `transfer` to be one of: linear_probe,"),
    (["train", "optim=3"], "Expected `optim` to be one of: adam, adamw, sgd; but got '3'."),
    (["train", "data=digits", "data=glyphs"], "Expected one choice for `data`, but got two"),
    (["train", "-m", "data=digits", "data=glyphs"], "Expected one choice for `data`, but got two"),
    (["train", "transfer.freeze_depth=6", "optim.lr=nan", "seed=-1"], "The configuration has 3 mistakes:"),
    (["train", "transfer=linear_probe"], "Expected pretrained weights with `transfer=linear_probe`"),
    (["train", "transfer.freeze_depth=3"], "that control is `transfer=random_features`"),
    (["train", "data=folder"], "`data.root"),
    (["train", "--wat"], "There is no option '--wat'"),
    (["pretrain", "backbone.name=smal_cnn"], "`backbone.name` to be one of: small_cnn"),
    (["pretrain", "-m", "seed=0,1"], "Expected one source model, but got -m"),
    (
        ["pretrain", "transfer=random_features", "transfer.freeze_depth=3"],
        "Expected `transfer.freeze_depth=0` to make a weights bundle",
    ),
    (
        ["pretrain", "transfer=fine_tune", "backbone.weights=mine", "transfer.freeze_until=features.3.norm"],
        "to make a weights bundle, which holds a whole network, but got features.3.norm",
    ),
    (["train", "-m", "optim.lr=1,fast"], "Expected `optim.lr` to be a number, but got 'fast'."),
    (["train", "-m", "optim.lrr=1,2"], "There is no knob `optim.lrr`"),
    (
        ["train", "-m", "seed=0,-1", "metric=acuracy"],
        "but got 'acuracy'. Did you mean 'accuracy'? (2 of 2 runs)",
    ),
    (["train", "-m", "transfer=glob(zzz*)"], "Expected at least one value for `transfer`"),
    (["train", "-m", "--cfg", "job"], "Expected -m or --cfg, but got both."),
    (["train", "experiment=digit_transfer"], "Did you mean 'digits_transfer'?"),
]


@pytest.mark.parametrize(("words", "said"), MISTAKES, ids=lambda value: " ".join(value)[:60])
def test_a_mistake_is_said_in_words(words, said, say, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, told, complaint = say(*words)
    assert code == 2
    assert said in complaint
    assert "Traceback" not in told + complaint
    assert "Error executing job" not in complaint


@pytest.mark.parametrize("more", [(), ("-m", "seed=0,1")], ids=["one run", "sweep"])
def test_a_root_that_cannot_be_written_is_named(more, say, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, complaint = say("train", "trainer=smoke", f"paths.root={tmp_path}/file/runs", *more)
    assert code == 2
    assert f"{tmp_path}/file/runs" in complaint
    assert "ive another one: `paths.root=<folder>`" in complaint


def test_comparing_nothing_is_refused(say, tmp_path):
    code, _, complaint = say("compare", f"paths.root={tmp_path}/none")
    assert code == 2
    assert "there is no such folder. Start with: graft train" in complaint
    code, _, complaint = say("compare", f"paths.root={tmp_path}")
    assert code == 2
    assert complaint.startswith("graft: ")


def test_one_mistake_through_the_real_command():
    done = in_a_process("train", "optim.lr=nan", "seed=-1")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("graft: The configuration has 2 mistakes:\n  1. Expected")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", COMPOSING)
def test_hydra_shows_the_configuration(verb, say):
    code, told, _ = say(verb, "--cfg", "job", "optim.lr=0.125")
    assert code == 0
    assert "lr: 0.125" in told
    assert "data:\n" in told


@pytest.mark.parametrize(
    "words", [["-m", "seed=0,-1"], ["seed=0,-1", "-m"], ["optim.lr=1", "-m", "seed=0,-1"]]
)
def test_flags_may_stand_anywhere(words, say, tmp_path):
    code, _, complaint = say("train", f"paths.root={tmp_path}", *words)
    assert code == 2
    assert "`seed` between 0 and 4294967295, but got -1. (1 of 2 runs)" in complaint


def test_hydra_shows_one_package_and_the_defaults(say):
    assert (
        "method: fine_tune" in say("train", "transfer=fine_tune", "--cfg", "job", "--package", "transfer")[1]
    )
    assert "small_cnn" in say("train", "--info", "defaults")[1]


def test_a_folder_of_one_s_own_adds_options(say, tmp_path):
    (tmp_path / "optim").mkdir()
    (tmp_path / "optim" / "mine.yaml").write_text("name: sgd\nlr: 0.75\n")
    code, told, _ = say("train", "--config-dir", str(tmp_path), "optim=mine", "--cfg", "job")
    assert code == 0
    assert "lr: 0.75" in told


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("graft ", {"train", "pretrain", "compare"}),
        ("graft tr", {"train"}),
        ("graft train tra", {"transfer=", "trainer=", "tracking="}),
        ("graft train transfer=", {"transfer=fine_tune", "transfer=linear_probe"}),
        ("graft train -m seed=0 transfer=fi", {"transfer=fine_tune"}),
        ("graft train optim.we", {"optim.weight_decay="}),
        ("graft pretrain bundle.", {"bundle.name="}),
        ("graft train experiment=", {"experiment=digits_transfer"}),
        ("graft compare pa", {"paths.root="}),
        ("graft ui ", {"port=", "paths.root=", "tracking.uri="}),
        ("graft nonsense x", set()),
    ],
)
def test_tab_completion_offers_what_may_follow(line, offered, say, monkeypatch):
    monkeypatch.setenv("COMP_LINE", line)
    code, told, _ = say("-sc", "query=bash")  # the shell drops what is complained
    assert code == 0
    words = set(told.split())
    assert offered <= words
    assert all(word.startswith(line.rpartition(" ")[2]) for word in words)
    assert bool(words) == bool(offered)


@pytest.mark.parametrize("command", ["graft", "python -m graft"])
def test_tab_completion_works_in_a_shell(command, tmp_path):
    """The script that the shell evaluates, called as the shell calls it."""
    if shutil.which("bash") is None:
        pytest.skip("there is no bash here")
    entry = "import sys; from graft.cli import main; sys.exit(main())"
    (tmp_path / "graft").write_text(f'#!/bin/sh\nexec {sys.executable} -c "{entry}" "$@"\n')
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for name in ("graft", "python"):
        (tmp_path / name).chmod(0o755)
    line = f"{command} train transfer=fi"
    script = f"""
        eval "$({command} -sc install=bash)"
        complete -p {command.split()[0]} > /dev/null || exit 1
        COMP_LINE='{line}' COMP_POINT={len(line)} COMP_WORDS=({line})
        _graft_completion
        echo "${{COMPREPLY[@]}}"
    """
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env=os.environ | {"PATH": path}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "transfer=fine_tune"


@pytest.mark.parametrize(("choice", "enabled"), [("off", "false"), ("on", "true")])
def test_reuse_is_switched_by_what_the_docs_say(choice: str, enabled: str, capfd) -> None:
    """YAML reads a bare `off` as false, which is the name of no choice."""
    words = ["data=digits", "backbone=small_cnn", "transfer=from_scratch", f"reuse={choice}"]
    assert main(["train", *words, "--cfg", "job"]) == 0
    assert f"reuse:\n  enabled: {enabled}\n" in capfd.readouterr().out


def test_an_override_with_dashes_says_how_it_is_written(capfd) -> None:
    assert main(["train", "--experiment", "mine"]) == 2
    assert "written without dashes: `experiment=" in capfd.readouterr().err
