"""From composed configuration to typed one and back; what Hydra refuses is said in graft's words."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from graft.config.load import (
    check_choices,
    conf_folder,
    explain,
    flatten,
    known_keys,
    read_config,
    read_question,
    register_schema,
    to_config,
    to_plain,
    write_config,
)
from graft.config.validate import validate
from graft.errors import GraftError
from graft.sweep.nodes import register_plugins


@pytest.fixture(scope="module")
def compose_words():
    register_schema()
    register_plugins()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        yield lambda *words: compose("train", overrides=list(words))


def say(compose_words, *words):
    """Return what a person reads who typed ``words``."""
    try:
        check_choices(words)
        to_config(compose_words(*words))
    except GraftError as error:
        return str(error)
    except (HydraException, OmegaConfBaseException) as error:
        return explain(error)
    return pytest.fail("nothing was refused")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optim.lr=abc"], "Expected `optim.lr` to be a number, but got 'abc'."),
        (["optim.lr="], "Expected `optim.lr` to be a number, but got ''."),
        (["optim.lr=null"], "Expected `optim.lr` to be a number, but got null."),
        (["optim.lr=true"], "Expected `optim.lr` to be a number, but got 'True'."),
        (["seed=1.5"], "Expected `seed` to be a whole number, but got '1.5'."),
        (["data.image_size=big"], "Expected `data.image_size` to be a whole number, or null, but got 'big'."),
        (["optim.nesterov=maybe"], "Expected `optim.nesterov` to be true or false, but got 'maybe'."),
        (["head.hidden=3"], "Expected `head.hidden` to be a list like [256,64], but got a single value."),
        (["data.root=[a,b]"], "Expected `data.root` to be text, or null, but got a list."),
        (["optim.lrr=1"], "There is no knob `optim.lrr`. The nearest are: `optim.lr`, `optim.l1`,"),
        (["optm.lr=1"], "There is no knob `optm`. The nearest are: `optim`,"),
        (["sed=1"], "There is no knob `sed`. The nearest are: `seed`,"),
        (["+new.key=1"], "There is no knob `new`"),
        (["+optim.momentun=0.5"], "There is no knob `optim.momentun`. The nearest are: `optim.momentum`,"),
        (["transfer=linearprobe"], "Expected `transfer` to be one of: linear_probe,"),
        (["transfer=linearprobe"], "but got 'linearprobe'. Did you mean 'linear_probe'?"),
        (["backbone=resnet81"], "Expected `backbone` to be one of: resnet18,"),
        (["experiment=digits_transfr"], "Did you mean 'digits_transfer'?"),
        (["optim=3"], "Expected `optim` to be one of: adam, adamw, sgd; but got '3'."),
        (["optim=true"], "Expected `optim` to be one of:"),
        (["data=digits", "data=glyphs"], "Expected one choice for `data`, but got two: 'digits' and"),
        (["data=digits", "data=glyphs"], "To sweep over both: -m data=digits,glyphs"),
        (["+transfer=linear_probe"], "Change it without the plus: transfer=<choice>."),
        (["seed=0,1"], "Expected one value for `seed` in a single run, but got '0,1'. To sweep over"),
        (["seed"], "Expected an override like `optim.lr=1e-3`, but got 'seed'"),
        (["optim.lr=${optim.weight_decai}"], "`optim.lr`: Interpolation key 'optim.weight_decai' not found."),
    ],
)  # fmt: skip
def test_a_mistake_is_said_with_what_was_expected(words, said, compose_words):
    message = say(compose_words, *words)
    assert said in message
    assert "hydra.cc" not in message
    assert "Traceback" not in message


def test_what_is_left_open_is_left_for_validation(compose_words):
    assert to_config(compose_words("data=folder")).data.root in ("", None)


@pytest.mark.parametrize(
    ("written", "read"),
    [("1e-3", 1e-3), ("1E-3", 1e-3), ("1e3", 1000.0), (".5", 0.5), ("3", 3.0)],
)
def test_numbers_are_read_as_people_write_them(written, read, compose_words, tmp_path):
    assert to_config(compose_words(f"optim.lr={written}")).optim.lr == read
    (tmp_path / "rate.yaml").write_text(f"lr: {written}")
    assert OmegaConf.merge(OmegaConf.create({"lr": 0.0}), OmegaConf.load(tmp_path / "rate.yaml")).lr == read


def test_words_that_yaml_takes_for_truth_stay_wrong_names(compose_words):
    """``on`` and ``off`` become true and false in YAML; a name is never guessed from them."""
    (complaint,) = [text for text in validate(to_config({"sweep": {"twin": True}})) if "twin" in text]
    assert "Expected `sweep.twin` to be one of: auto, off; but got 'True'" in complaint
    assert to_config(compose_words("sweep.twin=off")).sweep.twin == "off"


def test_every_group_and_every_option_composes(compose_words):
    options = [
        f"{folder.name}={path.stem}"
        for folder in conf_folder().iterdir()
        if folder.is_dir() and folder.name != "experiment"
        for path in folder.glob("*.yaml")
    ]
    assert len(options) >= 20
    for option in options:
        to_config(compose_words(option))


def test_there_and_back(tmp_path, build_config):
    config = build_config({"optim.lr": 0.125, "head.hidden": [3, 4], "data.mean": [0.1]})
    write_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config
    assert to_config(to_plain(config)) == config


def test_flat_keys_are_the_known_ones(build_config):
    assert set(flatten(to_plain(build_config()))) == set(known_keys())


NESTED = st.recursive(
    st.integers(), lambda inner: st.dictionaries(st.text("ab", min_size=1), inner), max_leaves=5
)


@given(st.dictionaries(st.text("ab", min_size=1), NESTED))
def test_flattening_keeps_every_leaf(tree):
    def count(value):
        return sum(map(count, value.values())) if isinstance(value, dict) else 1

    assert len(flatten(tree)) == count(tree)


def test_the_question_of_an_experiment_is_read_from_its_header():
    assert read_question("digits_transfer").startswith("On real handwritten digits")
    assert read_question("digits_transfer").endswith("?")
    assert read_question("no_such_experiment") == ""
