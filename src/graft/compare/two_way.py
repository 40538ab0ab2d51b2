"""Differences over seeds and test images: how sure one can be for new seeds and new test images together.

A paired difference is a table ``(S, N)``: what changed for each test image, seed by seed. Its mean varies
with the seeds (labelled images, initialisation, order of batches) and with the test images. Both are drawn
anew in the intervals made here, so they are never shorter than those over seeds alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

from graft.compare.statistics import NO_SPREAD, Coverage, Difference, Estimate

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Spread:
    """A mean paired difference, and what its variance is made of; the axes are seeds (or folds) and images.

    Attributes:
        mean: The mean difference.
        n: Number of seeds or folds.
        images: Number of test images, 0 where they are not drawn anew.
        seeds: Variance of the mean over seeds or folds, for new ones; NaN where it cannot be estimated.
        between: Variance of the mean over images, for new ones; 0 where they are not drawn anew.
        within: The part of each of the two that is neither the seed's nor the image's own.
        folds: Whether it is over folds, whose new ones bring new images.
    """

    mean: float
    n: int
    images: int
    seeds: float
    between: float = 0.0
    within: float = 0.0
    folds: bool = False

    @property
    def covers(self) -> Coverage:
        """What an interval is for."""
        return "folds" if self.folds else "seeds and images" if self.images else "seeds"

    @property
    def over_seeds(self) -> Spread:
        """The same difference on these test images alone."""
        seeds = self.seeds if self.seeds > NO_SPREAD**2 else math.nan
        return replace(self, images=0, seeds=seeds, between=0.0, within=0.0)

    @property
    def _variance(self) -> tuple[float, float]:
        """The variance of the mean for new seeds and images, and its degrees of freedom.

        Seeds or images closer together than the residual allows are a chance: no part is below it. Fewer
        degrees of freedom than the seeds have would only make up for that.
        """
        total = max(self.seeds + self.between - self.within, self.seeds, self.between)
        parts = (
            (self.seeds, self.n - 1),
            (self.between, self.images - 1),
            (self.within, (self.n - 1) * (self.images - 1)),
        )
        doubt = sum(variance**2 / degrees for variance, degrees in parts if degrees > 0)
        return total, max(total**2 / doubt, self.n - 1) if doubt > 0 else math.nan

    def reach(self, level: float) -> float:
        """Return half the width of the interval at a level; NaN where none can be given.

        It is the longer one of two: by Satterthwaite's degrees of freedom for the sum of the variances, and
        by Student's for the seeds alone. The first is too short by itself where a few seeds lie close
        together by chance.

        Source: Satterthwaite (1946), "An approximate distribution of estimates of variance components".
        """
        if self.n < 2 or math.isnan(self.seeds):
            return math.nan
        over_seeds = -float(stdtrit(self.n - 1, 0.5 - level / 2)) * math.sqrt(self.seeds)
        if not self.images:
            return over_seeds
        total, degrees = self._variance
        if not total > 0:
            return math.nan
        return max(over_seeds, -float(stdtrit(degrees, 0.5 - level / 2)) * math.sqrt(total))

    def interval(self, level: float) -> Estimate:
        """Return the mean with its interval at a level."""
        reach = self.reach(level)
        return Estimate(self.mean, self.mean - reach, self.mean + reach, self.n)

    @property
    def p(self) -> float:
        """The two-sided p-value of "no difference": one minus the level at which the interval meets zero.

        It is 1 where no interval can be given: nothing can be established.
        """
        if math.isnan(self.reach(0.5)):
            return 1.0
        total, degrees = self._variance if self.images else (self.seeds, self.n - 1)
        parts = ((self.seeds, self.n - 1), (total, degrees))
        return max(
            float(2 * stdtr(degrees, -abs(self.mean) / math.sqrt(variance)))
            for variance, degrees in parts
            if variance > 0
        )

    def estimate(self, level: float = 0.95) -> Difference:
        """Return the difference with its interval at a level, and its p-value."""
        return Difference(self.interval(level), self.p)

    def is_within(self, margin: float, level: float = 0.90) -> bool:
        """Return whether two one-sided tests, each at ``(1 - level) / 2``, place the difference inside.

        Source: Schuirmann (1987), "A comparison of the two one-sided tests procedure and the power approach".
        """
        return abs(self.mean) + self.reach(level) < margin

    def project(self, n: int, images: int) -> Spread:
        """Return the spread that as many seeds and test images would have, all else being as it is.

        Args:
            n: Number of seeds.
            images: Number of test images, ignored where they are not drawn anew.
        """
        more = self.images / images if self.images else 1.0
        own = max(self.seeds - self.within, 0.0)
        pictures = max(self.between - self.within, 0.0)
        within = self.within * more * self.n / n
        return replace(
            self,
            n=n,
            images=images if self.images else 0,
            seeds=own * self.n / n + within,
            between=pictures * more + within,
            within=within,
        )


def spread_over_seeds(differences: FloatArray, overlap: float = 0.0) -> Spread:
    """Return the spread of a mean difference over seeds or folds, for new ones.

    Args:
        differences: One paired difference per seed or fold, ``(n,)``.
        overlap: Test images over training images of a fold, 0 for seeds; see `estimate_mean`.
    """
    n = len(differences)
    deviation = float(differences.std(ddof=1)) if n > 1 else math.nan
    variance = deviation**2 * (1 / n + overlap) if deviation > NO_SPREAD else math.nan
    return Spread(float(differences.mean()), n, 0, variance, folds=overlap > 0)


def spread_two_way(
    table: FloatArray, classes: IntArray | None = None, unit: FloatArray | float = 0.0
) -> Spread:
    """Return the spread of a mean difference over seeds and test images, both random and crossed.

    Args:
        table: Paired difference of each test image under each seed, ``(S, N)``; its mean is the difference.
        classes: Class of each test image ``(N,)`` where the metric weighs classes, so that images are drawn
            anew inside them; None where they are drawn from all classes alike.
        unit: How much an image that turns right changes its entries, ``(N,)`` or one number for all. The
            variance between images is that of one more image that has turned: a test set in which none has
            does not tell the difference exactly. 0 where an image may change by any number.

    Returns:
        The spread; that over seeds is NaN for one seed.

    Source:
        Random effects of seed, image and their interaction by the analysis of variance: Searle, Casella and
        McCulloch (1992), "Variance components", chapter 4. One more image: Agresti and Min (2005), "Simple
        improved confidence intervals for comparing matched proportions".
    """
    seeds, images = table.shape
    by_seed = table.mean(axis=1)
    mean = float(by_seed.mean())
    if seeds < 2:
        return Spread(mean, seeds, images, math.nan)
    by_image = table.mean(axis=0)
    groups = np.zeros(images, dtype=np.int64) if classes is None else _group_classes(classes)
    size = np.bincount(groups)
    # Each image's share of the variance of the mean, by the degrees of freedom inside its class.
    scale = (size / np.maximum(size - 1, 1))[groups] / images**2
    rest = table - by_image
    within = sum(float(scale @ _centre(row, groups, size) ** 2) for row in rest) / (seeds - 1) / seeds
    between = float(scale @ _centre(by_image, groups, size) ** 2)
    between += float(np.mean(np.square(unit))) / images**2
    return Spread(mean, seeds, images, float(by_seed.var(ddof=1)) / seeds, between, within)


def _centre(values: FloatArray, groups: IntArray, size: IntArray) -> FloatArray:
    """Return the values of images less the mean of their group."""
    centred: FloatArray = values - (np.bincount(groups, weights=values) / size)[groups]
    return centred


def _group_classes(classes: IntArray) -> IntArray:
    """Return groups of images to draw from: the classes, those of one image joined to the next smallest.

    Source: Cochran (1977), "Sampling techniques", section 5A.12, collapsed strata.
    """
    _, groups, size = np.unique(classes, return_inverse=True, return_counts=True)
    order = np.argsort(size, kind="stable")
    alone = int((size < 2).sum())
    target = np.arange(len(size))
    target[order[: alone + 1]] = order[min(alone, len(order) - 1)] if alone else target[order[:1]]
    return np.unique(target[groups], return_inverse=True)[1].astype(np.int64)
