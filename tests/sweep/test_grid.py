"""The quick way to compose a grid gives what Hydra's own composition gives."""

from __future__ import annotations

import itertools

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from graft.config.load import conf_folder, register_schema, to_config
from graft.errors import GraftError
from graft.sweep.grid import compose_cells
from graft.sweep.nodes import register_plugins


@pytest.fixture(scope="module")
def hydra_side():
    """Hydra's loader, and a function that makes the configuration of a sweep as a whole."""
    register_schema()
    register_plugins()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()

        def master(*words):
            return loader.load_configuration("train", list(words), RunMode.MULTIRUN)

        yield loader, master


def compose(hydra_side, *words):
    loader, master = hydra_side
    return compose_cells(loader, master(*words), words)


def compose_by_hydra(hydra_side, *words):
    """Compose every cell with Hydra alone."""
    loader, master = hydra_side
    axes = []
    for override in OverridesParser.create(config_loader=loader).parse_overrides(list(words)):
        key = override.get_key_element()
        values = override.sweep_string_iterator() if override.is_sweep_override() else None
        axes.append([f"{key}={value}" for value in values] if values else [override.input_line])
    whole = master(*words)
    return [to_config(loader.load_sweep_config(whole, list(cell))) for cell in itertools.product(*axes)]


AXES = {
    "backbone": ["backbone=small_cnn,resnet18", "backbone=resnet18"],
    "transfer": ["transfer=from_scratch,fine_tune", "transfer=linear_probe", "transfer=glob(*)"],
    "optim": ["optim=sgd,adamw", "optim=glob(ad*)"],
    "trainer": ["trainer=smoke"],
    "depth": ["transfer.freeze_depth=range(0,6,2)", "transfer.freeze_depth=3,5"],
    "lr": ["optim.lr=1e-3,1", "optim.lr=${optim.weight_decay}", "optim.lr=choice(0.1,${optim.momentum})"],
    "decay": ["optim.weight_decay=0.5,0.25"],
    "weights": [
        "backbone.weights=glyphs-${backbone.name}",
        "backbone.weights='a,b'",
        "backbone.weights=none,x",
    ],
    "name": ["backbone.name=cnn2,row_gru"],
    "hidden": ["head.hidden=[1,2],[3]", "head.hidden=[]"],
    "labels": ["data.labels_per_class=2,null", "data.labels_per_class=5"],
    "mean": ["data.mean=[0.1],null"],
    "seed": ["seed=range(2)", "seed=shuffle(3)"],
    "experiment": ["experiment=digits_transfer"],
    "smoothing": ["++loss.label_smoothing=0.1,0.2"],
    "nesterov": ["optim.nesterov=true,false"],
}


@settings(
    max_examples=12, phases=[Phase.generate]
)  # composing is slow, and shrinking composes again and again
@given(st.data())
def test_cells_are_what_hydra_composes(hydra_side, draw):
    chosen = draw.draw(st.lists(st.sampled_from(sorted(AXES)), min_size=1, max_size=3, unique=True))
    words = [draw.draw(st.sampled_from(AXES[name])) for name in chosen]
    cells = compose(hydra_side, *words)
    assert [cell.config for cell in cells] == compose_by_hydra(hydra_side, *words)


@pytest.mark.parametrize(
    "words",
    [
        ["backbone=small_cnn,resnet18", "backbone.weights=glyphs-${backbone.name}", "seed=0,1"],
        ["experiment=depth_rate_backbone", "backbone=small_cnn,resnet18"],
        ["experiment=depth_rate_backbone", "backbone.name=small_cnn,resnet18"],
        ["optim.lr=${optim.weight_decay}", "optim.weight_decay=0.5,0.25"],
        ["tracking.experiment=run-${seed}", "seed=0,1"],
    ],
)
def test_what_follows_from_an_axis_follows_in_every_cell(words, hydra_side):
    assert [cell.config for cell in compose(hydra_side, *words)] == compose_by_hydra(hydra_side, *words)


def test_a_thousand_cells_are_all_there(hydra_side):
    words = ["transfer=fine_tune,linear_probe", "optim.lr=range(1,11)", "seed=range(50)"]
    cells = compose(hydra_side, *words)
    points = [(cell.config.transfer.method, cell.config.optim.lr, cell.config.seed) for cell in cells]
    assert points == list(
        itertools.product(("fine_tune", "linear_probe"), map(float, range(1, 11)), range(50))
    )
    assert cells[-1].overrides == ("transfer=linear_probe", "optim.lr=10", "seed=49")


def test_of_two_for_the_same_key_the_later_counts(hydra_side):
    assert [cell.config.seed for cell in compose(hydra_side, "seed=range(9)", "seed=3,4")] == [3, 4]


def test_without_an_axis_there_is_one_cell(hydra_side):
    (cell,) = compose(hydra_side, "seed=7")
    assert cell.config.seed == 7
    (cell,) = compose(hydra_side)
    assert cell.overrides == ()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("optim.lr=1,abc", "Expected `optim.lr` to be a number, but got 'abc'."),
        ("seed=0.5,1", "Expected `seed` to be a whole number, but got '0.5'."),
        ("optim.lr=1,null", "Expected `optim.lr` to be a number, but got null."),
        ("optim.lrr=1,2", "There is no knob `optim.lrr`. The nearest are: `optim.lr`"),
        ("colour.red=1,2", "There is no knob `colour"),
        ("seed.deep=1,2", "There is no knob `seed.deep`"),
        ("+new.key=1,2", "There is no knob `new"),
        ("optim.lr=interval(0,1)", "Expected choices, a range or a glob for `optim.lr`"),
        ("seed=range(0)", "Expected at least one value for `seed`, but 'seed=range(0)' gives none."),
        (
            "transfer=glob(zzz*)",
            "Expected at least one value for `transfer`, but 'transfer=glob(zzz*)' gives none.",
        ),
    ],
)
def test_a_wrong_axis_is_named(word, said, hydra_side):
    with pytest.raises(GraftError) as raised:
        compose(hydra_side, word)
    assert said in str(raised.value)
