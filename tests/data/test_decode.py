from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from graft.data.decode import decode_image, read_content
from graft.errors import GraftError

RAMP = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "tif", "gif", "jpg"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    flat = np.full((5, 7, 3), (40, 120, 200), dtype=np.uint8)
    pixels = decode_image(saved(tmp_path / f"x.{suffix}", Image.fromarray(flat)))
    assert pixels.shape == (5, 7, 3)
    assert np.abs(pixels.astype(int) - flat).max() <= 6


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    path = saved(tmp_path / "x.png", Image.fromarray(RAMP[:2]), exif=exif)
    assert np.array_equal(decode_image(path), np.rot90(RAMP[:2], -1))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_orientation_is_as_pillow_turns_it(suffix: str, mode: str, tmp_path: Path) -> None:
    picture = Image.fromarray(RAMP).resize((7, 4)).convert(mode)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.{suffix}"
        picture.save(path, exif=exif)
        with Image.open(path) as opened:
            expected = np.asarray(ImageOps.exif_transpose(opened))
        assert np.array_equal(decode_image(path), expected.reshape(*expected.shape[:2], -1))


def test_alpha_is_laid_on_white(tmp_path: Path) -> None:
    rgba = np.dstack([RAMP, np.full((4, 4), 255, dtype=np.uint8)])
    rgba[0, 0] = (10, 20, 30, 0)
    pixels = decode_image(saved(tmp_path / "x.png", Image.fromarray(rgba)))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert np.array_equal(pixels[1:], RAMP[1:])
    gray = saved(tmp_path / "la.png", Image.fromarray(rgba).convert("LA"))
    assert read_content(gray)[1]
    assert decode_image(gray).shape == (4, 4, 1)
    assert decode_image(gray)[0, 0, 0] == 255


def test_palette_becomes_rgb_and_its_transparent_colour_white(tmp_path: Path) -> None:
    palette = Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint8), mode=None).convert("P")
    palette.putpalette([255, 0, 0, 0, 0, 255])
    assert decode_image(saved(tmp_path / "x.png", palette))[0].tolist() == [[255, 0, 0], [0, 0, 255]]
    assert decode_image(saved(tmp_path / "t.png", palette, transparency=0))[0].tolist() == [
        [255, 255, 255],
        [0, 0, 255],
    ]


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    image = Image.fromarray(RAMP)
    path = saved(tmp_path / "x.tif", image.convert("CMYK"))
    assert np.array_equal(decode_image(path), np.asarray(image.convert("CMYK").convert("RGB")))


def test_gray_of_1_8_and_16_bits(tmp_path: Path) -> None:
    wide = np.array([[0, 128, 257], [32896, 65407, 65535]], dtype=np.uint16)
    path = saved(tmp_path / "x.png", Image.fromarray(wide))
    assert read_content(path) == (path.read_bytes(), True)
    assert decode_image(path)[:, :, 0].tolist() == [[0, 0, 1], [128, 255, 255]]
    bits = Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1")
    assert decode_image(saved(tmp_path / "b.png", bits))[0, :, 0].tolist() == [0, 255]


def test_the_upper_half_of_16_bits_per_colour(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    wide = np.random.default_rng(0).integers(0, 65536, (4, 5, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in wide)
    header = struct.pack(">IIBBBBB", 5, 4, 16, 2, 0, 0, 0)
    path = tmp_path / "x.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    assert np.array_equal(decode_image(path), wide >> 8)


def test_the_first_frame_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "blue")]
    path = saved(tmp_path / "x.gif", frames[0], save_all=True, append_images=frames[1:])
    assert decode_image(path)[0, 0].tolist() == [255, 0, 0]


def test_truncated(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path / "x.jpg", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(
        GraftError, match=r"x\.jpg to be a whole image, but it cannot be decoded: .*truncated"
    ):
        decode_image(path)


def test_missing_and_empty(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match=r"gone\.png to be a whole image.*No such file"):
        decode_image(tmp_path / "gone.png")
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(GraftError, match="is empty"):
        read_content(tmp_path / "empty.png")


def test_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "x.png", Image.fromarray(RAMP))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert decode_image(path).shape == (4, 4, 3)  # at most twice the limit: Pillow warns, we do not
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)
    with pytest.raises(GraftError, match=r"x\.png to have at most 178,956,970 pixels"):
        decode_image(path)


def test_floating_point_has_no_rule(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.tif", Image.fromarray(np.ones((2, 2), dtype=np.float32)))
    with pytest.raises(GraftError, match=r"8 or 16 bits per channel.*mode 'F'"):
        decode_image(path)
    path = saved(tmp_path / "i.tif", Image.fromarray(np.full((2, 2), 70_000, dtype=np.int32)))
    with pytest.raises(GraftError, match="mode 'I'"):
        decode_image(path)
