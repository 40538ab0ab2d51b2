"""What sharing saves: sweeps with reuse against the same runs one after another without it, in one process.

    python benchmarks/reuse.py <folder of images> [--weights FILE]

ResNet-18 at 64x64 on 4,000 training images (500 for validation, 1,000 for test), 10 epochs, AdamW, batches
of 32. Start-up is excluded on both sides; repeats are interleaved, and medians are shown. The **bound** is
what cannot be avoided, run alone: one pass of the shared prefix, and forward, backward, optimizer and
validation of every suffix on ready activations, in a bare loop of PyTorch as people write it. The steps of
heads in graft are leaner than that loop's, so that a share of the bound above 1 is possible.

Probes are measured whole: with reuse all of them, without it one of each repeat, times their number. Runs
with trainable stages would take hours, so each *kind* of them is measured on an eighth of the training images
for 3 passes: start and end as they are, the median time of a step times the steps of the whole training, a
validation after each epoch, checkpoints as often as they come. Kinds are then added up. "Runs compared" is
the number of runs on both paths whose final metrics were held against each other.

It writes reuse.json and reuse.md beside this file. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from reuse_bound import count_images, write_random_weights
from reuse_more import MORE
from reuse_paths import (
    EPOCHS,
    PROBE,
    Bench,
    Kind,
    measure_kind,
    measure_plain_probe,
    measure_probes,
    name_pass,
)
from torch.utils.flop_counter import FlopCounterMode

from graft import __version__
from graft.inputs import build_model, open_view
from graft.plan.spec import specify
from graft.run import decode_images, execute

HERE = Path(__file__).parent
REPEATS = 3


@dataclass(frozen=True)
class Row:
    """One workload.

    Attributes:
        name: What it is.
        claim: What it has to reach, for people.
        probes: Rates, decays and seeds of its linear probes.
        kinds: Its other runs.
        words: What its command has beyond `COMMAND`.
        least_share: Of the bound.
        least_ratio: Of the times.
    """

    name: str
    claim: str
    probes: tuple[int, int, int]
    kinds: Mapping[Kind, int]
    words: str
    least_share: float = 0.0
    least_ratio: float = 0.0

    @property
    def heads(self) -> int:
        """Number of its probes."""
        return self.probes[0] * self.probes[1] * self.probes[2]


def summarise(bench: Bench, row: Row) -> dict[str, Any]:
    """Return what a row of the table says."""
    plain = sum(count * bench.median("plain", kind) for kind, count in row.kinds.items())
    shared = sum(count * bench.median("shared", kind) for kind, count in row.kinds.items())
    bound = sum(count * bench.median("bound", kind) for kind, count in row.kinds.items())
    if row.heads:
        plain += row.heads * bench.median("plain", PROBE)
        shared += bench.median("shared", row.name)
        bound += bench.median("bound", name_pass(row.probes[2]))
        bound += row.heads * bench.median("bound", PROBE)
    ratio, limit = plain / shared, plain / bound
    watched = bench.seconds.get("memory", {})
    peaks = [bench.median("memory", kind) for kind in (row.name, *row.kinds) if kind in watched]
    different = [one for kind in (row.name, *row.kinds) for one in bench.differences.get(kind, [])]
    return {
        "workload": row.name, "claim": row.claim, "plain_s": plain, "shared_s": shared, "ratio": ratio,
        "bound": limit, "share_of_bound": ratio / limit, "flop_ratio": count_flops(bench, row),
        "largest_difference": max(different), "compared": len(different),
        "disk_mb": bench.median("disk", row.name) if row.heads else 0.0, "memory_mb": max(peaks, default=0.0),
        "holds": ratio >= row.least_ratio and ratio / limit >= row.least_share,
    }  # fmt: skip


def count_flops(bench: Bench, row: Row) -> float:
    """Return how many times more multiplications the plain path needs than the shared one.

    A backward pass counts as two forward ones, where anything trains; tests count, heads do not.
    """
    uri = bench.fresh_store()
    view = open_view(bench.describe(PROBE, uri))
    network = build_model(bench.describe(PROBE, uri), view.images)[0].backbone.eval()
    x, stages = torch.zeros(1, 3, 64, 64), []
    for stage in range(1, 6):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            x = network.stage(stage)(x)
        stages.append(counter.get_total_flops())
    trained, evaluated = EPOCHS * 4000, EPOCHS * 500 + 1000
    passed = count_images(bench.probes(uri, 1, 1, max(1, row.probes[2])))
    plain = shared = deepest = 0.0
    for kind, count in {**row.kinds, **({PROBE: row.heads} if row.heads else {})}.items():
        frozen = sum(stages[: max(0, kind.depth)])
        free = (3 * trained + evaluated) * (sum(stages) - frozen)
        plain += count * (free + (trained + evaluated) * frozen)
        shared += count * free
        deepest = max(deepest, frozen * passed)
    return plain / (shared + deepest)


def describe_machine() -> dict[str, Any]:
    """Return the date, the machine and the versions."""
    return {
        "date": datetime.now(UTC).date().isoformat(), "cpu": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)), "torch threads": torch.get_num_threads(),
        "python": platform.python_version(), "graft": __version__, "torch": torch.__version__,
        "pytorch-lightning": version("pytorch-lightning"), "mlflow": version("mlflow"),
    }  # fmt: skip


_DEEPER = (Kind(4), Kind(3))
ROWS = (
    Row(
        "36 linear probes (12 rates x decays, 3 seeds)",
        "60x, 0.8 of the bound",
        (4, 3, 3),
        {},
        "transfer=linear_probe optim.lr=1e-4,2e-4,4e-4,8e-4 optim.weight_decay=1e-1,1e-2,1e-3 seed=0,1,2",
        0.8,
        60.0,
    ),
    Row(
        "depths 5, 4, 3 x 4 rates x 2 seeds",
        "0.85 of the bound",
        (4, 1, 2),
        dict.fromkeys(_DEEPER, 8),
        "transfer=fine_tune transfer.freeze_depth=5,4,3 optim.lr=1e-4,2e-4,4e-4,8e-4 'seed=range(2)'",
        0.85,
    ),
    Row(
        "depths 5, 4, 3, 0 and from scratch x 3 rates",
        "0.9 of the bound",
        (3, 1, 1),
        dict.fromkeys((*_DEEPER, Kind(0), Kind(-1)), 3),
        "transfer=fine_tune transfer.freeze_depth=5,4,3,0 optim.lr=1e-4,2e-4,4e-4 sweep.twin=auto",
        0.9,
    ),
    Row(
        "depth 0 and from scratch only, 3 rates",
        "0.98x (never slower)",
        (0, 0, 0),
        dict.fromkeys((Kind(0), Kind(-1)), 3),
        "transfer=fine_tune optim.lr=1e-4,2e-4,4e-4 sweep.twin=auto",
        0.0,
        0.98,
    ),
)
#: What the commands of all rows have in common.
COMMAND = (
    "graft train -m data=folder data.root=<images> data.image_size=64 data.labels_per_class=400 "
    "data.val_labels_per_class=50 data.test_size=1000 backbone=resnet18 backbone.weights=<file> optim=adamw "
    "trainer.epochs=10 sweep.twin=off reuse=off"
)


def measure_rows(bench: Bench, repeats: int, folder: Path) -> list[dict[str, Any]]:
    """Measure the table, repeats interleaved; write it after each of them."""
    for repeat in range(repeats):
        plain = measure_plain_probe(bench, repeat)
        for row in ROWS:
            if row.heads:
                measure_probes(bench, row.name, row.probes, list(row.kinds), plain)
        for kind in ROWS[2].kinds:
            # Both paths do the same where nothing is frozen: only more repeats tell that from noise.
            times = 2 if kind.depth <= 0 else 1
            for number in range(times):
                measure_kind(bench, kind, bound=number == times - 1)
        rows = [summarise(bench, row) for row in ROWS]
        tell(bench, rows, {}, folder)
    return rows


def write_report(out: Mapping[str, Any], folder: Path) -> None:
    """Write reuse.json, and reuse.md for people."""
    (folder / "reuse.json").write_text(json.dumps(out, indent=1) + "\n")
    lines = [
        "# What sharing saves",
        "",
        ", ".join(f"{key} {value}" for key, value in out["machine"].items()) + ".",
    ]
    lines += ["", __doc__.split("\n\n", 2)[2].strip(), ""]
    columns = (
        "workload", "without, s", "with, s", "ratio", "bound", "ratio / bound", "FLOP ratio",
        "largest difference of a metric", "runs compared", "disk, MB", "peak memory, MB", "claim", "holds",
    )  # fmt: skip
    lines += [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for row in out["rows"]:
        lines.append(
            f"| {row['workload']} | {row['plain_s']:.0f} | {row['shared_s']:.0f} | {row['ratio']:.2f} "
            f"| {row['bound']:.2f} | {row['share_of_bound']:.2f} | {row['flop_ratio']:.1f} "
            f"| {row['largest_difference']:.2g} | {row['compared']} | {row['disk_mb']:.0f} "
            f"| {row['memory_mb']:.0f} | {row['claim']} | {'yes' if row['holds'] else '**no**'} |"
        )
    lines += ["", "Without reuse, by hand:", "", "```", COMMAND + " \\"]
    lines += [f"    {row.words}    # {row.name}" for row in ROWS] + ["```"]
    for title, text in out["more"].items():
        lines += ["", f"## {title}", "", text]
    (folder / "reuse.md").write_text("\n".join(lines) + "\n")


def tell(bench: Bench, rows: list[dict[str, Any]], more: Mapping[str, str], folder: Path) -> None:
    """Write what is measured so far."""
    seconds = {
        path: {str(kind): each for kind, each in table.items()} for path, table in bench.seconds.items()
    }
    write_report({"machine": describe_machine(), "rows": rows, "more": more, "seconds": seconds}, folder)


def warm_up(bench: Bench) -> None:
    """Do what is done once on a machine: imports, the check of the images, decoding, nearest neighbours."""
    uri = bench.fresh_store()
    decode_images(bench.describe(PROBE, uri))
    for seed in range(3):
        spec = bench.describe(PROBE, uri, seed=seed)
        trainer = replace(spec.config.trainer, epochs=1)
        execute(specify(replace(spec.config, trainer=trainer), spec.facts, grid=True))


def main() -> None:
    """Measure, and write what came out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument(
        "--weights", help="state dict of ResNet-18 as safetensors; as drawn where there is none"
    )
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        weights = {"resnet18": asked.weights or write_random_weights(root, "resnet18")}
        weights["resnet50"] = write_random_weights(root, "resnet50")
        bench = Bench(root, asked.images.resolve(), weights)
        warm_up(bench)
        rows, more = measure_rows(bench, asked.repeats, asked.out), dict[str, str]()
        for title, measure in MORE.items():
            more[title] = measure(bench, asked.repeats)
            tell(bench, rows, more, asked.out)
    raise SystemExit(0 if all(row["holds"] for row in rows) else 1)


if __name__ == "__main__":
    main()
