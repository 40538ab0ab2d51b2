"""The command ``graft``: verbs that hand over to the rooms. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graft import __version__, calls
from graft.completion import bash_script, complete_verb, wants_completion
from graft.errors import GraftError, RunInterrupted, expected_one_of


@dataclass(frozen=True)
class Verb:
    """One verb of the command line.

    Attributes:
        summary: What it does, in a line.
        usage: What may follow it.
        about: What a person should know.
        examples: Real commands and what they do.
        call: Does it, given the words after the verb, and returns the exit code.
        words: What tab completion offers after it, nothing where Hydra knows better.
    """

    summary: str
    usage: str
    about: str
    examples: tuple[tuple[str, str], ...]
    call: Callable[[list[str]], int]
    words: tuple[str, ...] = ()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 a run failed, 2 a mistake, 128 + a signal."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words)
    except GraftError as error:
        print(f"graft: {error}", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, RunInterrupted) as error:
        from graft.sweep.stopping import answer_interruption

        signum = error.signum if isinstance(error, RunInterrupted) else signal.SIGINT
        print(f"graft: {answer_interruption(signum)}", file=sys.stderr)
        return 128 + signum
    except BrokenPipeError:  # whoever read the output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(words: list[str]) -> int:
    if wants_completion(words):
        return _complete(words)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] in ("-V", "--version", "version"):
        print(f"graft {__version__}")
        return 0
    name, rest = words[0], words[1:]
    if name not in VERBS:
        raise GraftError(expected_one_of("verb", name, VERBS))
    if "-h" in rest or "--help" in rest:
        print(_help(name, VERBS[name]))
        return 0
    return VERBS[name].call(rest)


def _overview() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items())
    return f"""graft {__version__} - does transfer learning pay on your images, and how sure are we?

usage: graft <verb> [...]

{verbs}

examples:
  graft train data=folder data.root=~/my_images backbone=resnet18 transfer=fine_tune
  graft train -m transfer=linear_probe,fine_tune optim.lr=1e-4,1e-3 seed=0,1,2,3,4
  graft compare

`graft <verb> --help` shows more of each. Everything is written under ./runs, or under paths.root=<folder>."""


def _help(name: str, verb: Verb) -> str:
    width = max(len(command) for command, _ in verb.examples)
    examples = "\n".join(f"  {command:<{width}}  # {meaning}" for command, meaning in verb.examples)
    return f"usage: graft {name} {verb.usage}\n\n{verb.summary}.\n\n{verb.about}\n\nexamples:\n{examples}"


def _complete(words: list[str]) -> int:
    """Serve the shell: ``-sc install=bash`` prints what it evaluates, ``query=bash`` the words to offer."""
    if "install=bash" in words:
        print(bash_script())
        return 0
    verb, offered = "train", list[str]()
    if "query=bash" in words:
        verb, offered = complete_verb({name: verb.words for name, verb in VERBS.items()})
    if offered or not verb:
        print("\n".join(offered))
        return 0
    return VERBS[verb].call([word for word in words if word not in VERBS])


#: What the verbs that read the record take.
_PLACES = ("paths.root=", "tracking.uri=")

_HYDRA_FLAGS = (
    "Hydra's flags work here: -m (multirun), --cfg job (show the configuration), --info, --config-dir.\n"
    'Tab completion in bash: eval "$(graft -sc install=bash)".'
)

VERBS = {
    "pretrain": Verb(
        "Train a source model and write it as a weights bundle",
        "[key=value ...]",
        "The bundle goes under paths.root/weights/<name>; backbone.weights=<name> uses it.\n" + _HYDRA_FLAGS,
        (
            ("graft pretrain", "small_cnn on rendered letters and digits"),
            ("graft pretrain backbone=resnet18 data=folder data.root=~/source", "on your own source domain"),
            ("graft pretrain trainer.epochs=20 bundle.name=longer", "longer, under another name"),
        ),
        calls.call_pretrain,
    ),
    "train": Verb(
        "Train one run, or with -m or an experiment a whole sweep",
        "[-m] [experiment=<name>] [key=value ...]",
        "Groups: data backbone head transfer optim augment trainer tracking sweep reuse experiment.\n"
        "A finished run is not run again; an interrupted sweep goes on where it was.\n" + _HYDRA_FLAGS,
        (
            ("graft train transfer=linear_probe backbone.weights=glyphs-small_cnn seed=3", "one run"),
            ("graft train -m transfer.freeze_depth=0,3,5 optim.lr=1e-3,1e-2 seed='range(5)' ...", "a grid"),
            ("graft train experiment=digits_transfer", "carries its own grid"),
        ),
        calls.call_train,
    ),
    "compare": Verb(
        "Rank the arms of an experiment, say the verdict, write the report",
        "[experiment | parent run ...] [--where ...] [--metric ...] [--expect ...] [--margin ...]\n"
        "                     [--oracle] [--json] [tracking.register=true] [paths.root=...]\n"
        "                     [tracking.uri=...]",
        "Validation chooses each arm's trial, test is read for chosen trials only. The report goes under\n"
        "paths.root/reports/<experiment>; index.html is all of it in one file. Exit code 3 when an expected\n"
        "verdict does not hold. --oracle lets test itself choose, and says so on every page.",
        (
            ("graft compare", "the experiment that was run last"),
            ("graft compare digits_transfer paths.root=/data/runs", "by name, recorded elsewhere"),
            ('graft compare mine --where "backbone=resnet18 and labels<=20"', "some of its runs"),
            ('graft compare mine --expect "fine_tune helps at 10"', "exit code 3 unless it does"),
            ("graft compare mine --metric macro_f1 --margin 1 --json", "by another metric, for programs"),
        ),
        calls.call_compare,
        (
            "--where",
            "--metric",
            "--expect",
            "--margin",
            "--oracle",
            "--json",
            "tracking.register=true",
            *_PLACES,
        ),
    ),
    "status": Verb(
        "Show how sweeps stand, and which runs are not finished",
        "[experiment] [--json] [--reap] [--stale=600] [paths.root=...] [tracking.uri=...]",
        "Runs whose process is gone are closed by the next sweep, or now with --reap: at once on this\n"
        "machine, after --stale seconds without a sign of life on another. What runs could not send is sent.",
        (
            ("graft status", "all experiments"),
            ("graft status digits_transfer --json", "one experiment, for programs"),
            ("graft status --reap", "close what dead processes left running"),
        ),
        calls.call_status,
        ("--json", "--reap", "--stale=", *_PLACES),
    ),
    "models": Verb(
        "List the backbones, what they cost and which weights there are",
        "[pattern] [--json]",
        "A pattern is a part of a name, or has stars. Weights that are not cached are downloaded when they\n"
        "are first used, unless GRAFT_OFFLINE=1.",
        (
            ("graft models", "all of them"),
            ("graft models 'resnet*'", "names that match"),
            ("graft models vit --json", "for programs"),
        ),
        calls.call_models,
        ("--json",),
    ),
    "check": Verb(
        "Read every image of a data set and say what is wrong, before an hour is wasted on it",
        "data=<source> [--json] [key=value ...]",
        "Finds images that cannot be decoded, copies and near copies (leaks between splits, contradictory\n"
        "labels), faults of classes and folders, and images unlike those the network's weights expect. Exit\n"
        "code 1 with errors, 0 with at most warnings. The page with thumbnails and the JSON go under\n"
        "paths.root/reports/check-<name>. What was read once is not read again.",
        (
            ("graft check data=folder data.root=~/my_images", "a folder of your own"),
            ("graft check data=folder data.root=~/my_images backbone=vit_b_16", "against another network"),
            ("graft check data=folder data.root=~/my_images --json", "for programs"),
        ),
        calls.call_check,
    ),
    "extract": Verb(
        "Write the features of a data set after any stage of a backbone to Parquet or NPZ",
        "[stage=5] [out=<file>.parquet|.npz] [key=value ...]",
        "Groups: data backbone transfer trainer. Images are prepared as a run prepares them. A file that is\n"
        "there already is replaced when the new one is whole. The default file is under paths.root/features.",
        (
            ("graft extract data=folder data.root=~/my_images backbone=resnet50", "pooled features"),
            ("graft extract backbone.weights=glyphs-resnet18 stage=3 out=stage3.npz", "a stage further in"),
            ("graft extract transfer=random_features seed=1", "a control: random weights"),
        ),
        calls.call_extract,
    ),
    "predict": Verb(
        "Label new images with the chosen model of an experiment, or with the model of a run",
        "<run | experiment> <folder or files ...> [--out=predictions.csv] [--skip-bad]\n"
        "                     [--where ...] [paths.root=...] [tracking.uri=...]",
        "Writes path, label and the probability of each class as CSV. The model of an experiment is its\n"
        "champion: of the arm that is best on validation with the most labels, the best seed. Images are\n"
        "prepared as in training. Files that cannot be read are listed before anything is predicted.",
        (
            ("graft predict digits_transfer ~/new_images", "with the champion"),
            ("graft predict <run id> a.png b.png --out=two.csv", "with the model of one run"),
            ("graft predict mine ~/new_images --skip-bad", "leave out what cannot be read"),
        ),
        calls.call_predict,
        ("--out=", "--skip-bad", "--where", *_PLACES),
    ),
    "rank": Verb(
        "Rank backbones on a data set before anything is trained, from one pass over its images each",
        "data=<source> backbone=<a,b,c> [backbone.weights=...] [--download] [--json] [key=value ...]",
        "Ranked by the validation accuracy of a ridge probe; beside it LogME, H-score, LEEP and nearest\n"
        "neighbours. Reads training and validation images, never test. The table goes under\n"
        "paths.root/reports/rank. Weights that are not here are only fetched with --download.",
        (
            ("graft rank data=folder data.root=~/my_images backbone=resnet18,vit_b_16", "published weights"),
            ("graft rank data=digits backbone=small_cnn backbone.weights=glyphs-small_cnn,mine", "bundles"),
            ("graft rank data=cifar10 data.labels_per_class=50 backbone=resnet18,resnet50", "faster"),
        ),
        calls.call_rank,
    ),
    "cache": Verb(
        "Show what was computed once and kept, or throw away what may go",
        "[prune] [--all] [--older-than=30d] [--json] [paths.root=...] [reuse.disk_gb=...]",
        "prune takes what is damaged or unfinished, and the least recently used activations over the\n"
        "budget; with --older-than also what was not used for so long, with --all everything. What a\n"
        "running process is writing stays. Nothing is lost: what is needed again is computed again.",
        (
            ("graft cache", "what is kept under ./runs, with its size"),
            ("graft cache prune", "check every hash, keep to the budget"),
            ("graft cache prune --older-than=30d", "and what nobody used for a month"),
            ("graft cache prune --all paths.root=/data/runs", "everything, elsewhere"),
        ),
        calls.call_cache,
        ("prune", "--all", "--older-than=", "--json", "paths.root=", "reuse.disk_gb="),
    ),
    "ui": Verb(
        "Open the MLflow dashboard on the same store",
        "[port=5000] [paths.root=...] [tracking.uri=...]",
        "Serves on this machine only, telemetry off. Ctrl-C ends it.",
        (
            ("graft ui", "the store under ./runs"),
            ("graft ui port=5001", "on another port"),
            ("graft ui paths.root=/data/runs", "recorded elsewhere"),
        ),
        calls.call_ui,
        ("port=", *_PLACES),
    ),
}
