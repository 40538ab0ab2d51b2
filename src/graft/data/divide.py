"""The split that a configuration asks for: made, or replayed from an old run."""

from __future__ import annotations

from pathlib import Path

from graft.config.schema import DataConfig
from graft.data.image_set import ImageSet
from graft.data.replay import replay_split
from graft.data.splits import Split, make_split


def divide_images(images: ImageSet, config: DataConfig, seed: int) -> Split:
    """Divide a set into training, validation and test, as ``config`` says.

    Args:
        images: The set.
        config: The `data` group.
        seed: Draws the labelled images of a run.

    Raises:
        GraftError: The sizes do not fit the set, or the file to replay does not.
    """
    if config.split_file is not None:
        return replay_split(Path(config.split_file).expanduser(), images.labels, images.digest)
    return make_split(
        images.labels,
        images.official,
        groups=images.groups,
        split_seed=config.split_seed,
        seed=seed,
        test_size=config.test_size,
        val_size=config.val_size,
        labels_per_class=config.labels_per_class,
        val_labels_per_class=config.val_labels_per_class,
        label_fraction=config.label_fraction,
        folds=config.folds,
        fold=config.fold,
        fold_repeat=config.fold_repeat,
        class_names=images.class_names,
    )
