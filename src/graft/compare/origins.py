"""Doubts about where the runs of a comparison come from: their data, their weights, their code."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from graft.compare.comparison import Section
from graft.compare.naming import join_words
from graft.compare.select import TRANSFER_METHODS, read_result_version
from graft.track.record import RunRecord

#: Test images of the largest class over those of the smallest from which accuracy says little of the small.
_UNBALANCED = 3

#: What the check of a data set says where training and test share pictures, in the words of its warnings.
_SHARED_PICTURES = "in several splits"


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
        *_doubt_preprocessing(records),
        *_doubt_copies(section, records),
    ]


def note_origins(section: Section, records: Sequence[RunRecord]) -> list[str]:
    """List what nobody has looked at, and how to look."""
    notes = []
    used = _keep_transfer(records)
    told = {one.arm.weights for one in used if "source_contains_target" in one.notes}
    unknown = sorted({one.arm.weights for one in used} - told)
    if unknown:
        named = join_words(name.partition("@")[0] for name in unknown)
        notes.append(f"Whether the pretraining data of {named} held images of {section.data} is not known.")
    if not _read_notes(records, "data_warnings"):
        notes.append(
            f"No copies of training images in test are on record: `graft check data={section.data}` looks for"
            " them."
        )
    return notes


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
    return []


def _doubt_images(section: Section) -> list[str]:
    """Without predictions nobody knows what other test images would say."""
    if not section.without_images:
        return []
    why = join_words(section.without_images)
    said = f"Some verdicts are for new seeds on these test images alone ({why}): others may say otherwise"
    return [f"{said}. `--metric accuracy` is known image by image, where the runs kept their predictions."]


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


def _doubt_preprocessing(records: Iterable[RunRecord]) -> list[str]:
    """Weights are best at the images that they were made for."""
    return [
        f"Preprocessing of the weights overridden ({said}): they saw other images when they were trained."
        " Leave it out, to see what that costs."
        for said in _read_notes(_keep_transfer(records), "preprocessing_override")
    ]


def _doubt_copies(section: Section, records: Iterable[RunRecord]) -> list[str]:
    """A test image that training held is known by heart."""
    found = [line for line in _read_notes(records, "data_warnings") if _SHARED_PICTURES in line]
    return [
        f"Training and test may share pictures ({said}). `graft check data={section.data}` shows them: remove"
        " the copies in training."
        for said in found
    ]


def _keep_transfer(records: Iterable[RunRecord]) -> list[RunRecord]:
    return [record for record in records if record.arm.method in TRANSFER_METHODS]


def _read_notes(records: Iterable[RunRecord], key: str) -> list[str]:
    """Return the lines of a note of runs, each once."""
    lines = {line.strip() for record in records for line in record.notes.get(key, "").splitlines()}
    return sorted(filter(None, lines))
