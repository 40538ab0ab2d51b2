"""Images and folders as people have them: odd, damaged, linked in circles."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graft.config.schema import DataConfig
from graft.data.catalog import open_images
from graft.data.decode import decode_image, read_content
from graft.data.image_set import ImageSet
from graft.data.pixels import prepare_pixels
from graft.data.preprocessing import Preprocessing
from graft.errors import GraftError

RGB = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
KINDS = [
    ("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "P"), ("PNG", "LA"), ("PNG", "I;16"), ("WEBP", "RGBA"),
    ("BMP", "RGB"), ("TIFF", "RGB"), ("TIFF", "1"), ("GIF", "P"),
]  # fmt: skip


def encode(file_format: str, mode: str) -> bytes:
    image = Image.fromarray(RGB)
    if mode == "I;16":
        image = Image.fromarray(RGB[:, :, 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if file_format in ("JPEG", "PNG", "WEBP", "TIFF") else {}
    written = io.BytesIO()
    (image if mode == "I;16" else image.convert(mode)).save(written, file_format, **options)
    return written.getvalue()


def make_folder(root: Path) -> Path:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        Image.fromarray(RGB).save(root / name / "0.png")
    return root


def open_folder(root: Path, cache: Path) -> ImageSet:
    return open_images(DataConfig(name="folder", root=str(root)), cache)


@pytest.mark.parametrize(("file_format", "mode"), KINDS)
def test_a_damaged_file_is_decoded_or_refused_and_nothing_else(
    file_format: str, mode: str, tmp_path: Path
) -> None:
    """No warning, no foreign error: also where the header, a tag or the stream is nonsense."""
    whole = encode(file_format, mode)
    rng = np.random.default_rng(0)
    path = tmp_path / "x"
    complaints = []
    for turn in range(60):
        content = bytearray(whole[: rng.integers(0, len(whole))] if turn % 2 else whole)
        for _ in range(0 if turn % 2 else rng.integers(1, 6)):
            content[rng.integers(0, len(content))] = rng.integers(0, 256)
        path.write_bytes(bytes(content))
        try:
            read_content(path)
            pixels = decode_image(path)
        except GraftError as error:
            complaints.append(str(error))
        else:
            assert (pixels.dtype, pixels.ndim) == (np.uint8, 3)
    assert complaints
    assert all(str(path) in complaint for complaint in complaints)


def test_an_image_of_one_pixel(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "images")
    Image.fromarray(np.full((1, 1, 3), (9, 99, 200), dtype=np.uint8)).save(root / "cat" / "1.png")
    images = open_folder(root, tmp_path / "cache")
    assert images.read(1).shape == (1, 1, 3)
    expected = Preprocessing(3, 8, None, "bilinear", True, (0.5,) * 3, (0.25,) * 3)
    pixels = prepare_pixels(images, expected, tmp_path / "cache")
    assert np.array_equal(pixels[1], np.full((3, 8, 8), [[[9]], [[99]], [[200]]]))


def test_a_truncated_image_stops_before_training_and_is_named(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "images")
    large = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(large).save(root / "dog" / "cut.jpg")
    (root / "dog" / "cut.jpg").write_bytes((root / "dog" / "cut.jpg").read_bytes()[:2000])
    images = open_folder(root, tmp_path / "cache")
    expected = Preprocessing(3, 8, None, "bilinear", True, (0.5,) * 3, (0.25,) * 3)
    with pytest.raises(GraftError, match=r"dog/cut\.jpg to be a whole image.*truncated.*a whole copy"):
        prepare_pixels(images, expected, tmp_path / "cache")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder(tmp_path / "images")

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(GraftError, match=r"0\.png to be a whole image.*Permission denied"):
        open_folder(root, tmp_path / "cache")


def test_a_bomb_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 59)
    with pytest.raises(GraftError, match=r"at most 178,956,970 pixels.*bomb.*remove it"):
        open_folder(make_folder(tmp_path / "images"), tmp_path / "cache")


def test_other_files_are_passed_over_and_counted(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "images")
    clean = open_folder(root, tmp_path / "cache")
    assert clean.notes == ()
    (root / "cat" / "notes.txt").write_text("mine")
    (root / "loose.png").write_bytes(b"outside of a class")
    (root / "cat" / ".DS_Store").write_bytes(b"")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "0.png").write_bytes(b"")
    images = open_folder(root, tmp_path / "cache")
    assert images.digest == clean.digest
    assert images.notes == ("2 files under data.root are no images of a class, and ignored",)


def test_links_in_a_circle(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "images")
    (root / "lynx").symlink_to(root)
    with pytest.raises(GraftError, match=r"lynx is a link that leads back to .*images, which holds it"):
        open_folder(root, tmp_path / "cache")
    (root / "lynx").unlink()
    (root / "lynx").symlink_to(root / "lynx")
    assert open_folder(root, tmp_path / "cache").class_names == ("cat", "dog")


def test_a_class_may_be_a_link_to_another_place(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "images")
    (root / "dog").rename(tmp_path / "dogs")
    (root / "dog").symlink_to(tmp_path / "dogs")
    assert open_folder(root, tmp_path / "cache").item_ids == ("cat/0.png", "dog/0.png")
