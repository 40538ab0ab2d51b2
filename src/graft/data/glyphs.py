"""The rendered source domain: 62 letters and digits in the text fonts that matplotlib ships.

Each glyph is distorted (a random quadrilateral: size, rotation, shear and perspective), fitted into the frame
as the pen-written digits of the UCI set are (full height, centred), thickened or thinned, thresholded at
32x32 and averaged over 4x4 blocks to 8x8: the last step is the one that made scikit-learn's digits.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998.
"""

from __future__ import annotations

import string
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from graft.data.cache import write_whole
from graft.data.image_set import Int64Array, Progress, UInt8Array

CHARACTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase
RENDER_VERSION = 1
"""Part of the cache's name: raise it when the drawing changes."""

SIDE = 32
BLOCK = 4
MASTER = 96
"""Height of the box in which a font draws a character, before distortion, in px."""

DIGIT_GLYPH_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def find_text_fonts() -> list[Path]:
    """List matplotlib's fonts that draw all 62 characters, each as itself, sorted by name.

    A symbol font maps letters to arrows or operators, or all of them to one placeholder: its glyph names give
    it away (``zerooldstyle``, ``prime``, ``lastresortlatin``).
    """
    import matplotlib
    from matplotlib.ft2font import FT2Font

    expected = dict(zip(CHARACTERS, (*DIGIT_GLYPH_NAMES, *CHARACTERS[10:]), strict=True))
    fonts = []
    for path in sorted((Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("*.ttf")):
        font = FT2Font(str(path))
        charmap = font.get_charmap()
        if all(
            ord(c) in charmap and font.get_glyph_name(charmap[ord(c)]) == name for c, name in expected.items()
        ):
            fonts.append(path)
    return fonts


def load_glyphs(
    count: int, seed: int, cache_root: Path, progress: Progress | None = None
) -> tuple[UInt8Array, Int64Array]:
    """Return what `render_glyphs` draws, from the cache when it is there and whole."""
    path = cache_root / "glyphs" / f"v{RENDER_VERSION}-{count}-{seed}.npz"
    kept = _read_rendered(path, count)
    if kept is not None:
        return kept
    images, labels = render_glyphs(count, seed, progress)
    write_whole(path, lambda file: np.savez_compressed(file, images=images, labels=labels))
    return images, labels


def _read_rendered(path: Path, count: int) -> tuple[UInt8Array, Int64Array] | None:
    """Read a rendering, or return ``None`` when it is missing or damaged: it can always be drawn again."""
    try:
        # Reading a whole member makes zipfile compare its CRC.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    shape = (count, SIDE // BLOCK, SIDE // BLOCK)
    fits = images.shape == shape and images.dtype == np.uint8 and labels.shape == shape[:1]
    return (images, labels.astype(np.int64)) if fits else None


def render_glyphs(count: int, seed: int, progress: Progress | None = None) -> tuple[UInt8Array, Int64Array]:
    """Draw ``count`` glyphs, the classes balanced to within one image.

    Args:
        count: Images to draw.
        seed: Everything random is drawn from it; image ``i`` depends on (seed, i) only.
        progress: Called now and then with (done, count).

    Returns:
        Images ``(count, 8, 8)``, 0 = paper and 255 = ink, and labels ``(count,)``, indices into `CHARACTERS`.
    """
    fonts = find_text_fonts()
    masters: dict[tuple[int, int], Any] = {}
    images = np.empty((count, SIDE // BLOCK, SIDE // BLOCK), dtype=np.uint8)
    labels = np.arange(count, dtype=np.int64) % len(CHARACTERS)
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        key = (int(rng.integers(len(fonts))), int(labels[index]))
        if key not in masters:
            masters[key] = _draw_master(fonts[key[0]], CHARACTERS[key[1]])
        images[index] = _average_blocks(_distort(masters[key], rng))
        if progress is not None and (index + 1 == count or (index + 1) % 500 == 0):
            progress(index + 1, count)
    return images, labels


def _draw_master(font_path: Path, character: str) -> Any:
    """Draw one character large and tight in its bounding box, as a gray PIL image with ink = 255."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(str(font_path), MASTER)
    left, top, right, bottom = (int(edge) for edge in font.getbbox(character))
    image = Image.new("L", (right - left + 4, bottom - top + 4))
    ImageDraw.Draw(image).text((2 - left, 2 - top), character, fill=255, font=font)
    return image.crop(image.getbbox())


def _distort(master: Any, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Return one random 32x32 black-and-white version of a character, as ``(32, 32)``, true = ink."""
    from PIL import Image, ImageFilter

    width, height = master.size
    scale = 0.7 * MASTER / height
    size = (max(6, round(width * scale * rng.uniform(0.75, 1.1))), round(height * scale))
    glyph = Image.new("L", (2 * MASTER, 2 * MASTER))
    glyph.paste(
        master.resize(size, Image.Resampling.BILINEAR), (MASTER - size[0] // 2, MASTER - size[1] // 2)
    )

    # Corners of the region that is read, around the middle: rotation, shear, and a jitter of each corner.
    half = 0.62 * MASTER
    corners = np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [1.0, -1.0]])
    corners += rng.normal(0.0, 0.12, corners.shape)
    angle, shear = np.deg2rad(rng.normal(0.0, 7.0)), rng.normal(0.06, 0.15)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = (corners @ np.array([[1.0, 0.0], [shear, 1.0]]) @ turn) * half + MASTER
    warped = glyph.transform(
        (64, 64), Image.Transform.QUAD, tuple(corners.ravel()), Image.Resampling.BILINEAR
    )
    box = warped.point(lambda value: 255 if value > 100 else 0).getbbox()
    if box is not None:
        warped = warped.crop(box)

    # Fit as the UCI digits: full height, at most 18 to 27 px wide, the narrow ones kept narrow.
    wide = warped.width * SIDE / warped.height
    fitted_width = int(np.clip(round(wide), 5, rng.integers(18, 28)))
    fitted_height = SIDE - int(rng.integers(0, 2))
    fitted = warped.resize((fitted_width, fitted_height), Image.Resampling.BOX)
    frame = Image.new("L", (SIDE, SIDE))
    frame.paste(fitted, ((SIDE - fitted_width) // 2 + int(rng.integers(-2, 3)), (SIDE - fitted_height) // 2))
    blurred = np.asarray(frame.filter(ImageFilter.GaussianBlur(rng.uniform(0.6, 1.6))))
    return np.asarray(blurred > blurred.max() * rng.uniform(0.22, 0.55))


def _average_blocks(ink: npt.NDArray[np.bool_]) -> UInt8Array:
    """Average ``(32, 32)`` over 4x4 blocks to ``(8, 8)`` gray."""
    blocks = ink.reshape(SIDE // BLOCK, BLOCK, SIDE // BLOCK, BLOCK).sum(axis=(1, 3))
    gray: UInt8Array = np.round(blocks * (255.0 / BLOCK**2)).astype(np.uint8)
    return gray
