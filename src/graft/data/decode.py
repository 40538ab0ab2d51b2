"""From a file to pixels, by rule.

* The EXIF orientation is applied.
* Alpha, and a palette's or header's transparent colour, is laid on white.
* A palette becomes RGB; CMYK, YCbCr, LAB and HSV become RGB; black-and-white becomes gray.
* 16-bit gray becomes 8-bit: 0 to 65535 is scaled to 0 to 255 and rounded.
* Of a file with several frames, the first is read.
* Floating-point images, and integers beyond 16 bits, have no rule: they are refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from graft.data.image_set import UInt8Array
from graft.errors import GraftError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
LARGEST_IMAGE = 178_956_970
"""Pixels; Pillow takes more than this for a decompression bomb."""

GRAY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"})


@dataclass(frozen=True)
class FileReader:
    """`ImageSet.read` for images that are files of their own, which other processes can decode, too."""

    files: tuple[Path, ...]

    def __call__(self, index: int) -> UInt8Array:
        """Decode image ``index``."""
        return decode_image(self.files[index])


def read_content(path: Path) -> tuple[bytes, bool]:
    """Read an image file, and tell from its header alone whether the image is gray.

    Returns:
        The file's bytes, and whether the image is gray.

    Raises:
        GraftError: The file cannot be read, or is no image that can be opened.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    with _without_warnings(), _open(path, content) as image:
        return content, image.mode in GRAY_MODES


def decode_image(path: Path) -> UInt8Array:
    """Decode a file to uint8, ``(H, W, 1)`` when it is gray, else ``(H, W, 3)``.

    Raises:
        GraftError: The file is missing, no image, truncated, too large, or has no rule.
    """
    from PIL import Image, ImageOps

    with _without_warnings(), _open(path) as image:
        try:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
        except Image.DecompressionBombError as error:
            raise _too_large(path) from error
        except (OSError, SyntaxError, ValueError, IndexError, EOFError) as error:
            raise _unreadable(path, error) from error
        pixels = _convert(image, path)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _open(path: Path, content: bytes | None = None) -> Any:
    """Open a file, or its ``content`` where that has been read."""
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(path if content is None else BytesIO(content))
    except Image.DecompressionBombError as error:
        raise _too_large(path) from error
    except UnidentifiedImageError as error:
        found = "is empty (0 bytes)" if path.stat().st_size == 0 else "is not one"
        raise GraftError(
            f"Expected {path} to be an image, but it {found}. Remove it, or replace it with the real image."
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise _unreadable(path, error) from error


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence Pillow, which warns at half the size that we refuse, and of odd tags in images that decode."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _too_large(path: Path) -> GraftError:
    return GraftError(
        f"Expected {path} to have at most {LARGEST_IMAGE:,} pixels, but it claims more: a decompression "
        "bomb? Make it smaller, or remove it."
    )


def _unreadable(path: Path, error: Exception) -> GraftError:
    return GraftError(
        f"Expected {path} to be a whole image, but it cannot be decoded: "
        f"{getattr(error, 'strerror', None) or error}. "
        "Remove it, or replace it with a whole copy."
    )


def _convert(image: Any, path: Path) -> UInt8Array:
    """Apply the rules of this module to an upright PIL image."""
    from PIL import Image

    if image.mode == "F" or (
        image.mode == "I" and not 0 <= image.getextrema()[0] <= image.getextrema()[1] <= 65535
    ):
        raise GraftError(
            f"Expected {path} to have 8 or 16 bits per channel, but its pixels are of Pillow's mode "
            f"{image.mode!r}. Save it with 8 bits."
        )
    if image.mode.startswith("I"):
        return np.round(np.asarray(image).astype(np.float64) / 257.0).astype(np.uint8)
    gray = image.mode in GRAY_MODES
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        white = Image.new("RGBA", coloured.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, coloured)
    mode = "L" if gray else "RGB"
    return np.asarray(image if image.mode == mode else image.convert(mode))
