"""Doubts about where the runs of a comparison come from: their data, their weights, their code."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from graft.compare.comparison import CopiedBudget, Section
from graft.compare.naming import join_few, join_words, name_budget
from graft.compare.select import TRANSFER_METHODS, read_result_version
from graft.track.record import RunRecord

#: Test images of the largest class over those of the smallest from which accuracy says little of the small.
_UNBALANCED = 3

#: What the check of a data set says where training and test share pictures, in the words of its warnings.
_SHARED_PICTURES = "in several splits"

#: Notes of runs that tell what their weights were trained on.
_TELL_SOURCE = frozenset({"source_contains_target", "source_data"})


def doubt_origins(section: Section, records: Sequence[RunRecord], metric: str) -> list[str]:
    """List what speaks against the verdicts of a section because of where its runs come from.

    Args:
        section: What the report says of the condition.
        records: Its runs.
        metric: Name of the metric, without a split.
    """
    return [
        *_doubt_versions(records),
        *_doubt_images(section),
        *_doubt_balance(section, metric),
        *_doubt_source(records),
        *_doubt_unknown_source(section, records),
        *_doubt_preprocessing(records),
        *_doubt_copies(section, records, metric),
    ]


def note_origins(section: Section, records: Sequence[RunRecord]) -> list[str]:
    """List what nobody has looked at, and how to look."""
    if _read_notes(records, "data_warnings") or _count_copies(section, records) is not None:
        return []
    said = f"No copies of training images in test are on record: `{_name_check(section)}` looks for"
    return [f"{said} them, and runs begun after it keep what it found."]


def note_data_versions(records: Sequence[RunRecord]) -> list[str]:
    """Say which data sets changed between runs: their runs stand apart, as conditions of their own."""
    digests: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if "data_digest" in record.notes:
            digests[record.data].add(record.notes["data_digest"][:8])
    return [
        f"The images or labels of {data} changed between runs ({join_words(sorted(found))}): runs on each"
        " stand apart. To compare them, run the sweep again on the data as they are."
        for data, found in digests.items()
        if len(found) > 1
    ]


def _doubt_versions(records: Sequence[RunRecord]) -> list[str]:
    """Runs of different code may differ because of it."""
    finished = [record for record in records if record.status == "finished"]
    results = sorted({read_result_version(record) for record in finished})
    if len(results) > 1:
        said = f"Runs are of code that gives other results (versions {join_words(map(str, results))})"
        again = "Ask for the sweep again: it does only what is missing"
        return [f"{said}; of a run that is there twice the newer counts. {again}."]
    versions = _read_notes(finished, "version")
    if len(versions) > 1:
        said = f"Runs are of several versions of graft ({join_words(versions)}), meant to give equal results"
        return [f"{said}. To be sure, run the sweep anew with one: `paths.root=<new folder>`."]
    return _doubt_commits(finished)


def _doubt_commits(finished: Sequence[RunRecord]) -> list[str]:
    """Code beside graft's version may have changed too: graft from a clone, or a backbone of one's own.

    The commit is that of the repository in which `graft` was started, whatever is in there.
    """
    known = [record for record in finished if "commit" in record.notes]
    commits = _read_notes(known, "commit")
    changed = sum(record.notes.get("git_dirty") == "true" for record in known)
    if len(commits) < 2 and changed in (0, len(known)):
        return []
    parts = [f"commits {join_few([one[:8] for one in commits])}"] if len(commits) > 1 else []
    parts += [f"{changed} of {len(known)} with changes that were not committed"] if changed else []
    said = f"Runs were started in several states of your repository ({', '.join(parts)})"
    why = "if code that they use changed in between, arms may differ by that"
    todo = "commit, and run the sweep anew from one state: `paths.root=<new folder>`"
    return [f"{said}: {why}. To be sure, {todo}."]


def _doubt_images(section: Section) -> list[str]:
    """Without predictions nobody knows what other test images would say."""
    if not section.without_images:
        return []
    why = join_words(section.without_images)
    said = f"Some verdicts are for new seeds on these test images alone ({why}): others may say otherwise"
    return [f"{said}. Runs keep their predictions: run those that lack them anew, `paths.root=<new folder>`."]


def _doubt_balance(section: Section, metric: str) -> list[str]:
    """Accuracy of an unbalanced test set is that of its large classes."""
    if section.class_sizes is None or metric != "accuracy":
        return []
    smallest, largest = section.class_sizes
    if largest <= _UNBALANCED * smallest:
        return []
    said = f"Classes differ in size ({smallest} to {largest} test images), and accuracy counts images"
    return [f"{said}: small classes hardly show. `--metric balanced_accuracy` counts classes."]


def _doubt_source(records: Iterable[RunRecord]) -> list[str]:
    """What was pretrained on the target knew part of the answers."""
    return [
        f"Pretraining data: {said}. Part of what is learned may have been known: compare with weights of"
        " another source, `backbone.weights=<other>`."
        for said in _read_notes(records, "source_contains_target")
    ]


def _doubt_unknown_source(section: Section, records: Iterable[RunRecord]) -> list[str]:
    """Of weights that are no bundle nobody knows whether they saw the test images."""
    used = _keep_transfer(records)
    known = {
        one.arm.weights for one in used if not _TELL_SOURCE.isdisjoint(one.notes) or one.arm.weights == "none"
    }
    unknown = [one.arm for one in used if one.arm.weights not in known]
    if not unknown:
        return []
    names = sorted({arm.weights.partition("@")[0] for arm in unknown})
    backbones = sorted({arm.backbone for arm in unknown})
    backbone = backbones[0] if len(backbones) == 1 else "<backbone>"
    published = all("IMAGENET1K" in one and "SWAG" not in one for one in names)
    source = " (pretrained on ImageNet)" if published else ""
    said = f"Whether {join_few(names)}{source} saw images of {section.data} in pretraining is not known"
    todo = f"`graft pretrain data=<source> backbone={backbone}`, then `backbone.weights=<source>-{backbone}`"
    return [f"{said}: part of the gain may be memory. Compare with weights of a source you know: {todo}."]


def _doubt_preprocessing(records: Iterable[RunRecord]) -> list[str]:
    """Weights are best at the images that they were made for."""
    return [
        f"Preprocessing of the weights overridden ({said}): they saw other images when they were trained."
        " Leave it out, to see what that costs."
        for said in _read_notes(_keep_transfer(records), "preprocessing_override")
    ]


def _doubt_copies(section: Section, records: Sequence[RunRecord], metric: str) -> list[str]:
    """A test image that training held is known by heart."""
    todo = f"`{_name_check(section)}` shows them: remove the copies in training."
    counts = _count_copies(section, records)
    if section.copies:
        return [f"{_say_copies(section.copies)} {_say_without(section, metric)} {todo}"]
    if counts is not None and max(counts) > 0:
        said = f"Training held copies or near copies of test images (of up to {max(counts)} in a run)"
        why = "without predictions for one and the same test set"
        return [f"{said}; {why} nobody knows the metric on the others. {todo}"]
    if counts is not None:
        return []
    found = [line for line in _read_notes(records, "data_warnings") if _SHARED_PICTURES in line]
    return [f"Training and test may share pictures ({said}). {todo}" for said in found]


def _name_check(section: Section) -> str:
    """Return the command that checks the images of a section; where those of a user lie is not recorded."""
    places = {"folder": " data.root=<your folder>", "table": " data.table=<your table>"}
    return f"graft check data={section.data}{places.get(section.data, '')}"


def _count_copies(section: Section, records: Iterable[RunRecord]) -> list[int] | None:
    """Return of how many test images each chosen run trained on a copy; None where one does not know."""
    chosen = set(section.chosen)
    told = [record.notes.get("test_copies") for record in records if record.run_id in chosen]
    counts = [int(one) for one in told if one is not None]
    return counts if counts and len(counts) == len(told) else None


def _say_copies(copies: Sequence[CopiedBudget]) -> str:
    said = join_few([f"{one.copied} of {one.images} at {name_budget(one.labels)}" for one in copies])
    return f"Training held copies or near copies of test images ({said})."


def _say_without(section: Section, metric: str) -> str:
    """Say what the arms of the first sentence reach without the copies, and which verdicts would change."""
    last = section.copies[-1]
    rows = next(budget.rows for budget in section.budgets if budget.labels == last.labels)
    headline = next((row.arm for row in rows if row.headline), None)
    spoken = [one for one in last.arms if headline is not None and one.arm in (headline, headline.twin)]
    ordered = sorted(spoken or last.arms, key=lambda one: one.arm != headline)
    if all(math.isnan(one.without) for one in ordered):
        return "On the others there is no metric."
    values = [f"{section.names[one.arm]} has {one.without:.3f} (with them {one.test:.3f})" for one in ordered]
    on = f"On the others, {metric.replace('_', ' ')} at {name_budget(last.labels)}: {join_few(values)}."
    changes = [
        f"{section.names[one.arm]} at {name_budget(budget.labels)}: {one.verdict_without}, not {one.verdict}"
        for budget in section.copies
        for one in budget.arms
        if one.verdict_without not in (None, one.verdict)
    ]
    if changes:
        return f"{on} Verdicts change ({join_few(changes)})."
    judged = any(one.verdict is not None for budget in section.copies for one in budget.arms)
    return f"{on} No verdict changes." if judged else on


def _keep_transfer(records: Iterable[RunRecord]) -> list[RunRecord]:
    return [record for record in records if record.arm.method in TRANSFER_METHODS]


def _read_notes(records: Iterable[RunRecord], key: str) -> list[str]:
    """Return the lines of a note of runs, each once."""
    lines = {line.strip() for record in records for line in record.notes.get(key, "").splitlines()}
    return sorted(filter(None, lines))
