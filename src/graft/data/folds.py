"""k-fold cross-validation: which images are held out, stratified, and by whole groups where there are any."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graft.data.groups import Groups, assign_groups
from graft.data.image_set import Int64Array
from graft.errors import GraftError


def assign_folds(
    labels: Int64Array,
    groups: Groups | None,
    members: Int64Array,
    folds: int,
    seeds: Sequence[int],
    class_names: Sequence[str],
) -> Int64Array:
    """Give each image its fold.

    Without groups the sizes of two folds differ by at most one image, and so do those of each class.

    Args:
        labels: Class of each image, ``(N,)``.
        groups: Group of each image, ``(N,)``, or ``None``.
        members: The images to divide, ``(n,)``.
        folds: How many.
        seeds: Seeds of the draw.
        class_names: Names of the classes, for messages.

    Returns:
        The fold of each member, ``(n,)``, 0 to ``folds - 1``.

    Raises:
        GraftError: A class has fewer images, or groups, than there are folds.
    """
    rng = np.random.default_rng(list(seeds))
    units = members if groups is None else np.unique(groups[members], return_inverse=True)[1]
    for label, name in enumerate(class_names):
        available = len(np.unique(units[labels[members] == label]))
        if available < folds:
            kind = "images" if groups is None else "groups"
            raise GraftError(
                f"Expected `data.folds` of at most {available}, but got {folds}: class {name!r} has "
                f"{available} {kind} to divide, and each fold needs one."
            )
    if groups is not None:
        return assign_groups(labels, groups, members, [1 / folds] * folds, rng)  # fills empty folds first
    # Dealt out like cards, class after class: no fold is more than one card ahead.
    dealt = rng.permutation(len(members))
    dealt = dealt[np.argsort(labels[members][dealt], kind="stable")]
    assigned = np.empty(len(members), dtype=np.int64)
    assigned[dealt] = np.arange(len(members)) % folds
    return assigned
