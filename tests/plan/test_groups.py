"""What runs share: equal activations, and only those."""

from __future__ import annotations

from dataclasses import replace

import pytest

from graft.plan.groups import LARGEST_GROUP, find_obstacle, find_prefix, group_runs
from graft.plan.spec import Facts, specify

FACTS = Facts("d", (), "a" * 64, "glyphs", {"size": 16}, "32")
PROBE = {"transfer.method": "linear_probe", "transfer.freeze_depth": 5, "backbone.weights": "glyphs"}


@pytest.fixture
def spec_of(build_config):
    def make(changes=None, facts=FACTS, **options):
        return specify(build_config(PROBE | (changes or {})), facts, **options)

    return make


def group(*specs, steps=100, heads=1000, workers=1):
    keys = [spec.key for spec in specs]
    return group_runs(specs, dict.fromkeys(keys, (steps, 10)), dict.fromkeys(keys, heads), workers)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"transfer.method": "fine_tune", "transfer.freeze_depth": 0}, "all stages train"),
        ({"augment.name": "flip_crop"}, "augment.views"),
        ({"augment.mixup": 0.2}, "mixup"),
        ({"trainer.devices": 2}, "devices"),
        ({"trainer.limit_batches": 2}, "limit_batches"),
    ],
)
def test_what_cannot_be_shared_says_why(changes, words, spec_of):
    spec = spec_of(changes)
    assert words in find_obstacle(spec.config)
    assert find_prefix(spec) is None
    assert group(spec, spec_of(changes | {"seed": 1})) == [[spec], [spec_of(changes | {"seed": 1})]]


@pytest.mark.parametrize(
    "changes",
    [
        {"optim.lr": 0.1},
        {"seed": 3},
        {"data.labels_per_class": 2},
        {"head.name": "mlp"},
        {"transfer.method": "fine_tune", "transfer.freeze_depth": 3},
        {"data.split_seed": 4},
        {"loss.label_smoothing": 0.1},
        {"head.name": "ridge"},
    ],
)
def test_what_changes_no_activation_keeps_the_prefix(changes, spec_of):
    assert find_prefix(spec_of(changes)) == find_prefix(spec_of())


@pytest.mark.parametrize("name", ["data_digest", "weights_sha256", "precision", "preprocessing"])
def test_what_changes_activations_changes_the_prefix(name, spec_of):
    other = {"data_digest": "e", "weights_sha256": "b" * 64, "precision": "bf16-mixed"}
    value = other.get(name, {"size": 32})
    assert find_prefix(spec_of(facts=replace(FACTS, **{name: value}))) != find_prefix(spec_of())


def test_what_is_drawn_counts_by_its_seed(spec_of):
    partial = {"backbone.allow_partial": True}
    assert find_prefix(spec_of(partial)) != find_prefix(spec_of(partial | {"seed": 1}))
    control = {"transfer.method": "random_features"}
    assert find_prefix(spec_of(control)) != find_prefix(spec_of(control | {"seed": 1}))
    views = {"augment.name": "flip_crop", "augment.views": 2}
    assert find_prefix(spec_of(views)) != find_prefix(spec_of(views | {"seed": 1}))


def test_what_is_drawn_counts_by_the_outputs_that_are_drawn_with_it(spec_of):
    one = {"loss.name": "binary_cross_entropy"}
    for drawn in ({"transfer.method": "random_features"}, {"backbone.allow_partial": True}):
        assert find_prefix(spec_of(drawn)) != find_prefix(spec_of(drawn | one))
        assert find_prefix(spec_of(drawn)) == find_prefix(spec_of(drawn | {"loss.name": "focal"}))
    assert find_prefix(spec_of()) == find_prefix(spec_of(one))


def test_heads_that_share_features_train_together(spec_of):
    specs = [spec_of({"optim.lr": lr, "seed": seed}) for lr in (0.1, 0.01) for seed in range(3)]
    assert group(*specs) == [specs]


@pytest.mark.parametrize(
    "changes",
    [
        {"data.batch_size": 64},
        {"trainer.epochs": 3},
        {"transfer.method": "fine_tune", "transfer.freeze_depth": 4},
        {"head.name": "mlp", "head.dropout": 0.5},
        {"head.name": "mlp"},
        {"metric": "balanced_accuracy"},
        {"trainer.accumulate": 2},
        {"reuse.enabled": False},
    ],
)
def test_heads_that_take_other_steps_do_not(changes, spec_of):
    assert len(group(spec_of(), spec_of(changes))) == 2


def test_label_budgets_train_together_where_they_take_the_same_steps(spec_of):
    specs = [spec_of({"data.labels_per_class": shots}) for shots in (None, 2, 4)]
    assert group(*specs) == [specs]


def test_only_heads_of_one_size_train_together(spec_of):
    def mlp(hidden, **more):
        return spec_of({"head.name": "mlp", "head.hidden": hidden} | more)

    small, slow, large = mlp([8]), mlp([8], **{"optim.lr": 0.1}), mlp([512])
    assert group(small, large, slow) == [[small, slow], [large]]
    unread = [spec_of(), spec_of({"head.hidden": [3], "optim.lr": 0.1})]
    assert group(*unread) == [unread]


def test_the_largest_of_its_runs_limits_a_group(spec_of):
    specs = [spec_of({"data.labels_per_class": shots}) for shots in (2, 4, 8)]
    budgets = dict.fromkeys((spec.key for spec in specs), (100, 10))
    heads = dict(zip(budgets, (9, 9, 2), strict=True))
    assert group_runs(specs, budgets, heads) == [specs[:2], specs[2:]]


def test_every_run_is_in_one_group_and_groups_are_bounded(spec_of):
    specs = [spec_of({"seed": seed}) for seed in range(2 * LARGEST_GROUP + 1)]
    groups = group(*specs)
    assert [len(members) for members in groups] == [43, 43, 43]
    assert [spec for members in groups for spec in members] == specs


def test_every_worker_has_a_group(spec_of):
    specs = [spec_of({"seed": seed}) for seed in range(7)]
    assert [len(members) for members in group(*specs, workers=2)] == [4, 3]
    assert [len(members) for members in group(*specs[:2], workers=9)] == [1, 1]


def test_heads_that_are_validated_at_other_steps_train_apart(spec_of):
    specs = [spec_of({"seed": seed}) for seed in range(2)]
    budgets = {specs[0].key: (100, 11), specs[1].key: (100, 12)}
    assert len(group_runs(specs, budgets, dict.fromkeys(budgets, 9))) == 2


def test_a_long_training_makes_small_groups(spec_of):
    specs = [spec_of({"seed": seed}) for seed in range(7)]
    assert [len(members) for members in group(*specs, steps=100_000)] == [4, 3]
    assert [len(members) for members in group(*specs, steps=10**9)] == [1] * 7
    assert [len(members) for members in group(*specs, heads=3)] == [3, 3, 1]
    assert [len(members) for members in group(*specs, heads=0)] == [1] * 7
