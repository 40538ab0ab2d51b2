"""The run key: everything that can change the result, and nothing else."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from graft.config.load import known_keys, to_config, to_plain
from graft.config.names import PRETRAINED
from graft.plan.spec import Facts, specify

FACTS = Facts(
    data_digest="d1",
    official_splits=(),
    weights_sha256="a" * 64,
    weights_name="glyphs",
    preprocessing={"size": 16, "mean": [0.5], "std": [0.5]},
    precision="32",
)
OTHER_FACTS = {
    "data_digest": "d2",
    "preprocessing": {"size": 32, "mean": [0.5], "std": [0.5]},
    "precision": "bf16-mixed",
    "processes": 2,
    "metric": "balanced_accuracy",
}

#: Knobs that are read only under other knobs.
READ_ONLY_UNDER = {
    "optim.momentum": {"optim.name": "sgd"},
    "optim.nesterov": {"optim.name": "sgd"},
    "optim.step_every": {"optim.schedule": "step"},
    "optim.decay_factor": {"optim.schedule": "plateau"},
    "optim.plateau_checks": {"optim.schedule": "plateau"},
    "head.hidden": {"head.name": "mlp"},
    "head.dropout": {"head.name": "mlp"},
    "head.activation": {"head.name": "mlp"},
    "loss.focal_gamma": {"loss.name": "focal"},
    "data.balance_beta": {"data.balance": "effective_number"},
    "backbone.hidden_size": {"backbone.name": "row_gru"},
    "backbone.layers": {"backbone.name": "row_gru"},
    "data.fold": {"data.folds": 5},
    "data.fold_repeat": {"data.folds": 5},
    "backbone.allow_partial": {"transfer.method": "fine_tune", "backbone.weights": "glyphs"},
}
#: Knobs that are valid only under other knobs.
VALID_ONLY_UNDER = {
    "transfer.freeze_depth": {"transfer.method": "fine_tune", "backbone.weights": "glyphs"},
    "data.val_labels_per_class": {"data.labels_per_class": 5},
    "augment.views": {"augment.name": "flip_crop"},
}
#: Knobs whose effect is seen by opening data, weights or device: the key reads the facts instead.
BY_FACTS = {
    "data.name",
    "data.image_size",
    "data.resize",
    "data.mean",
    "data.std",
    "data.render_count",
    "data.render_seed",
    "backbone.weights",
    "trainer.precision",
}
KNOBS = sorted(known_keys())


def key_of(config, facts=FACTS, **options):
    return specify(config, facts, **options).key


@pytest.mark.parametrize("knob", KNOBS)
@given(draw=st.data())
def test_a_knob_changes_the_key_exactly_when_it_can_change_the_result(
    knob, draw, knobs, knob_values, build_config
):
    context = READ_ONLY_UNDER.get(knob, VALID_ONLY_UNDER.get(knob, {}))
    first, second = (draw.draw(knob_values[knob]) for _ in range(2))
    assume(first != second)
    keys = {key_of(build_config(context | {knob: value})) for value in (first, second)}
    counts = knobs[knob][1]["keyed"] and knob not in BY_FACTS
    assert len(keys) == (2 if counts else 1)


@pytest.mark.parametrize("knob", sorted(READ_ONLY_UNDER))
@given(draw=st.data())
def test_a_knob_that_nothing_reads_is_out_of_the_key(knob, draw, knob_values, build_config):
    assert key_of(build_config({knob: draw.draw(knob_values[knob])})) == key_of(build_config())


@given(draw=st.data())
def test_all_knobs_out_of_the_key_may_change_together(draw, knobs, knob_values, build_config):
    changes = {key: draw.draw(knob_values[key]) for key in KNOBS if not knobs[key][1]["keyed"]}
    assert key_of(build_config(changes)) == key_of(build_config())


@pytest.mark.parametrize("optional", ["data.labels_per_class", "trainer.patience", "optim.gradient_clip"])
def test_null_is_another_value(optional, build_config):
    assert key_of(build_config({optional: 1})) != key_of(build_config({optional: None}))


@pytest.mark.parametrize("fact", sorted(OTHER_FACTS))
def test_facts_change_the_key(fact, build_config):
    assert key_of(build_config(), replace(FACTS, **{fact: OTHER_FACTS[fact]})) != key_of(build_config())


def test_every_fact_is_tested():
    elsewhere = {"official_splits", "grouped", "split_sha256", "weights_sha256", "weights_name"}
    assert {item.name for item in fields(Facts)} == set(OTHER_FACTS) | elsewhere


def test_weights_count_where_they_are_loaded_and_by_their_content(build_config):
    pretrained = build_config(VALID_ONLY_UNDER["transfer.freeze_depth"])
    other, renamed = replace(FACTS, weights_sha256="b" * 64), replace(FACTS, weights_name="copy")
    assert key_of(pretrained, other) != key_of(pretrained)
    assert key_of(pretrained, renamed) == key_of(pretrained)
    assert key_of(build_config(), other) == key_of(build_config())
    assert specify(build_config(), other).arm.weights == "none"


@pytest.mark.parametrize(
    ("official", "unread"),
    [(("test",), {"data.test_size": 0.5, "data.split_seed": 7}), (("test", "val"), {"data.val_size": 0.5})],
)
def test_sizes_are_out_of_the_key_where_the_data_set_brings_the_split(official, unread, build_config):
    facts = replace(FACTS, official_splits=official)
    for changes in ({}, {"data.labels_per_class": 5}):
        assert key_of(build_config(changes | unread), facts) == key_of(build_config(changes), facts)
        assert key_of(build_config(changes | unread)) != key_of(build_config(changes))


def test_the_share_of_validation_is_out_of_the_key_where_its_labels_are_counted(build_config):
    counted = {"data.labels_per_class": 5, "data.val_labels_per_class": 2}
    assert key_of(build_config(counted | {"data.val_size": 0.5})) == key_of(build_config(counted))


def test_with_groups_the_share_of_validation_counts_even_then(build_config):
    counted = {"data.labels_per_class": 5, "data.val_labels_per_class": 2}
    grouped = replace(FACTS, grouped=True)
    assert key_of(build_config(counted | {"data.val_size": 0.5}), grouped) != key_of(
        build_config(counted), grouped
    )


FOLDED = {"data.folds": 5}


@pytest.mark.parametrize("official", [(), ("test",), ("test", "val")])
def test_folds_are_drawn_whatever_splits_the_data_set_brings(official, build_config):
    facts = replace(FACTS, official_splits=official)
    usual = key_of(build_config(FOLDED), facts)
    assert key_of(build_config(FOLDED | {"data.test_size": 0.5}), facts) == usual
    for changes in (
        {"data.fold": 1},
        {"data.fold_repeat": 1},
        {"data.split_seed": 1},
        {"data.val_size": 0.5},
    ):
        assert key_of(build_config(FOLDED | changes), facts) != usual, changes


def test_folds_are_replicates_of_one_condition(build_config):
    usual = specify(build_config(FOLDED), FACTS).condition
    for changes in ({"data.fold": 3}, {"data.fold_repeat": 2}, {"data.fold": 1, "seed": 4}):
        assert specify(build_config(FOLDED | changes), FACTS).condition == usual, changes
    assert specify(build_config({"data.folds": 10}), FACTS).condition != usual
    assert specify(build_config(), FACTS).condition != usual


def test_a_replayed_split_counts_by_its_content(build_config):
    replayed = replace(FACTS, split_sha256="c" * 64)
    config = build_config({"data.split_file": "split.json"})
    usual = specify(config, replayed)
    assert usual.labels == "replayed"
    assert key_of(build_config({"data.split_file": "a copy.json"}), replayed) == usual.key
    for unread in ({"data.split_seed": 7}, {"data.test_size": 0.5}, {"data.val_size": 0.5}):
        assert key_of(build_config({"data.split_file": "split.json"} | unread), replayed) == usual.key
    other = specify(config, replace(FACTS, split_sha256="e" * 64))
    assert other.key != usual.key
    assert other.condition != usual.condition
    assert specify(config, FACTS).condition != usual.condition


def test_the_order_of_keys_and_the_spelling_of_numbers_do_not_count(build_config):
    config = build_config({"optim.lr": 1.0, "optim.weight_decay": 0.0, "data.test_size": 800.0})
    tree = to_plain(config)
    backwards = {
        section: dict(reversed(value.items())) if isinstance(value, dict) else value
        for section, value in reversed(tree.items())
    }
    backwards["optim"] |= {"lr": 1, "weight_decay": 0}
    backwards["data"] |= {"test_size": "8e2"}
    assert key_of(to_config(backwards)) == key_of(config)
    assert specify(to_config(backwards), FACTS).trial == specify(config, FACTS).trial


@given(lr=st.floats(1e-9, 100), decay=st.floats(0, 10))
def test_a_linear_probe_is_a_fine_tune_that_freezes_everything(lr, decay, build_config):
    shared = {
        "backbone.weights": "glyphs",
        "transfer.freeze_depth": 5,
        "optim.lr": lr,
        "optim.weight_decay": decay,
    }
    probe = specify(build_config(shared | {"transfer.method": "linear_probe"}), FACTS)
    tuned = specify(build_config(shared | {"transfer.method": "fine_tune"}), FACTS)
    assert (tuned.key, tuned.arm, tuned.trial) == (probe.key, probe.arm, probe.trial)


def test_with_another_head_it_is_not_a_linear_probe(build_config):
    shared = {"backbone.weights": "glyphs", "transfer.freeze_depth": 5, "head.name": "mlp"}
    tuned = specify(build_config(shared | {"transfer.method": "fine_tune"}), FACTS)
    probe = specify(build_config(shared | {"transfer.method": "linear_probe"}), FACTS)
    assert tuned.arm.method == "fine_tune"
    assert (probe.key, probe.arm, probe.trial) == (tuned.key, tuned.arm, tuned.trial), "the same run"


def test_a_probe_of_a_kept_classifier_is_not_its_fine_tuning(build_config):
    """Under a probe the kept layers are frozen."""
    head = {"backbone.weights": "glyphs", "transfer.freeze_depth": 5, "head.name": "pretrained_classifier"}
    specs = [specify(build_config(head | {"transfer.method": one}), FACTS) for one in PRETRAINED]
    assert specs[0].key != specs[1].key


def test_the_rate_of_a_frozen_backbone_is_out_of_the_key(build_config):
    probe = {"backbone.weights": "glyphs", "transfer.method": "linear_probe", "transfer.freeze_depth": 5}
    assert key_of(build_config(probe | {"optim.backbone_lr_multiplier": 0.1})) == key_of(build_config(probe))


@given(depth=st.integers(0, 5))
def test_in_a_grid_from_scratch_has_no_depth(depth, build_config):
    assert key_of(build_config({"transfer.freeze_depth": depth}), grid=True) == key_of(build_config())


AXES = {"seed": 3, "data.labels_per_class": 5, "data.label_fraction": 0.5}
ARM_OR_TRIAL = {"optim.lr": 0.5, "backbone.name": "cnn2", "loss.name": "focal", "augment.name": "flip_crop"}
CONDITION = {
    "data.split_seed": 1,
    "data.test_size": 100.0,
    "trainer.epochs": 3,
    "trainer.min_steps": 9,
    "metric": "loss",
}


def test_the_condition_is_what_all_runs_of_a_comparison_share(build_config):
    usual = specify(build_config(), FACTS).condition
    for key, value in (AXES | ARM_OR_TRIAL).items():
        assert specify(build_config({key: value}), FACTS).condition == usual, key
    for key, value in CONDITION.items():
        assert specify(build_config({key: value}), FACTS).condition != usual, key
    assert specify(build_config(), replace(FACTS, data_digest="d2")).condition != usual
    assert specify(build_config(), replace(FACTS, preprocessing={"size": 99})).condition == usual


def test_balance_and_mixing_belong_to_the_arm_alone(build_config):
    """Off, they leave the text and the key of the arm as they were before there were such knobs."""
    usual = specify(build_config({"metric": "accuracy"}), FACTS)
    assert (usual.arm.loss, usual.arm.augment) == ("cross_entropy", "none")
    mixing = {"augment.name": "flip_crop", "augment.mixup": 0.2, "augment.views": 3}
    changed = specify(build_config(mixing | {"data.balance": "sampler", "metric": "accuracy"}), FACTS)
    assert changed.arm.loss == "cross_entropy(balance=sampler)"
    assert changed.arm.augment == "flip_crop(mixup=0.2,views=3)"
    assert changed.condition == usual.condition
    effective = specify(build_config({"data.balance": "effective_number"}), FACTS).arm.loss
    assert effective == "cross_entropy(balance=effective_number,balance_beta=0.999)"


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy"])
def test_the_metric_auto_is_the_one_of_the_facts(metric, build_config):
    auto = specify(build_config({"metric": "auto"}), replace(FACTS, metric=metric))
    named = specify(build_config({"metric": metric}), FACTS)
    assert auto.config.metric == metric
    assert (auto.key, auto.condition) == (named.key, named.condition)


def test_labels_are_named(build_config):
    assert specify(build_config(), FACTS).labels == "all"
    assert specify(build_config({"data.labels_per_class": 5}), FACTS).labels == "5"
    assert specify(build_config({"data.label_fraction": 0.07}), FACTS).labels == "7%"
