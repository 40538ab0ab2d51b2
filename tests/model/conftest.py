from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest
import torch

from graft.config.schema import Config
from graft.model.classifier import Classifier, build_classifier

#: Side of the images at which a network is tried, where 32 px would not do.
SIDES = {"alexnet": 63, "inception_v3": 75, "maxvit_t": 224, "vit_b_16": 32, "vit_b_32": 64, "vit_h_14": 28}
SIDES |= {"vit_l_32": 64, "vit_l_16": 32}

Builder = Callable[..., Classifier]


@pytest.fixture(autouse=True)
def freed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Free a large network, whose reference cycles would keep its gigabytes through the tests that follow."""
    yield
    if request.node.get_closest_marker("full"):
        gc.collect()


@pytest.fixture
def side_of() -> Callable[[str], int]:
    return lambda name: SIDES.get(name, 32)


@pytest.fixture(scope="session")
def built() -> Builder:
    """Build a classifier once per session and backbone; every test leaves it as freeze depth 0 gives it."""
    known: dict[str, Classifier] = {}

    def build(name: str) -> Classifier:
        if name not in known:
            torch.manual_seed(0)
            known[name] = make_classifier(name)
        return known[name]

    return build


@pytest.fixture
def make() -> Builder:
    """Build a classifier for one test alone."""
    return make_classifier


def make_classifier(name: str, depth: int = 0) -> Classifier:
    config = Config()
    config.backbone.name = name
    config.transfer.method = "fine_tune"
    config.transfer.freeze_depth = depth
    classifier, _ = build_classifier(
        config, num_classes=4, channels=3, image_size=SIDES.get(name, 32), weights=None
    )
    return classifier
