"""What `graft check` can find: each kind has a severity, a title and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from graft.data.image_set import NO_SPLIT, TEST, TRAIN, VAL

ERROR, WARNING, INFO = "error", "warning", "info"
SEVERITIES = (ERROR, WARNING, INFO)

SPLIT_WORDS = {TRAIN: "train", VAL: "val", TEST: "test", NO_SPLIT: "unsplit"}

EXAMPLES = 100
"""Paths that a finding about a whole set names; its ``count`` says how many there are."""


@dataclass(frozen=True)
class Kind:
    """A kind of finding: how bad, what it is called, what to do."""

    severity: str
    title: str
    advice: str


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        kind: A name of `KINDS`.
        message: What was found.
        paths: The files or folders concerned, relative to the root; at most `EXAMPLES` where a whole set is.
        count: How many files or folders are concerned.
        leave_out: Images without which the finding would be none; empty where leaving out does not help.
    """

    kind: str
    message: str
    paths: tuple[str, ...] = ()
    count: int = 0
    leave_out: tuple[str, ...] = ()

    @property
    def severity(self) -> str:
        """One of `SEVERITIES`."""
        return KINDS[self.kind].severity

    @property
    def advice(self) -> str:
        """What to do."""
        return KINDS[self.kind].advice

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "message": self.message,
            "advice": self.advice,
            "paths": list(self.paths),
            "count": self.count,
            "leave_out": list(self.leave_out),
        }


def find(
    kind: str,
    message: str,
    paths: Iterable[str] = (),
    *,
    leave_out: Iterable[str] = (),
    whole_set: bool = False,
) -> Finding:
    """Make a finding; one about a whole set keeps the first `EXAMPLES` of its paths."""
    named = tuple(paths)
    kept = named[:EXAMPLES] if whole_set else named
    readable = message.encode("utf-8", "replace").decode()  # names of files need not be text
    return Finding(kind, readable, kept, len(named), tuple(leave_out))


def say_count(count: int, word: str) -> str:
    """Write a number with its word.

    >>> say_count(1, "image"), say_count(2000, "image")
    ('1 image', '2,000 images')
    """
    return f"{count:,} {word}" + ("" if count == 1 else "s")


LISTED = 10
"""Findings that a message lists."""


def list_findings(findings: Sequence[Finding]) -> str:
    """Write how many findings there are and the first of them, and after those of a kind what to do."""
    shown = findings[:LISTED]
    lines = [f"{len(findings):,}:"]
    for finding, following in zip_longest(shown, shown[1:]):
        lines.append(f"  - {finding.message}")
        if following is None or following.kind != finding.kind:
            lines[-1] += f" {finding.advice}"
    if len(findings) > LISTED:
        lines.append(f"  ... and {len(findings) - LISTED:,} more")
    return "\n".join(lines)


def sort_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Put errors first, then in the order of `KINDS`, then by path; rows of a table stay in their order."""
    order = list(KINDS)

    def rank(one: Finding) -> tuple[int, int, tuple[str, ...], str]:
        named = (one.paths, one.message) if one.kind not in _IN_ORDER else ((), "")
        return SEVERITIES.index(one.severity), order.index(one.kind), *named

    return tuple(sorted(findings, key=rank))


_IN_ORDER = ("bad_row", "repeated_row")
"""Kinds whose findings come in an order of their own."""

KINDS = {
    "layout": Kind(
        ERROR,
        "layout that is not a folder per class",
        "Use one folder per class, or train/ val/ test/ with a folder per class in each.",
    ),
    "bad_row": Kind(
        ERROR,
        "row of the table that cannot be used",
        "Rows are counted as a spreadsheet does: the header is row 1.",
    ),
    "repeated_row": Kind(ERROR, "image that several rows list", "Keep one row of each image."),
    "divided_group": Kind(
        ERROR,
        "group in several splits",
        "Correct the column split or group; or leave the splits out, and graft divides by whole groups.",
    ),
    "no_training": Kind(
        ERROR,
        "no training images",
        "Write train into the column split; or leave the column out, and graft divides.",
    ),
    "zero_weights": Kind(
        ERROR, "weights that are all 0", "Give the training images that count a weight above 0."
    ),
    "no_classes": Kind(
        ERROR, "no class at all", "Put the images into one folder per class, or list them with their labels."
    ),
    "one_class": Kind(ERROR, "only one class", "Add images of at least a second class."),
    "unreadable_folder": Kind(
        ERROR, "folder that cannot be read", "Give yourself the right to read it, or move it away."
    ),
    "unreadable_image": Kind(
        ERROR,
        "image that cannot be decoded",
        "To train without such images for now: data.on_error=skip, which names those it leaves out.",
    ),
    "empty_class": Kind(ERROR, "class without an image", "Add images of it, or remove the class."),
    "class_only_in_evaluation": Kind(
        ERROR,
        "class that training never sees",
        "Add training images of this class, or remove it from validation and test.",
    ),
    "contradictory_labels": Kind(
        ERROR, "one picture under several labels", "Keep it under its right label, or remove all copies."
    ),
    "leak": Kind(
        ERROR,
        "one picture in several splits",
        "Remove the copy in training: the test would ask what was learned by heart.",
    ),
    "near_leak": Kind(
        WARNING,
        "nearly one picture in several splits",
        "Look at the pair. Where it is the same picture, remove the copy in training.",
    ),
    "fewer_than_k": Kind(
        ERROR, "class with fewer images than labels asked for", "Lower data.labels_per_class, or add images."
    ),
    "class_missing_from_split": Kind(
        WARNING,
        "class missing from validation or test",
        "Add images of it there: without them no score speaks of this class.",
    ),
    "near_contradiction": Kind(
        WARNING,
        "nearly one picture under several labels",
        "Look at the pair: one of its labels is likely wrong.",
    ),
    "duplicates": Kind(
        WARNING, "one picture several times", "Remove the copies: they count more than they tell."
    ),
    "near_duplicates": Kind(
        WARNING,
        "nearly one picture several times",
        "Nothing must be done: a split keeps them together. Remove copies that add nothing.",
    ),
    "similar_names": Kind(
        WARNING, "class names that differ by case or spaces only", "Merge them, if they mean the same class."
    ),
    "few_images": Kind(WARNING, "class with very few images", "Add images, or expect wide intervals."),
    "imbalance": Kind(
        WARNING,
        "classes of very different size",
        "Judge by balanced accuracy: plain accuracy favours the large classes.",
    ),
    "small_images": Kind(
        WARNING,
        "images far smaller than the network's input",
        "Choose a smaller data.image_size, or find the originals.",
    ),
    "odd_aspect": Kind(
        WARNING, "very long or very high images", "The central crop sees a part only: cut them, or pad them."
    ),
    "channel_statistics": Kind(
        WARNING,
        "colours unlike those that the weights expect",
        "Check that the values are right; if they are, fine-tuning adapts better than a probe.",
    ),
    "symlink_loop": Kind(WARNING, "link that leads back to itself", "Remove the link; it is not followed."),
    "linked_folder": Kind(
        WARNING,
        "link to a folder inside a class",
        "Move the images into the class: links to folders are not followed.",
    ),
    "misplaced_image": Kind(
        WARNING, "image outside every class", "Move it into the folder of its class; it is not used."
    ),
    "stray_file": Kind(
        WARNING, "file that is no image", "Move it away, or convert it if it is an image; it is not used."
    ),
    "near_duplicates_unknown": Kind(
        INFO, "images too small to compare", "Nothing: near duplicates are looked for among larger images."
    ),
}
