"""How a comparison was done: what is needed to repeat it, read from the notes of its runs."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence

from graft.compare.comparison import Comparison
from graft.compare.evidence import Evidence
from graft.compare.naming import count_words, join_words, write_seconds
from graft.config.names import METRICS
from graft.track.record import RunRecord

#: Versions that can change a result.
_VERSIONS = ("version", "python", "torch", "torchvision", "pytorch-lightning", "mlflow", "hydra-core")

#: Notes that say on what a run ran.
_HARDWARE = ("host", "device", "accelerator", "gpu", "cpu")


def say_how(comparison: Comparison, evidence: Evidence) -> list[tuple[str, str]]:
    """Return what was done as pairs of a word and what is to be said of it; commands are in backticks."""
    records = [record for record in comparison.records if record.status == "finished"]
    pairs = [
        *(("Command", f"`{command}`") for command in evidence.commands),
        ("Runs", _count_runs(comparison.records)),
        ("Selection", _say_selection(comparison)),
        ("Test looks", f"the test metrics of {count_words(comparison.test_looks, 'run')} were read"),
        ("Margin", _say_margin(comparison)),
        ("Versions", _say_versions(records)),
        ("Code", _say_code(records)),
        ("Data", _say_hashes(records, "data_digest")),
        ("Splits", _say_hashes(records, "split")),
        ("Preprocessing", join_words(sorted({one.notes.get("preprocessing", "") for one in records} - {""}))),
        ("Hardware", _say_hardware(records)),
        ("Time", _say_time(records)),
        ("Path", _say_paths(records)),
    ]
    return [(word, said) for word, said in pairs if said]


def _count_runs(records: Sequence[RunRecord]) -> str:
    counts = Counter(record.status for record in records)
    return ", ".join(f"{count} {status}" for status, count in counts.most_common())


def _say_selection(comparison: Comparison) -> str:
    if comparison.selection == "oracle":
        return "by the test metric itself (oracle): what could have been, not what can be had"
    return f"the trial of each arm by its mean validation {comparison.metric.replace('_', ' ')}"


def _say_margin(comparison: Comparison) -> str:
    if METRICS[comparison.metric].unit == "fraction":
        return f"differences within {100 * comparison.margin:g} points count as none"
    return f"differences within {comparison.margin:g} {METRICS[comparison.metric].unit} count as none"


def _say_versions(records: Sequence[RunRecord]) -> str:
    said = []
    for key in _VERSIONS:
        found = sorted({record.notes[key] for record in records if key in record.notes})
        if found:
            said.append(f"{'graft' if key == 'version' else key} {' and '.join(found)}")
    return ", ".join(said)


def _say_code(records: Sequence[RunRecord]) -> str:
    dirty = sum(record.notes.get("git_dirty") == "true" for record in records)
    commits = sorted({record.notes["commit"][:12] for record in records if "commit" in record.notes})
    parts = [f"commit {join_words(commits)}"] if commits else []
    parts += [f"{count_words(dirty, 'run')} with changes that were not committed"] if dirty else []
    return ", ".join(parts)


def _say_hashes(records: Sequence[RunRecord], key: str) -> str:
    """Name one hash, and several by what they are together."""
    found = sorted({record.notes[key] for record in records if key in record.notes})
    if len(found) < 2:
        return "".join(f"sha256 {one}" for one in found)
    together = hashlib.sha256("\n".join(found).encode()).hexdigest()
    return f"{len(found)} different ones, together sha256 {together}"


def _say_hardware(records: Sequence[RunRecord]) -> str:
    said = []
    for key in _HARDWARE:
        counts = Counter(record.notes[key] for record in records if key in record.notes)
        if counts:
            said.append(
                f"{key} {join_words(f'{name} ({count} runs)' for name, count in counts.most_common(4))}"
            )
    return "; ".join(said)


def _say_time(records: Sequence[RunRecord]) -> str:
    parts = []
    for key, words in (("run_seconds", "for all runs together"), ("train_seconds", "of training alone")):
        values = [record.metrics.get(key, math.nan) for record in records]
        values = [value for value in values if math.isfinite(value)]
        if values:
            parts.append(f"{write_seconds(math.fsum(values))} {words}")
    return ", ".join(parts)


def _say_paths(records: Sequence[RunRecord]) -> str:
    """Say how runs were computed: alone, from shared activations, many heads at once, in closed form."""
    counts = Counter(record.notes["path"] for record in records if "path" in record.notes)
    return join_words(f"{count_words(count, 'run')} {name}" for name, count in counts.most_common())
