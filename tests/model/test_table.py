"""The table of stages agrees with what is known of the networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torchvision

from graft.config import torchvision_names as generated
from graft.config.names import OWN_BACKBONES
from graft.model.table import format_models, format_names, main, smallest_of_families, stage_table

ROOT = Path(__file__).parents[2]


def test_parameters_and_flops_agree_with_torchvision() -> None:
    """Torchvision publishes GFLOPs as multiply-adds, classifier included."""
    rows = list(stage_table(["resnet18"]))
    weights = torchvision.models.get_model_weights("resnet18").DEFAULT
    classifier = 512 * 1000
    assert sum(row.parameters for row in rows) == weights.meta["num_params"] - classifier - 1000
    published = weights.meta["_ops"] * 1e9
    assert sum(row.flops or 0 for row in rows) / 2 + classifier == pytest.approx(published, rel=0.01)
    assert [row.activation for row in rows] == [
        (64, 56, 56),
        (64, 56, 56),
        (128, 28, 28),
        (256, 14, 14),
        (512,),
    ]


def test_a_network_with_few_layers_has_empty_stages_at_its_end(capsys) -> None:
    main(["cnn2"])
    printed = capsys.readouterr().out
    assert printed.count("(empty)") == 2
    assert [row.is_empty for row in stage_table(["cnn2"])] == [False, False, False, True, True]


def test_what_torch_cannot_count_is_not_called_zero() -> None:
    assert [row.flops for row in stage_table(["row_lstm"])] == [None, None, 0, 0, 0]


def test_the_generated_names_are_current() -> None:
    assert Path(generated.__file__).read_text() == format_names() + "\n"


def test_the_generated_listing_of_models_is_current() -> None:
    listing = Path(generated.__file__).with_name("torchvision_models.json")
    assert listing.read_text() == format_models() + "\n"


def test_the_page_of_stages_shows_every_family(capsys) -> None:
    """Times differ from machine to machine; the rows of cheap networks are made again and compared."""
    page = (ROOT / "docs" / "stages.md").read_text()
    names = smallest_of_families()
    assert len(names) > 15
    for name in (*OWN_BACKBONES, *names):
        assert f"| `{name}` | " in page
    main(["small_cnn", "cnn2", "row_rnn", "row_gru", "resnet18", "vgg11", "squeezenet1_1"])
    rows = capsys.readouterr().out.splitlines()[2:]
    assert len(rows) == 7 * 5
    assert not [row for row in rows if row not in page.splitlines()]


def test_a_family_is_shown_by_its_smallest_member() -> None:
    names = smallest_of_families()
    assert {"resnet18", "vgg11", "vit_b_16", "swin_t", "regnet_y_400mf"} <= set(names)
    assert not {"resnet34", "vgg16", "swin_s", "regnet_x_400mf"} & set(names)
