"""The closed lists of names that a configuration may use, free of heavy imports.

Builders live in the rooms to the right; a test there asserts that each registry has exactly these names. The
torchvision part is generated (`graft.config.torchvision_names`) and pinned by a test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from graft.config.torchvision_names import TORCHVISION_BACKBONES

#: Data sets that torchvision reads and, when asked, downloads.
TORCHVISION_DATA_SETS = (
    "cifar10", "cifar100", "fashion_mnist", "svhn", "stl10", "flowers102", "oxford_pets", "dtd", "food101",
    "eurosat",
)  # fmt: skip
DATA_SETS = ("digits", "folder", "glyphs", "table", *TORCHVISION_DATA_SETS)
#: A user's own images: checked before they are used.
CHECKED_DATA_SETS = ("folder", "table")
OWN_BACKBONES = ("small_cnn", "cnn2", "row_rnn", "row_lstm", "row_gru")
BACKBONES = OWN_BACKBONES + TORCHVISION_BACKBONES
HEADS = ("linear", "mlp", "cosine", "pretrained_classifier", "ridge")
METHODS = ("from_scratch", "linear_probe", "fine_tune", "random_features")
#: Methods that start from pretrained weights.
PRETRAINED = ("linear_probe", "fine_tune")
LOSSES = ("cross_entropy", "binary_cross_entropy", "mean_squared_error", "focal")
AUGMENTATIONS = ("none", "flip_crop", "shear_zoom_flip", "trivial", "randaugment")
#: What `data.balance` may be; those that weigh the loss, and the one that draws classes equally often.
BALANCES = ("none", "class_weights", "effective_number", "sampler")

#: Recurrent backbones, the only ones that read `backbone.hidden_size` and `backbone.layers`.
ROW_BACKBONES = ("row_rnn", "row_lstm", "row_gru")

#: Freeze depth at which only the head trains: the number of stages.
STAGES = 5


@dataclass(frozen=True)
class Metric:
    """What a number means: its unit and which way is better."""

    name: str
    unit: str
    higher_is_better: bool

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest value that there can be."""
        return (0.0, 1.0) if self.unit == "fraction" else (0.0, math.inf)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "fraction", True),
        Metric("balanced_accuracy", "fraction", True),
        Metric("macro_precision", "fraction", True),
        Metric("macro_recall", "fraction", True),
        Metric("macro_f1", "fraction", True),
        Metric("top5_accuracy", "fraction", True),
        Metric("auroc", "fraction", True),
        Metric("average_precision", "fraction", True),
        Metric("calibration_error", "fraction", False),
        Metric("nll", "nats", False),
        Metric("loss", "nats", False),
    )
}

#: What `metric` may be beside the names: accuracy, or balanced accuracy where classes differ much in size.
AUTO_METRIC = "auto"

#: Classes above which five guesses say something.
TOP = 5


def entry_point_backbones() -> tuple[str, ...]:
    """Return the names of backbones that installed packages add through the group ``graft.backbones``."""
    from importlib.metadata import entry_points

    return tuple(sorted(point.name for point in entry_points(group="graft.backbones")))
