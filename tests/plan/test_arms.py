"""Arms as text and back, one spelling for one meaning, and the from-scratch twin."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from graft.config.names import METHODS, PRETRAINED, STAGES
from graft.config.validate import validate
from graft.plan.arms import Arm, make_twin, normalise
from graft.plan.spec import Facts, specify

WORDS = st.text(max_size=12)
ARMS = st.builds(
    Arm,
    backbone=WORDS,
    weights=WORDS,
    method=st.sampled_from(METHODS),
    freeze_depth=st.integers(0, STAGES),
    head=WORDS,
    loss=WORDS,
    augment=WORDS,
    input=WORDS,
)
UNREAD = ("sweep.", "paths.", "tracking.", "checkpoint.", "bundle.")


def facts_of(config):
    """Facts as opening the weights would give them: preprocessing by name, content where they are loaded."""
    weights = config.backbone.weights
    sha256 = hashlib.sha256(weights.encode()).hexdigest() if config.transfer.method in PRETRAINED else None
    return Facts(
        data_digest=config.data.name,
        official_splits=(),
        weights_sha256=sha256,
        weights_name=weights if sha256 else "none",
        preprocessing={"size": len(weights)},
        precision=config.trainer.precision,
    )


def draw_config(draw, knob_values, build_config, methods=METHODS):
    """Draw a valid configuration, every knob at random."""
    changes = {
        key: draw.draw(values, label=key) for key, values in knob_values.items() if not key.startswith(UNREAD)
    }
    method = draw.draw(st.sampled_from(methods))
    depths = {"from_scratch": (0, 0), "linear_probe": (5, 5), "fine_tune": (0, 5), "random_features": (1, 5)}
    changes |= {
        "transfer.method": method,
        "transfer.freeze_depth": draw.draw(st.integers(*depths[method])),
        "optim.nesterov": False,
        "data.val_size": 0.2,
        "data.labels_per_class": draw.draw(st.none() | st.integers(1, 50)),
        "data.val_labels_per_class": None,
        "data.label_fraction": None,
        "data.fold": draw.draw(st.integers(0, 1)),
        "data.folds": 2,
        "data.split_file": None,
        "data.table": "table.csv" if changes["data.name"] == "table" else None,
        "data.std": [0.5],
        "trainer.accumulate": 1,
        "trainer.accelerator": "auto",
    }
    if method not in PRETRAINED:
        changes["head.init"] = "new"
    if changes["augment.name"] == "none":
        changes["augment.views"] = None
    if changes["data.balance"] != "none":
        changes["loss.class_weights"] = None
    config = build_config(changes)
    assume(not validate(config))
    return config


@given(ARMS)
def test_text_goes_there_and_back(arm):
    assert Arm.parse(arm.text) == arm


@given(ARMS, ARMS)
def test_different_arms_have_different_texts(one, other):
    assert (one.text == other.text) == (one == other)


@given(arm=ARMS)
def test_every_arm_has_a_short_name(arm):
    assert arm.backbone in arm.label
    assert ("frozen to" in arm.label) == (
        arm.method in ("fine_tune", "random_features") and arm.freeze_depth > 0
    )


@pytest.mark.parametrize("text", ["", "backbone=small_cnn", "colour=red", "word"])
def test_another_text_is_no_arm(text):
    with pytest.raises(ValueError, match=r"expected the words|dictionary update"):
        Arm.parse(text)


@given(draw=st.data())
def test_the_twin_of_a_run_has_the_twin_of_its_arm(draw, knob_values, build_config):
    config = draw_config(draw, knob_values, build_config, PRETRAINED)
    twin = make_twin(config)
    assert validate(twin) == []
    run, scratch = specify(config, facts_of(config)), specify(twin, facts_of(twin))
    assert scratch.arm == run.arm.twin
    assert scratch.arm.twin == scratch.arm
    assert scratch.arm.from_scratch
    assert (scratch.seed, scratch.labels, scratch.condition) == (run.seed, run.labels, run.condition)
    assert make_twin(twin) is None


@given(draw=st.data())
def test_all_arms_that_differ_in_the_transfer_alone_share_a_twin(draw, knob_values, build_config):
    config = draw_config(draw, knob_values, build_config, ("fine_tune",))
    other = build_config()
    for name in ("data", "backbone", "head", "loss", "optim", "augment", "trainer", "metric", "seed"):
        other = type(other)(**(vars(other) | {name: getattr(config, name)}))
    changed = type(other.transfer)(method="fine_tune", freeze_depth=draw.draw(st.integers(0, 5)))
    rate = draw.draw(st.floats(0, 1))
    optim = type(other.optim)(**(vars(other.optim) | {"backbone_lr_multiplier": rate}))
    other = type(other)(**(vars(other) | {"transfer": changed, "optim": optim}))
    twins = [make_twin(one) for one in (config, other)]
    assert len({specify(twin, facts_of(twin)).key for twin in twins}) == 1


@pytest.mark.parametrize("method", ["from_scratch", "random_features"])
def test_what_uses_no_weights_has_no_twin(method, build_config):
    assert make_twin(build_config({"transfer.method": method})) is None


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_head_from_the_weights_is_new_in_the_twin(head, build_config):
    changes = {"transfer.method": "fine_tune", "backbone.weights": "w", "head.init": "from_weights"}
    config = build_config(changes | {"head.name": head})
    arm = specify(config, facts_of(config)).arm
    assert "init=from_weights" in arm.head
    assert "init" not in arm.twin.head


# Most random combinations of knobs are impossible ones, and left out.
@settings(suppress_health_check=[HealthCheck.filter_too_much])
@given(draw=st.data(), grid=st.booleans())
def test_one_spelling_is_its_own_spelling(draw, grid, knob_values, build_config):
    config = draw_config(draw, knob_values, build_config)
    once = normalise(config, grid=grid)
    assert normalise(once, grid=grid) == once
    assert validate(once) == []


@given(
    method=st.sampled_from(METHODS), depth=st.integers(0, 5), init=st.sampled_from(["new", "from_weights"])
)
def test_in_a_grid_every_method_goes_with_every_depth(method, depth, init, build_config):
    cell = build_config(
        {
            "transfer.method": method,
            "transfer.freeze_depth": depth,
            "backbone.weights": "w",
            "head.init": init if method != "random_features" else "new",
        }
    )
    assert validate(normalise(cell, grid=True)) == []


@pytest.mark.parametrize("depth", [-1, 6])
def test_a_depth_out_of_range_is_left_for_validation_to_name(depth, build_config):
    cell = build_config({"transfer.freeze_depth": depth})
    assert normalise(cell, grid=True) == cell
