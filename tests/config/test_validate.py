"""Every mistake in a configuration is named, and all of them together."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.config.schema import Config
from graft.config.validate import require_valid, validate
from graft.errors import GraftError

PROBE = {"transfer.method": "linear_probe", "transfer.freeze_depth": 5, "backbone.weights": "glyphs"}

RIDGE = PROBE | {"head.name": "ridge"}

#: What is wrong, and words that the one complaint must have.
MISTAKES = [
    ({"transfer.freeze_depth": 6}, "`transfer.freeze_depth` between 0 and 5, but got 6"),
    ({"transfer.freeze_depth": -1}, "`transfer.freeze_depth` between 0 and 5, but got -1"),
    ({"transfer.freeze_depth": 2}, "that control is `transfer=random_features`"),
    ({"transfer.method": "random_features"}, "between 1 and 5 with `transfer=random_features`, but got 0"),
    (PROBE | {"transfer.freeze_depth": 3}, "For another depth ask for `transfer=fine_tune`"),
    (PROBE | {"backbone.weights": "none"}, "Expected pretrained weights with `transfer=linear_probe`"),
    ({"head.init": "from_weights"}, "`head.init` new or zero with `transfer=from_scratch`"),
    ({"transfer.method": "finetune"}, "Did you mean 'fine_tune'?"),
    ({"optim.lr": math.nan}, "`optim.lr` to be a finite number, but got nan"),
    ({"optim.lr": math.inf}, "`optim.lr` to be a finite number, but got inf"),
    ({"optim.lr": -0.1}, "`optim.lr` between 0 and 100, but got -0.1"),
    ({"seed": -1}, "`seed` between 0 and 4294967295, but got -1"),
    ({"seed": 2**32}, "`seed` between 0 and 4294967295, but got 4294967296"),
    ({"data.batch_size": 0}, "`data.batch_size` at least 1, but got 0"),
    ({"head.hidden": [64, 0]}, "`head.hidden[1]` at least 1, but got 0"),
    ({"data.mean": [math.nan]}, "`data.mean[0]` to be a finite number"),
    ({"data.std": [0.5, 0.0]}, "`data.std` above 0 in every channel"),
    ({"backbone.name": "resnet81"}, "`backbone.name` to be one of: resnet18,"),
    ({"backbone.name": "Resnet18"}, "Did you mean 'resnet18'?"),
    ({"metric": "acuracy"}, "`metric` to be one of: accuracy,"),
    ({"data.name": "digit"}, "`data.name` to be one of: digits,"),
    ({"head.name": "lineer"}, "`head.name` to be one of: linear,"),
    ({"loss.name": "crossentropy"}, "`loss.name` to be one of: cross_entropy,"),
    ({"augment.name": "flip"}, "`augment.name` to be one of: flip_crop,"),
    ({"optim.name": "adamv"}, "`optim.name` to be one of: adam"),
    ({"backbone.name": ""}, "Expected a value for `backbone.name`"),
    ({"data.name": "folder"}, "`data.root=<folder>` with `data=folder`"),
    ({"data.val_labels_per_class": 2}, "`data.labels_per_class` beside `data.val_labels_per_class`"),
    (
        {"data.test_size": 3.5},
        "`data.test_size` to be a fraction below 1 or a whole number of images, but got 3.5",
    ),
    ({"data.val_size": 0.0}, "validation chooses the epoch and the trial"),
    ({"data.val_size": math.inf}, "`data.val_size` to be a finite number, but got inf"),
    ({"data.name": "table"}, "`data.table=<file>` with `data=table`"),
    ({"data.table": "mine.csv"}, "`data=table` with `data.table`, but got 'digits'"),
    ({"data.name": "cifar"}, "`data.name` to be one of: cifar10,"),
    ({"data.label_fraction": 0.0}, "`data.label_fraction` above 0"),
    ({"data.label_fraction": 1.5}, "`data.label_fraction` between 0 and 1, but got 1.5"),
    ({"data.label_fraction": 0.5, "data.labels_per_class": 2}, "Expected one label budget"),
    ({"data.folds": 1}, "`data.folds` at least 2, but got 1"),
    ({"data.folds": 5, "data.fold": 5}, "`data.fold` between 0 and 4 with `data.folds=5`, but got 5"),
    ({"data.fold": 1}, "`data.folds=<how many>` beside `data.fold`"),
    ({"data.fold_repeat": 1}, "`data.folds=<how many>` beside `data.fold`"),
    ({"data.split_file": "split.json", "data.folds": 5}, "but got `data.folds` beside it"),
    ({"optim.nesterov": True}, "`optim.name=sgd` and `optim.momentum` above 0 with `optim.nesterov=true`"),
    ({"optim.gradient_clip": 0.0}, "null for no clipping"),
    ({"reuse.dtype": "float16", "reuse.enabled": False}, "`reuse=on` with `reuse.dtype=float16`"),
    ({"reuse.dtype": "int8"}, "`reuse.dtype` to be one of"),
    ({"reuse.disk_gb": -1.0}, "`reuse.disk_gb` at least 0, but got -1"),
    ({"reuse.memory_gb": -0.5}, "`reuse.memory_gb` at least 0, but got -0.5"),
    ({"augment.views": 2}, "an augmentation with `augment.views=2`, but got `augment=none`"),
    ({"data.balance": "sampler", "loss.class_weights": [1.0, 2.0]}, "either `data.balance` or"),
    ({"data.balance": "weights"}, "`data.balance` to be one of: class_weights,"),
    ({"trainer.precision": "16-mixed", "trainer.accelerator": "cpu"}, "it would silently become bf16"),
    ({"trainer.precision": "16"}, "`trainer.precision` to be one of: 16-mixed"),
    ({"trainer.accumulate": 64}, "`trainer.accumulate` of at most `data.batch_size` (32), but got 64"),
    (RIDGE | {"head.strengths": []}, "at least one value in `head.strengths`"),
    (RIDGE | {"head.strengths": [1.0, 0.0]}, "`head.strengths[1]` between 1e-12 and 1e+12, but got 0"),
    (
        RIDGE | {"transfer.method": "fine_tune", "transfer.freeze_depth": 3},
        "`transfer=linear_probe` with `head=ridge`, which is solved on frozen features, but got fine_tune",
    ),
    ({"head.name": "ridge"}, "but got from_scratch with `transfer.freeze_depth=0`"),
    (RIDGE | {"head.init": "zero"}, "`head.init=new` with `head=ridge`"),
    (RIDGE | {"loss.name": "focal"}, "`loss.name=cross_entropy` without label smoothing"),
    (RIDGE | {"loss.label_smoothing": 0.1}, "but got cross_entropy with `loss.label_smoothing=0.1`"),
    (RIDGE | {"data.balance": "sampler"}, "Expected `data.balance=class_weights` with `head=ridge`"),
    (RIDGE | {"augment.name": "flip_crop"}, "it sees every image once"),
    (RIDGE | {"augment.mixup": 0.2}, "`augment=none` without mixup and cutmix"),
    (RIDGE | {"trainer.devices": 2}, "Expected one device with `head=ridge`"),
    (PROBE | {"transfer.freeze_until": "layer3"}, "`transfer=fine_tune` with `transfer.freeze_until=layer3`"),
    ({"transfer.freeze_until": "layer3"}, "but got 'from_scratch'"),
    ({"tracking.experiment": "../up"}, "`tracking.experiment` to be a plain name"),
    ({"bundle.name": "a/b"}, "`bundle.name` to be a plain name"),
]


@pytest.mark.parametrize(
    ("changes", "words"), MISTAKES, ids=lambda value: None if isinstance(value, str) else str(value)
)
def test_each_mistake_is_one_complaint_that_names_it(changes, words, build_config):
    (complaint,) = validate(build_config(changes))
    assert words in complaint
    with pytest.raises(GraftError) as raised:
        require_valid(build_config(changes))
    assert str(raised.value) == complaint


def test_all_complaints_come_together(build_config):
    wrong = {
        "optim.lr": math.nan,
        "seed": -1,
        "metric": "acuracy",
        "data.val_size": 0.0,
        "trainer.accumulate": 64,
    }
    with pytest.raises(GraftError) as raised:
        require_valid(build_config(wrong))
    lines = str(raised.value).splitlines()
    assert lines[0] == "The configuration has 5 mistakes:"
    assert [line.strip()[:2] for line in lines[1:]] == ["1.", "2.", "3.", "4.", "5."]
    assert all(any(f"`{key}`" in line for line in lines) for key in wrong)


def test_what_is_wrong_by_itself_is_not_complained_about_twice(build_config):
    assert len(validate(build_config(PROBE | {"transfer.freeze_depth": 6}))) == 1


def test_what_is_right_has_no_complaint(build_config):
    require_valid(build_config())
    require_valid(build_config(PROBE))
    require_valid(build_config({"optim.name": "sgd", "optim.nesterov": True}))
    require_valid(build_config({"transfer.method": "random_features", "transfer.freeze_depth": 2}))
    require_valid(build_config(RIDGE | {"data.balance": "class_weights"}))
    until = {"transfer.method": "fine_tune", "transfer.freeze_until": "layer3", "backbone.weights": "glyphs"}
    require_valid(build_config(until))


@settings(max_examples=300)
@given(draw=st.data())
def test_every_knob_is_held_to_its_range(draw, knobs, build_config):
    limits = ("low", "high", "choices")
    bounded = sorted(key for key, (_, metadata) in knobs.items() if any(map(metadata.get, limits)))
    knob = draw.draw(st.sampled_from(bounded))
    kind, metadata = knobs[knob]
    low, high, choices = metadata["low"], metadata["high"], metadata["choices"]
    wrong = [st.text("pqr", min_size=1)] if choices else []
    wrong += [st.sampled_from([math.nan, math.inf, -math.inf])] if "float" in str(kind) else []
    wrong += [st.integers(max_value=int(low) - 1)] if low is not None else []
    wrong += [st.integers(min_value=math.floor(high) + 1)] if high is not None else []
    value = draw.draw(st.one_of(wrong))
    value = [value] if "list" in str(kind) else value
    assert any(f"`{knob}" in complaint for complaint in validate(build_config({knob: value})))


@given(st.data())
def test_validation_never_raises(draw):
    """Whatever the values, as long as their types are right."""
    config = Config()
    numbers = st.floats(allow_nan=True, allow_infinity=True)
    config.data.test_size, config.data.val_size = draw.draw(numbers), draw.draw(numbers)
    config.optim.lr, config.optim.momentum = draw.draw(numbers), draw.draw(numbers)
    config.data.std = draw.draw(st.lists(numbers, max_size=3))
    config.transfer.freeze_depth = draw.draw(st.integers())
    config.data.name = draw.draw(st.text(max_size=5))
    assert all(isinstance(complaint, str) for complaint in validate(config))
