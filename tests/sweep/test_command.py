"""The command that is printed for a run gives exactly this run."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.config.load import conf_folder, register_schema, to_config
from graft.config.running import SweepConfig
from graft.config.schema import Config
from graft.plan.spec import Facts, specify
from graft.sweep.command import describe_overrides, reproduce
from graft.sweep.nodes import register_plugins

FACTS = Facts("d", (), "a" * 64, "glyphs", {"size": 16}, "32")
#: Text that a shell, Hydra's grammar, YAML or OmegaConf would each take for something else.
AWKWARD = ["null", "true", "1e3", "012", "a b", "it's", 'say "x"', "a,b", "[x]", "{x: 1}", "${seed}",
           "\\${seed}",
           "back\\slash", "ends\\", "\\'", "ümlaut/æ", "key=value", "#no", "~/x", "$(x)", "a:b", "-x", "inf",
           "/abs/path-1.2", "NaN", " lead", "%d", "(x)", "*", "a@b", "''"]  # fmt: skip


@pytest.fixture(scope="module")
def composed() -> Any:
    """Compose ``graft train`` with overrides, as Hydra does it."""
    register_schema()
    register_plugins()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        yield lambda overrides: to_config(compose("train", overrides=overrides))


def test_what_is_usual_needs_no_words(composed: Callable[[list[str]], Config]) -> None:
    assert describe_overrides(composed([])) == []


@pytest.mark.parametrize("text", AWKWARD)
def test_text_comes_back_as_it_was(
    text: str, composed: Callable[[list[str]], Config], build_config: Callable[..., Config]
) -> None:
    config = build_config({"data.root": text, "tracking.experiment": text})
    again = composed(describe_overrides(config))
    assert (again.data.root, again.tracking.experiment) == (text, text)


@pytest.fixture(scope="module")
def configs(knob_values: dict[str, st.SearchStrategy[Any]], build_config: Callable[..., Config]) -> Any:
    """Configurations with some knobs at any allowed value, null where that is allowed."""
    keys = st.lists(st.sampled_from(sorted(knob_values)), max_size=12, unique=True)
    return keys.flatmap(lambda chosen: st.fixed_dictionaries({key: knob_values[key] for key in chosen})).map(
        build_config
    )


def check(config: Config, composed: Callable[[list[str]], Config]) -> None:
    assert composed(describe_overrides(config)) == config
    words = shlex.split(reproduce(config))
    assert words[:2] == ["graft", "train"]
    again = composed(words[2:])
    assert again == replace(config, sweep=SweepConfig())
    assert specify(again, FACTS).key == specify(config, FACTS).key


def test_composing_the_words_gives_the_same_run(
    configs: st.SearchStrategy[Config], composed: Callable[[list[str]], Config]
) -> None:
    @settings(max_examples=12)
    @given(configs)
    def holds(config: Config) -> None:
        check(config, composed)

    holds()


@pytest.mark.full
def test_composing_the_words_gives_the_same_run_for_many(
    configs: st.SearchStrategy[Config], composed: Callable[[list[str]], Config]
) -> None:
    @settings(max_examples=500)
    @given(configs)
    def holds(config: Config) -> None:
        check(config, composed)

    holds()
