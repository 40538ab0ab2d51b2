"""Find images that show the same picture: resized, recompressed, slightly cropped, a little brighter.

Each image is kept as a sketch: its luma at 32x32 and its chroma at 4x4. Candidates are pairs whose whitened
low-frequency DCT coefficients correlate, found by blocked matrix products. Each candidate is then aligned
(shift and scale per axis, gain and offset, by Gauss-Newton) and judged by the correlation of its gradients,
which different pictures of the same kind do not share.

Source: B. D. Lucas and T. Kanade, An iterative image registration technique, 1981; S. Baker and I. Matthews,
Lucas-Kanade 20 years on, 2004 (the inverse form, whose normal equations are made once).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from graft.data.image_set import Int64Array, Progress, UInt8Array

Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

NEAR_VERSION = 1
"""Part of the cache's name: raise it when code changes sketches or verdicts."""

SIDE, CHROMA_SIDE = 32, 4
SKETCH_BYTES = SIDE * SIDE + 2 * CHROMA_SIDE * CHROMA_SIDE

SMALLEST_SIDE = 16
"""px; smaller images hold too little to tell a copy from a likeness."""

_FREQUENCIES = 9
_CANDIDATE = 0.60
"""Correlation of whitened DCT coefficients from which a pair is looked at closely."""
_VERDICT = 0.90
"""Correlation of aligned gradients from which a pair is the same picture."""
_NOISE = 2.0
"""Gray levels; contrast below it counts as noise, so that two blank images are no pair."""
_LARGEST_CHROMA_GAP = 8.0
"""Gray levels, root mean square over the chroma grid."""
_MARGIN = 2
"""px of the sketch that a crop may have moved out of the picture."""
_LARGEST_MOVE = 3.2
"""px of the sketch; 5 % per side of both images."""
_ITERATIONS = 6
_ROWS, _COLUMNS = 1024, 8192
_PAIRS_AT_ONCE = 256


def sketch_image(pixels: UInt8Array) -> UInt8Array:
    """Return the sketch of an image.

    Args:
        pixels: uint8 ``(H, W, 1)`` or ``(H, W, 3)``.

    Returns:
        uint8 ``(SKETCH_BYTES,)``: luma ``(32, 32)``, then Cb and Cr ``(4, 4)`` each.
    """
    from PIL import Image

    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    small = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0)
    if small.mode == "L":
        chroma = np.full((2, CHROMA_SIDE, CHROMA_SIDE), 128, dtype=np.uint8)
        return np.concatenate([np.asarray(small).ravel(), chroma.ravel()])
    luma, *chromas = (np.asarray(band) for band in small.convert("YCbCr").split())
    step = SIDE // CHROMA_SIDE
    means = [band.reshape(CHROMA_SIDE, step, CHROMA_SIDE, step).mean(axis=(1, 3)) for band in chromas]
    return np.concatenate([luma.ravel(), np.round(means).astype(np.uint8).ravel()])


def find_near_duplicates(sketches: UInt8Array, progress: Progress | None = None) -> Int64Array:
    """Return the pairs of images that show the same picture, ``(P, 2)``, the smaller index first.

    Args:
        sketches: One of `sketch_image` per row, ``(N, SKETCH_BYTES)``.
        progress: Called with (done, total) comparisons, in images.
    """
    luma = _split_luma(sketches)
    codes = _encode(luma)
    mean = luma.mean(axis=(1, 2))
    chroma = sketches[:, SIDE * SIDE :].astype(np.float32) - 128.0
    found = []
    for candidates, done in _find_candidates(codes):
        near_mean = _within_ratio(mean[candidates[:, 0]], mean[candidates[:, 1]], 1.3, 4.0)
        gap = chroma[candidates[:, 0]] - chroma[candidates[:, 1]]
        near_chroma = np.sqrt((gap**2).mean(axis=1)) <= _LARGEST_CHROMA_GAP
        pairs = candidates[near_mean & near_chroma]
        for start in range(0, len(pairs), _PAIRS_AT_ONCE):
            some = pairs[start : start + _PAIRS_AT_ONCE]
            found.append(some[score_pairs(luma[some[:, 0]], luma[some[:, 1]]) >= _VERDICT])
        if progress is not None:
            progress(done, len(sketches))
    pairs = np.concatenate(found) if found else np.empty((0, 2), dtype=np.int64)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def join_groups(pairs: Int64Array, count: int) -> Int64Array:
    """Return the group of each of ``count`` images: those that pairs connect share the smallest index.

    >>> join_groups(np.array([[1, 2], [2, 4]]), 5).tolist()
    [0, 1, 1, 3, 1]
    """
    parent = np.arange(count, dtype=np.int64)

    def find(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = int(parent[index])
        return index

    for first, second in pairs.tolist():
        low, high = sorted((find(first), find(second)))
        parent[high] = low
    return np.array([find(index) for index in range(count)], dtype=np.int64)


def score_pairs(first: Float32Array, second: Float32Array) -> Float32Array:
    """Align pairs of luma sketches ``(P, 32, 32)`` and return the correlation of their gradients, ``(P,)``.

    A pair whose alignment moves further than a crop could is scored -1.
    """
    fixed, moving = _blur(first), _blur(second)
    inside = slice(_MARGIN, SIDE - _MARGIN)
    down = np.gradient(fixed, axis=1)[:, inside, inside]
    right = np.gradient(fixed, axis=2)[:, inside, inside]
    place = (np.arange(SIDE, dtype=np.float32) - (SIDE - 1) / 2) / (SIDE / 2)
    across, along = place[None, None, inside], place[None, inside, None]
    target = fixed[:, inside, inside]
    steepest = np.stack(
        [right, right * across, down, down * along, target, np.ones_like(target)], axis=1
    ).reshape(len(target), 6, -1)
    normal = steepest @ steepest.transpose(0, 2, 1)
    damping = 1e-6 * np.einsum("pii->p", normal) + 1e-3  # where there is no gradient, nothing moves
    normal += np.eye(6, dtype=np.float32) * damping[:, None, None]
    inverse = np.linalg.inv(normal)
    move = np.zeros((len(target), 4), dtype=np.float32)
    warped = moving
    for _ in range(_ITERATIONS):
        warped = _warp(moving, move)
        view = warped[:, inside, inside].reshape(len(target), -1)
        fit = (inverse @ (steepest @ view[:, :, None]))[:, :, 0]
        gain = np.maximum(fit[:, 4:5], 0.3)
        move = np.clip(move - fit[:, :4] / gain, -_LARGEST_MOVE, _LARGEST_MOVE)
    warped = _warp(moving, move)
    score = _correlate_gradients(fixed, warped, inside)
    reach = np.maximum(np.abs(move[:, 0]) + np.abs(move[:, 1]), np.abs(move[:, 2]) + np.abs(move[:, 3]))
    return np.where(reach < _LARGEST_MOVE, score, np.float32(-1.0))


def _split_luma(sketches: UInt8Array) -> Float32Array:
    return sketches[:, : SIDE * SIDE].reshape(-1, SIDE, SIDE).astype(np.float32)


def _encode(luma: Float32Array) -> Float32Array:
    """Return whitened low DCT coefficients of unit length, ``(N, 80)``; what has no contrast is shorter.

    Amplitudes of natural images fall with frequency, so weighting by frequency makes them equal.
    """
    position = (np.arange(SIDE) + 0.5) * np.pi / SIDE
    basis = np.cos(np.arange(_FREQUENCIES)[:, None] * position[None, :]).astype(np.float32)
    basis /= np.sqrt((basis**2).sum(axis=1, keepdims=True))
    order = np.arange(_FREQUENCIES)
    frequency = np.sqrt(order[:, None] ** 2 + order[None, :] ** 2).astype(np.float32)
    kept = (frequency > 0) & (frequency <= _FREQUENCIES)
    codes = np.einsum("ky,nyx,lx->nkl", basis, luma, basis, optimize=True) * frequency
    codes = codes.reshape(len(luma), _FREQUENCIES**2)[:, kept.ravel()]
    noise = _NOISE * np.sqrt((frequency[kept] ** 2).sum())
    lengths = np.sqrt((codes**2).sum(axis=1, keepdims=True) + noise**2)
    return np.asarray(codes / lengths, dtype=np.float32)


def _find_candidates(codes: Float32Array) -> Iterator[tuple[Int64Array, int]]:
    """Yield the pairs that correlate, block by block, with the number of images done."""
    for top in range(0, len(codes), _ROWS):
        block = codes[top : top + _ROWS]
        pairs = []
        for left in range(top, len(codes), _COLUMNS):
            rows, columns = np.nonzero(block @ codes[left : left + _COLUMNS].T >= _CANDIDATE)
            rows, columns = rows + top, columns + left
            pairs.append(np.stack([rows, columns], axis=1)[rows < columns])
        yield np.concatenate(pairs), top + len(block)


def _within_ratio(first: Float32Array, second: Float32Array, ratio: float, floor: float) -> BoolArray:
    low, high = np.minimum(first, second), np.maximum(first, second)
    return np.asarray(high <= ratio * low + floor)


def _blur(images: Float32Array) -> Float32Array:
    """Smooth ``(P, H, W)`` by (1, 2, 1) / 4 along both axes, edges repeated."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    return np.asarray((rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4, dtype=np.float32)


def _warp(images: Float32Array, move: Float32Array) -> Float32Array:
    """Resample ``(P, H, W)`` bilinearly.

    Args:
        images: What is sampled; beyond its edge, the edge.
        move: Shift and stretch along x, then along y, ``(P, 4)``, in px at the edge.
    """
    for axis in (2, 1):
        shift, stretch = (move[:, :1], move[:, 1:2]) if axis == 2 else (move[:, 2:3], move[:, 3:4])
        index = np.arange(SIDE, dtype=np.float32)
        place = (index - (SIDE - 1) / 2) / (SIDE / 2)
        at = np.clip(index + shift + stretch * place, 0, SIDE - 1.001)
        low = at.astype(np.int64)
        part = (at - low).astype(np.float32)
        spread = (slice(None), None) if axis == 2 else (slice(None), slice(None), None)
        before = np.take_along_axis(images, low[spread], axis=axis)
        after = np.take_along_axis(images, low[spread] + 1, axis=axis)
        images = before + (after - before) * part[spread]
    return images


def _correlate_gradients(first: Float32Array, second: Float32Array, inside: slice) -> Float32Array:
    products = np.zeros((3, len(first)), dtype=np.float32)
    for axis in (1, 2):
        a = np.gradient(first, axis=axis)[:, inside, inside]
        b = np.gradient(second, axis=axis)[:, inside, inside]
        products += [(a * b).sum(axis=(1, 2)), (a * a).sum(axis=(1, 2)), (b * b).sum(axis=(1, 2))]
    side = inside.stop - inside.start
    floor = 2 * side * side * (_NOISE / 4) ** 2
    return np.asarray(products[0] / np.sqrt((products[1] + floor) * (products[2] + floor)), dtype=np.float32)
