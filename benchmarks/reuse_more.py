"""What sharing saves beyond the table of `reuse.py`: finer cuts, one more rate, scikit-learn, growth."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import numpy as np
from reuse_bound import send
from reuse_paths import EPOCHS, PROBE, Bench, Kind, forget_shared, measure_kind, read_numbers, run_sweep
from sklearn.linear_model import LogisticRegression

from graft.inputs import build_model, open_view
from graft.model.flops import count_flops
from graft.plan.spec import specify
from graft.sweep.reuse import compute_shared, plan_reuse
from graft.sweep.worker import Job, execute_job

#: The last 3, 6 and 9 residual blocks of ResNet-50 train, or its head alone.
BLOCKS = {"head": (5, None), "3 blocks": (4, None), "6 blocks": (0, "layer3.2.relu_2"), "9 blocks": (3, None)}
KINDS = [Kind(depth, "resnet50", batch, until) for depth, until in BLOCKS.values() for batch in (32, 64)]
NAUTILUS = 2.83


def measure_nautilus(bench: Bench, repeats: int) -> str:
    """ResNet-50, 4 freeze depths x 2 batch sizes x 3 rates, Nautilus's image workload at 64x64."""
    for _ in range(repeats):
        uri = bench.fresh_store()
        whole = [bench.describe(kind, uri, lr=lr) for kind in KINDS for lr in (1e-4, 1e-3, 1e-2)]
        forget_shared(bench)
        started = time.perf_counter()
        compute_shared(plan_reuse(whole, workers=1))
        bench.note("prefix", "resnet50", time.perf_counter() - started)
        for kind in KINDS:
            measure_kind(bench, kind, bound=False)
    return describe_nautilus(bench)


def describe_nautilus(bench: Bench) -> str:
    """Say what came out, and what the arithmetic of the workload allows."""
    plain = 3 * sum(bench.median("plain", kind) for kind in KINDS)
    prefix = bench.median("prefix", "resnet50")
    shared = 3 * sum(bench.median("shared", kind) for kind in KINDS) + prefix
    ratio, worst = plain / shared, max(max(bench.differences[kind]) for kind in KINDS)
    standing = "above" if ratio > NAUTILUS else "**below**"
    return (
        "The last 3, 6 and 9 residual blocks and the head alone, batches of 32 and 64, 3 rates: "
        f"{plain:.0f} s without, {shared:.0f} s with reuse, of which {prefix:.0f} s plan and compute what "
        f"all share: **{ratio:.2f}x**, {standing} Nautilus's {NAUTILUS}x. The FLOPs of these runs allow at "
        f"most {count_ratio(bench):.2f}x, as what is not frozen trains forwards and backwards in every run: "
        "where arithmetic takes the time, sharing frozen parts cannot reach more; Nautilus's figure is of "
        "other hardware and software. Probes are counted one by one, not in one pass. Largest difference of "
        "a metric "
        f"{worst:.2g}. Each kind is measured on a twelfth of the training images, with 100 for validation."
    )


def count_ratio(bench: Bench) -> float:
    """Return how many times more FLOPs the runs of Nautilus's workload take alone; backwards counts two."""
    seen, evaluated, passed = EPOCHS * 4000, EPOCHS * 100 + 200, 4300
    plain = shared = deepest = 0.0
    uri = bench.fresh_store()
    for kind in KINDS:
        spec = bench.describe(kind, uri)
        backbone = build_model(spec, open_view(spec).images)[0].backbone
        stages = count_flops(backbone, 3, 64)
        free = sum(value for stage, value in stages.items() if int(stage) > backbone.frozen_depth)
        frozen = sum(stages.values()) - free
        plain += 3 * ((seen + evaluated) * (free + frozen) + 2 * seen * free)
        shared += 3 * (3 * seen + evaluated) * free
        deepest = max(deepest, passed * frozen)
    return plain / (shared + deepest)


def measure_one_more(bench: Bench, repeats: int) -> str:
    """One more learning rate in a sweep of probes."""
    times = []
    for number in range(repeats):
        uri = bench.fresh_store()
        sweep = bench.probes(uri, 4, 1, 1)
        compute_shared(plan_reuse(sweep, workers=1))
        spec = bench.describe(PROBE, uri, lr=0.05 + number)
        started = time.perf_counter()
        plan = compute_shared(plan_reuse([spec], workers=1))
        assert execute_job(Job(spec, None, plan.sharing.get(spec.key))).status == "finished"
        times.append(time.perf_counter() - started)
    seconds, plain = statistics.median(times), bench.median("plain", PROBE)
    share = seconds / plain
    holds = "yes" if share <= 0.03 else "**no**"
    return f"{seconds:.2f} s, {share:.1%} of a run without reuse (claim: at most 3 %: {holds})."


def compare_with_sklearn(bench: Bench, repeats: int) -> str:
    """36 heads against scikit-learn's LogisticRegression on the same features."""
    uri = bench.fresh_store()
    specs = bench.probes(uri, 12, 3, 1)
    view = open_view(specs[0])
    forget_shared(bench)
    plan = compute_shared(plan_reuse(specs, workers=1))
    started = time.perf_counter()
    run_sweep(specs, plan)
    ours = time.perf_counter() - started
    numbers = read_numbers(uri, bench.root)
    best = max(numbers.values(), key=lambda one: one["val/accuracy"])
    split, labels = view.split, view.images.labels
    classifier, _ = build_model(bench.describe(PROBE, uri), view.images)
    train, val, test = (
        send(classifier, view, part, 5).numpy() for part in (split.train, split.val, split.test)
    )
    mean, scale = train.mean(0), train.std(0) + 1e-6
    started = time.perf_counter()
    tried = []
    for strength in np.logspace(-5, 2, 8):
        model = LogisticRegression(C=strength, max_iter=1000).fit((train - mean) / scale, labels[split.train])
        tried.append((model.score((val - mean) / scale, labels[split.val]), strength, model))
    theirs = time.perf_counter() - started
    accuracy = max(tried, key=lambda one: one[0])[2].score((test - mean) / scale, labels[split.test])
    gap = 100 * (best["test/accuracy"] - accuracy)
    holds = "yes" if gap >= -0.5 else "**no**"
    return (
        f"Chosen on validation, on test: graft {best['test/accuracy']:.4f} ({ours:.1f} s for 36 heads, all "
        f"recorded), LogisticRegression {accuracy:.4f} ({theirs:.1f} s for 8 strengths on standardised "
        f"features): {gap:+.1f} points (claim: at most 0.5 below: {holds})."
    )


def measure_growth(bench: Bench, repeats: int) -> str:
    """Time against the number of probes and of images."""
    lines, counts, times = [], (1, 10, 50, 200), []
    for count in counts:
        uri = bench.fresh_store()
        specs = [bench.describe(PROBE, uri, lr=1e-4 * (1 + number)) for number in range(count)]
        plan = compute_shared(plan_reuse(specs, workers=1))
        started = time.perf_counter()
        run_sweep(specs, plan)
        times.append(time.perf_counter() - started)
    slope = np.polyfit(counts, times, 1)[0]
    said = ", ".join(f"{count}: {seconds:.1f} s" for count, seconds in zip(counts, times, strict=True))
    lines.append(f"Probes on 4,000 images (features there): {said}; {slope:.2f} s for each further one.")
    sizes, times = (1000, 4000, 16000, 46000), []
    for size in sizes:
        forget_shared(bench)
        uri, specs = bench.fresh_store(), []
        for lr in (1e-4, 1e-3, 1e-2):
            spec = bench.describe(PROBE, uri, lr=lr)
            data = replace(spec.config.data, labels_per_class=size // 10)
            specs.append(specify(replace(spec.config, data=data), spec.facts, grid=True))
        started = time.perf_counter()
        run_sweep(specs, compute_shared(plan_reuse(specs, workers=1)))
        times.append(time.perf_counter() - started)
    slope = 1000 * np.polyfit(sizes, times, 1)[0]
    said = ", ".join(f"{size:,}: {seconds:.1f} s" for size, seconds in zip(sizes, times, strict=True))
    lines.append(
        f"Images, 3 probes, their features and the 1-NN baselines computed: {said}; {slope:.2f} s a thousand."
    )
    return " ".join(lines)


MORE = {
    "One more learning rate": measure_one_more,
    "ResNet-50, the image workload of Nautilus": measure_nautilus,
    "Against scikit-learn": compare_with_sklearn,
    "Growth": measure_growth,
}
