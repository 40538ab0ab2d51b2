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
    "head.strengths": {
        "head.name": "ridge",
        "transfer.method": "linear_probe",
        "transfer.freeze_depth": 5,
        "backbone.weights": "glyphs",
    },
    "loss.focal_gamma": {"loss.name": "focal"},
    "data.balance_beta": {"data.balance": "effective_number"},
    "backbone.hidden_size": {"backbone.name": "row_gru"},
    "backbone.layers": {"backbone.name": "row_gru"},
    "data.fold": {"data.folds": 5},
    "data.fold_repeat": {"data.folds": 5},
    "backbone.allow_partial": {"transfer.method": "fine_tune", "backbone.weights": "glyphs"},
    "reuse.dtype": {"transfer.method": "random_features", "transfer.freeze_depth": 3},
}
#: Knobs that are valid only under other knobs.
VALID_ONLY_UNDER = {
    "transfer.freeze_until": {"transfer.method": "fine_tune", "backbone.weights": "glyphs"},
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
    assume(knob != "head.strengths" or set(first) != set(second))
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
    elsewhere = {
        "cut_depth",
        "cut_is_natural",
        "official_splits",
        "grouped",
        "split_sha256",
        "weights_sha256",
        "weights_name",
    }
    elsewhere |= {"precision_reason"}
    assert {item.name for item in fields(Facts)} == set(OTHER_FACTS) | elsewhere


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({}, "610b58e4113c2695970d"),
        ({"transfer.method": "linear_probe", "transfer.freeze_depth": 5}, "e52584026a5768073bbd"),
        (
            {
                "transfer.method": "fine_tune",
                "transfer.freeze_depth": 3,
                "optim.lr": 0.1,
                "seed": 2,
                "data.labels_per_class": 5,
            },
            "c8a8dc08f2f435b2d916",
        ),
    ],
)
def test_a_new_knob_left_alone_changes_no_key(changes, key, build_config):
    spec = specify(build_config({"backbone.weights": "glyphs", **changes}), FACTS)
    assert (spec.key, spec.condition) == (key, "ef9b3463acaa097100ce")


@pytest.mark.parametrize("knob", ["trainer.channels_last", "trainer.compile"])
def test_what_moves_last_digits_is_in_the_key_and_not_in_the_condition(knob, build_config):
    plain, changed = (specify(build_config({knob: value}), FACTS) for value in (False, True))
    assert plain.key != changed.key
    assert plain.condition == changed.condition


def test_a_layout_that_a_network_has_no_use_for_is_out_of_the_key(build_config):
    row = {"backbone.name": "row_gru"}
    assert key_of(build_config(row | {"trainer.channels_last": True})) == key_of(build_config(row))


def test_an_automatic_precision_is_the_resolved_one(build_config):
    named = specify(build_config(), replace(FACTS, precision="bf16-mixed"))
    found = replace(FACTS, precision="bf16-mixed", precision_reason="measured")
    automatic = specify(build_config({"trainer.precision": "auto"}), found)
    assert (automatic.key, automatic.condition) == (named.key, named.condition)
    assert automatic.config.trainer.precision == "bf16-mixed"
    assert specify(automatic.config, found).key == named.key  # as a worker plans it again


def test_rounded_activations_are_another_trial_of_runs_that_share_only(build_config):
    frozen = READ_ONLY_UNDER["reuse.dtype"]
    exact, rounded = (
        specify(build_config(frozen | {"reuse.dtype": dtype}), FACTS) for dtype in ("float32", "float16")
    )
    assert rounded.key != exact.key
    assert "activations=float16" in rounded.trial.split()
    assert "activations" not in exact.trial
    assert (rounded.arm, rounded.condition) == (exact.arm, exact.condition)
    for changes in ({}, frozen | {"augment.name": "flip_crop"}, frozen | {"trainer.limit_batches": 2}):
        assert key_of(build_config(changes | {"reuse.dtype": "float16"})) == key_of(build_config(changes))


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


RIDGE = READ_ONLY_UNDER["head.strengths"]


@pytest.mark.parametrize(
    "unread",
    [
        {"optim.lr": 0.5},
        {"optim.name": "sgd", "optim.momentum": 0.5},
        {"optim.schedule": "step"},
        {"data.batch_size": 64},
        {"head.hidden": [7]},
        {"head.strengths": [1000.0, 100.0, 10.0, 1.0, 0.1, 0.01, 0.001, 1e-4, 1e-5, 1]},
    ],
    ids=str,
)
def test_what_a_ridge_probe_does_not_read_is_out_of_its_key_and_trial(unread, build_config):
    one, other = specify(build_config(RIDGE | unread), FACTS), specify(build_config(RIDGE), FACTS)
    assert (one.key, one.trial, one.arm, one.condition) == (
        other.key,
        other.trial,
        other.arm,
        other.condition,
    )


def test_a_ridge_probe_is_no_linear_probe_and_a_fine_tune_that_freezes_everything(build_config):
    linear = specify(build_config(RIDGE | {"head.name": "linear"}), FACTS)
    ridge = specify(build_config(RIDGE), FACTS)
    assert linear.arm != ridge.arm
    assert linear.key != ridge.key
    assert linear.condition == ridge.condition
    assert specify(build_config(RIDGE | {"transfer.method": "fine_tune"}), FACTS).key == ridge.key


UNTIL = VALID_ONLY_UNDER["transfer.freeze_until"] | {"transfer.freeze_until": "node"}


@pytest.mark.parametrize("depth", [1, 4, 5])
def test_a_node_at_the_end_of_a_stage_is_that_depth(depth, build_config):
    facts = replace(FACTS, cut_depth=depth, cut_is_natural=True)
    plain = specify(
        build_config(UNTIL | {"transfer.freeze_until": None, "transfer.freeze_depth": depth}), FACTS
    )
    until = specify(build_config(UNTIL), facts)
    assert (until.key, until.arm, until.trial) == (plain.key, plain.arm, plain.trial)
    assert until.config == plain.config


def test_another_node_is_in_arm_and_key(build_config):
    facts = replace(FACTS, cut_depth=3)
    specs = [specify(build_config(UNTIL | {"transfer.freeze_until": node}), facts) for node in ("a", "b")]
    specs.append(
        specify(build_config(UNTIL | {"transfer.freeze_until": None, "transfer.freeze_depth": 3}), FACTS)
    )
    assert len({spec.key for spec in specs}) == len({spec.arm for spec in specs}) == 3
    assert {spec.arm.freeze_depth for spec in specs} == {3}
    assert len({spec.condition for spec in specs}) == 1
    again = specify(specs[0].config, facts)
    assert (again.key, again.config) == (specs[0].key, specs[0].config), "a planned run is planned as itself"


def test_keys_of_runs_that_are_recorded_stay(build_config):
    """A key that changes by accident has every finished run done again; `RESULT_VERSION` is for that."""
    kept = {
        "0acde5026a78766be28d": {},
        "48eaa08dde6d404f8df8": {"transfer.method": "fine_tune", "transfer.freeze_depth": 3},
        "d6d4dd8f14c6b5d3ddfe": {"transfer.method": "linear_probe", "transfer.freeze_depth": 5},
        "cb0993c7b51ee0c370fa": {
            "transfer.method": "linear_probe", "transfer.freeze_depth": 5, "head.name": "mlp",
            "head.dropout": 0.5,
        },
        "9134e130ecf3663330df": {"head.name": "cosine", "optim.name": "sgd"},
        "c3b073d66876adb65f61": {"transfer.method": "random_features", "transfer.freeze_depth": 2},
    }  # fmt: skip
    facts = Facts("d", (), "a" * 64, "glyphs", {"size": 16}, "32")
    for key, changes in kept.items():
        assert key_of(build_config({"backbone.weights": "glyphs"} | changes), facts) == key
