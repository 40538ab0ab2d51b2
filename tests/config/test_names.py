"""The closed lists agree with the schema and with each other."""

from __future__ import annotations

from graft.config import names
from graft.config.load import conf_folder


def test_methods_are_the_schema_s_choices(knobs):
    assert knobs["transfer.method"][1]["choices"] == names.METHODS
    assert set(names.PRETRAINED) < set(names.METHODS)


def test_names_are_unique():
    for known in (names.DATA_SETS, names.BACKBONES, names.HEADS, names.LOSSES, names.AUGMENTATIONS):
        assert len(set(known)) == len(known)
    assert set(names.ROW_BACKBONES) <= set(names.OWN_BACKBONES)


def test_every_knob_says_what_it_means(knobs):
    for key, (_, metadata) in knobs.items():
        assert len(metadata["meaning"]) > 5, key


def test_every_transfer_method_has_its_file():
    assert {path.stem for path in (conf_folder() / "transfer").glob("*.yaml")} == set(names.METHODS)
