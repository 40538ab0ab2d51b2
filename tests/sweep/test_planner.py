"""A plan has every run once, its twins, and knows what is done."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from graft.errors import GraftError
from graft.plan.arms import make_twin
from graft.plan.replicates import Replicate
from graft.plan.spec import Facts, specify
from graft.sweep.grid import Cell
from graft.sweep.planner import gather_once, make_plan


def facts_of(config):
    loaded = config.transfer.method in ("fine_tune", "linear_probe")
    return Facts(
        data_digest=config.data.name,
        official_splits=(),
        weights_sha256="a" * 64 if loaded else None,
        weights_name="glyphs" if loaded else "none",
        preprocessing={"size": 16},
        precision="32",
    )


@pytest.fixture(scope="module")
def grid(build_config):
    """Cells of a grid from lists of values by knob."""

    def make(**axes):
        axes = {"backbone.weights": ["glyphs"]} | {
            key.replace("__", "."): values for key, values in axes.items()
        }
        points = itertools.product(*axes.values())
        return [Cell(build_config(dict(zip(axes, point, strict=True))), ()) for point in points]

    return make


def test_each_transfer_arm_gets_its_twin_once(grid):
    cells = grid(
        transfer__method=["fine_tune"], transfer__freeze_depth=[0, 3, 5], optim__lr=[0.1, 0.2], seed=[0, 1]
    )
    plan = make_plan(cells, facts_of, ())
    assert (len(plan.specs), plan.twins, plan.merged) == (12 + 4, 4, 0)
    assert {spec.arm.method for spec in plan.specs} == {"fine_tune", "linear_probe", "from_scratch"}
    keys = {spec.key for spec in plan.specs}
    for cell in cells:
        twin = make_twin(cell.config)
        assert specify(twin, facts_of(twin)).key in keys


def test_twins_can_be_left_out(grid):
    cells = grid(transfer__method=["fine_tune"], sweep__twin=["off"], seed=[0, 1])
    plan = make_plan(cells, facts_of, ())
    assert (len(plan.specs), plan.twins) == (2, 0)


def test_a_twin_that_was_asked_for_is_not_added(grid):
    plan = make_plan(grid(transfer__method=["fine_tune", "from_scratch"], seed=[0, 1]), facts_of, ())
    assert (len(plan.specs), plan.twins, plan.merged) == (4, 0, 0)


def test_the_depth_axis_does_not_multiply_from_scratch_and_the_plan_says_so(grid):
    cells = grid(transfer__method=["from_scratch", "fine_tune"], transfer__freeze_depth=[0, 2, 4])
    plan = make_plan(cells, facts_of, ())
    assert (len(plan.specs), plan.twins, plan.merged) == (4, 0, 2)


def test_the_linear_probe_has_one_depth(grid):
    plan = make_plan(grid(transfer__method=["linear_probe"], transfer__freeze_depth=[0, 2, 5]), facts_of, ())
    assert (len(plan.specs), plan.twins, plan.merged) == (2, 1, 2)


def test_a_ridge_probe_is_planned_once_and_its_twin_at_every_rate(grid):
    plan = make_plan(
        grid(
            transfer__method=["linear_probe", "from_scratch"], transfer__freeze_depth=[5],
            head__name=["linear", "ridge"], optim__lr=[0.1, 0.2], data__batch_size=[16, 32],
        ),
        facts_of,
        (),
    )  # fmt: skip
    counts = Counter(spec.arm.label.partition(" ·")[0] for spec in plan.specs)
    assert counts == {"linear probe": 4, "ridge probe": 1, "from scratch": 4}
    assert {spec.arm.head for spec in plan.specs if spec.arm.from_scratch} == {"linear"}
    alone = make_plan(grid(transfer__method=["linear_probe"], head__name=["ridge"], optim__lr=[0.1, 0.2],
                           transfer__freeze_depth=[5]), facts_of, ())  # fmt: skip
    assert (len(alone.specs), alone.twins, alone.merged) == (3, 2, 1)


def test_a_node_does_not_multiply_what_has_no_use_of_it(grid):
    cells = grid(
        transfer__method=["from_scratch", "linear_probe", "fine_tune"],
        transfer__freeze_until=["a", "b", "c"],
    )
    plan = make_plan(cells, facts_of, ())
    assert (len(plan.specs), plan.twins, plan.merged) == (5, 0, 4)


def test_controls_have_no_twin(grid):
    plan = make_plan(grid(transfer__method=["random_features"], transfer__freeze_depth=[1, 5]), facts_of, ())
    assert (len(plan.specs), plan.twins) == (2, 0)


AXES = {
    "transfer__method": ["from_scratch", "linear_probe", "fine_tune", "random_features"],
    "transfer__freeze_depth": [0, 2, 5],
    "optim__momentum": [0.8, 0.9],
    "data__labels_per_class": [None, 2],
    "seed": [2, 0, 1],
    "sweep__twin": ["auto", "off"],
}


@settings(max_examples=25, phases=[Phase.generate])
@given(st.data())
def test_a_plan_adds_up(grid, draw):
    axes = {
        key: draw.draw(st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True))
        for key, values in AXES.items()
    }
    cells = grid(optim__lr=[0.1, 0.2], **axes)
    plan = make_plan(cells, facts_of, ())
    keys = [spec.key for spec in plan.specs]
    assert len(keys) == len(set(keys)) == len(cells) - plan.merged + plan.twins
    assert [spec.seed for spec in plan.specs] == sorted(spec.seed for spec in plan.specs)
    assert plan.missing == list(plan.specs)

    done = draw.draw(st.sets(st.sampled_from(keys)))
    again = make_plan(cells, facts_of, done | {"of another sweep"})
    assert again.specs == plan.specs
    assert again.done == done
    assert {spec.key for spec in again.missing} == set(keys) - done


def test_a_single_cell_is_held_to_what_a_single_run_is_held_to(grid):
    with pytest.raises(GraftError, match="that control is `transfer=random_features`"):
        make_plan(grid(transfer__method=["from_scratch"], transfer__freeze_depth=[3]), facts_of, ())


def test_complaints_of_all_cells_come_together_and_are_counted(grid):
    def never(config):
        pytest.fail("facts were read for a grid that cannot run")

    with pytest.raises(GraftError) as raised:
        make_plan(grid(optim__lr=[math.nan, 0.1, -1.0], seed=[0, -1]), never, ())
    lines = str(raised.value).splitlines()
    assert lines[0] == "The sweep cannot run as it is:"
    assert set(lines[1:]) == {
        "  - Expected `optim.lr` to be a finite number, but got nan. (2 of 6 runs)",
        "  - Expected `optim.lr` between 0 and 100, but got -1. (2 of 6 runs)",
        "  - Expected `seed` between 0 and 4294967295, but got -1. (3 of 6 runs)",
    }


def test_a_depth_out_of_range_is_named_in_a_grid_too(grid):
    with pytest.raises(GraftError, match="between 0 and 5, but got 7"):
        make_plan(grid(transfer__freeze_depth=[0, 7]), facts_of, ())


def test_an_empty_grid_is_refused():
    with pytest.raises(GraftError, match="at least one run, but it is empty"):
        make_plan([], facts_of, ())


def test_whole_replicates_come_first(grid):
    cells = grid(transfer__method=["fine_tune"], data__folds=[3], data__fold=[1, 0, 2], seed=[1, 0])
    plan = make_plan(cells, facts_of, ())
    order = [spec.replicate for spec in plan.specs]
    assert order == sorted(order)
    assert order[:4] == [Replicate(0, 0, 0)] * 2 + [Replicate(0, 0, 1)] * 2


@given(draw=st.data())
@settings(max_examples=60)
def test_what_is_gathered_once_is_what_would_be_gathered_for_each(draw, knobs, knob_values, build_config):
    """Facts of two runs may be shared only when no knob that facts read differs: real facts of the digits."""
    from graft.run import gather_facts

    read = ["data.image_size", "metric", "backbone.name", "trainer.devices", "trainer.precision"]
    unread = ["seed", "optim.lr", "data.labels_per_class", "optim.name", "data.fold"]
    values = {"data.image_size": [16, 32], "metric": ["auto", "macro_f1"], "trainer.devices": [1, 2]}
    values |= {"backbone.name": ["small_cnn", "cnn2"], "trainer.precision": ["32", "bf16-mixed"]}
    calls = []

    def gather(config):
        calls.append(config)
        return gather_facts(config)

    once = gather_once(gather)
    for _ in range(4):
        changes = {key: draw.draw(st.sampled_from(values[key])) for key in read}
        changes |= {key: draw.draw(knob_values[key]) for key in unread}
        config = build_config(changes)
        assert once(config) == gather_facts(config)
    before = len(calls)
    once(build_config(changes | {"seed": 12345, "optim.lr": 0.5}))
    assert len(calls) == before
