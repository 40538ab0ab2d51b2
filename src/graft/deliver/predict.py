"""The verb ``graft predict``: a run that is kept, on images that it has never seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from graft.compare.where import Where, parse_where
from graft.errors import GraftError, expected_one_of
from graft.progress import show_progress

if TYPE_CHECKING:
    from graft.deliver.predictions import BadFile

_OUT = "a file after `--out`, such as: --out=predictions.csv"

#: Options with a value, and what is said where it is missing.
_VALUED = {
    "--out": _OUT,
    "out": _OUT,
    "--where": "conditions after `--where`, such as: --where data=digits",
}


@dataclass(frozen=True)
class Prediction:
    """What is asked for.

    Attributes:
        reference: Id or key of a run, an experiment, or the id of a sweep's parent run.
        files: Files and folders.
        out: The table to write.
        skip_bad: Whether files that cannot be read are left out instead of refused.
        where: Which runs of the experiment count, None for all.
    """

    reference: str
    files: tuple[Path, ...]
    out: Path = Path("predictions.csv")
    skip_bad: bool = False
    where: Where | None = None


def read_prediction(words: Sequence[str]) -> tuple[Prediction, list[str]]:
    """Read the words after the verb, and return with them those that name places.

    Raises:
        GraftError: A word is missing, or an option is unknown.
    """
    values, skip_bad, places = dict[str, str](), False, list[str]()
    rest, left = list[str](), list(words)
    while left:
        word = left.pop(0)
        name, sign, value = word.partition("=")
        if name in _VALUED:
            value = value if sign else (left.pop(0) if left else "")
            if not value:
                raise GraftError(f"Expected {_VALUED[name]}")
            values[name.removeprefix("--")] = value
        elif word == "--skip-bad":
            skip_bad = True
        elif word.startswith("-"):
            raise GraftError(expected_one_of("option", name, ("--out", "--skip-bad", "--where")))
        else:
            is_place = name in ("paths.root", "tracking.uri") and sign
            (places if is_place else rest).append(word)
    if len(rest) < 2:
        came = f"only {rest[0]!r}" if rest else "nothing"
        raise GraftError(
            "Expected a run or an experiment, and then files or folders of images, but got "
            f"{came}: graft predict my_experiment ~/new_images"
        )
    files = tuple(Path(word).expanduser() for word in rest[1:])
    out = Path(values.get("out", "predictions.csv")).expanduser()
    where = parse_where(values["where"]) if "where" in values else None
    return Prediction(rest[0], files, out, skip_bad, where), places


def predict(asked: Prediction, root: Path, uri: str | None) -> int:
    """Write what the chosen model says of the files.

    Args:
        asked: Model, files and table.
        root: ``paths.root``.
        uri: ``tracking.uri``.

    Raises:
        GraftError: The model or the files cannot be had, or some files are bad.
    """
    from graft.deliver.champion import choose_run
    from graft.deliver.kept import has_weights, load_kept
    from graft.deliver.predictions import check_files, find_files, write_predictions
    from graft.track.store import open_store

    console = Console(stderr=True, soft_wrap=True)
    files = find_files(asked.files)
    if not root.exists() and uri is None:
        raise GraftError(
            f"Expected runs under {str(root)!r}, but there is no such folder. Start with: graft train"
        )
    root = root.resolve()
    if asked.where is None and has_weights(root, asked.reference):  # a run key: nobody has to be asked
        key, said = asked.reference, f"the run {asked.reference}"
    else:
        key, said = choose_run(open_store(uri, root), root, asked.reference, asked.where)
    kept = load_kept(root, key)
    console.print(f"With {said}; {kept.preprocessing.summary}", highlight=False, markup=False)
    if not asked.skip_bad:
        with show_progress(console, "checking files") as progress:
            _refuse(check_files(files, progress), len(files))
    with show_progress(console, "predicting") as progress:
        bad = write_predictions(kept, files, asked.out.resolve(), progress)
    if bad:
        console.print(
            f"{len(bad)} of {len(files)} files are skipped:\n{_list(bad)}", highlight=False, markup=False
        )
    count = f"{len(files) - len(bad):,} images"
    print(f"Predictions for {count} are written: {asked.out}")
    return 0


def _refuse(bad: Sequence[BadFile], total: int) -> None:
    if bad:
        raise GraftError(
            f"Expected {total} files that are whole images, but {len(bad)} are not, and nothing was "
            f"written:\n{_list(bad)}\nRepair or remove them, or leave them out with --skip-bad."
        )


def _list(bad: Sequence[BadFile]) -> str:
    return "\n".join(f"  {one.reason}" for one in bad)
