"""The pre-flight finds what it is made to find: a folder with every fault, and each rule by itself."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from graft.config.schema import DataConfig
from graft.data.catalog import open_images
from graft.data.check import CheckReport, check_source, choose_left_out
from graft.data.check_duplicates import near_duplicate_groups
from graft.data.check_report import write_check
from graft.data.decode import decode_image
from graft.data.findings import KINDS, Finding, find
from graft.data.measure import measure_files
from graft.data.preprocessing import Preprocessing
from graft.errors import GraftError

Draw = Callable[..., Image.Image]
RGB_64 = Preprocessing(3, 64, None, "bilinear", True, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


def draw(rng: np.random.Generator, width: int = 72, height: int = 72) -> Image.Image:
    """Draw a picture whose amplitudes fall with frequency, as those of photographs do."""
    down, right = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]
    fall = 1.0 / np.maximum(np.hypot(down, right), 1.0 / max(width, height))
    planes = np.fft.ifft2(np.fft.fft2(rng.normal(size=(3, height, width))) * fall).real
    shared = planes[0] + 0.4 * planes
    spread = (shared - shared.mean()) / shared.std()
    return Image.fromarray(np.clip(127 + 50 * spread, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def cut_photographs() -> Draw:
    """Return what cuts another 72 x 72 part out of two photographs each time, turned and mirrored.

    Parts overlap by three fifths at most, which makes no two alike; blurred ones, which hold too little
    to be told apart, are passed over.
    """
    parts = []
    for photograph in load_sample_images().images:
        for turn in range(8):
            turned = np.rot90(photograph[:, :: -1 if turn > 3 else 1], turn)
            for top in range(0, turned.shape[0] - 71, 28):
                for left in range(0, turned.shape[1] - 71, 28):
                    part = turned[top : top + 72, left : left + 72]
                    if np.abs(np.diff(part.astype(np.int16), axis=0)).mean() > 4:
                        parts.append(np.ascontiguousarray(part))
    order = iter(np.random.default_rng(0).permutation(len(parts)).tolist())

    def cut(rng: np.random.Generator, width: int = 72, height: int = 72) -> Image.Image:
        if (width, height) != (72, 72):
            return draw(rng, width, height)
        return Image.fromarray(parts[next(order)])

    return cut


def save(image: Image.Image, path: Path, **options: object) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path.as_posix()


def check(root: Path, cache: Path, expected: Preprocessing = RGB_64, **knobs: object) -> CheckReport:
    return check_source(DataConfig(name="folder", root=str(root), **knobs), cache, lambda channels: expected)


def kinds(report: CheckReport) -> set[str]:
    return {finding.kind for finding in report.findings}


def of_kind(report: CheckReport, kind: str) -> list[Finding]:
    return [finding for finding in report.findings if finding.kind == kind]


def write_bomb(path: Path) -> None:
    """Write a PNG of some bytes whose header claims 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
            for name, body in chunks
        )
    )


FAULTS = {
    "cut.jpg": "truncated",
    "empty.png": "is empty (0 bytes)",
    "text.jpg": "is not one",
    "half.png": "is not one",
    "bomb.png": "a decompression bomb? Make it smaller",
    "nowhere.jpg": "No such file",
}
"""What is said of a file that cannot be decoded."""

ALTER: dict[str, Callable[[Image.Image], Image.Image]] = {
    "resized": lambda image: image.resize((100, 100), Image.Resampling.BICUBIC),
    "cropped": lambda image: image.crop((3, 0, 72, 69)),
    "brighter": lambda image: image.point(lambda value: min(255, round(value * 1.1))),
    "darker": lambda image: image.point(lambda value: round(value * 0.9)),
}


def spoil(root: Path, count: int, draw: Draw) -> dict[str, list[set[str]]]:
    """Write ``count`` sound images into train/ val/ test and add every fault; return what to find."""
    rng = np.random.default_rng(0)
    sizes = {"lynx": 0.1, "cat": 0.5, "dog": 0.4}
    for split, share in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
        for name, part in sizes.items():
            for number in range(max(1, round(count * share * part))):
                save(draw(rng), root / split / name / f"{number:04}.jpg", quality=90)
    train, expected = root / "train", dict[str, list[set[str]]]()

    def expect(kind: str, *paths: str) -> None:
        expected.setdefault(kind, []).append(set(paths))

    whole = (train / "cat" / "0000.jpg").read_bytes()
    for name, content in {
        "cut.jpg": whole[: len(whole) // 2],
        "empty.png": b"",
        "text.jpg": b"not an image",
        "half.png": b"\x89PNG\r\n\x1a\n",
    }.items():
        (train / "cat" / name).write_bytes(content)
        expect("unreadable_image", f"train/cat/{name}")
    write_bomb(train / "cat" / "bomb.png")
    expect("unreadable_image", "train/cat/bomb.png")
    (train / "cat" / "nowhere.jpg").symlink_to("gone.jpg")
    expect("unreadable_image", "train/cat/nowhere.jpg")

    (train / "cat" / "copy.jpg").write_bytes((train / "cat" / "0001.jpg").read_bytes())
    expect("duplicates", "train/cat/copy.jpg", "train/cat/0001.jpg")
    (train / "dog" / "copy.jpg").write_bytes((train / "cat" / "0002.jpg").read_bytes())
    expect("contradictory_labels", "train/dog/copy.jpg", "train/cat/0002.jpg")
    # The same pixels in another format, hence other bytes.
    save(Image.open(train / "cat" / "0003.jpg"), root / "test" / "cat" / "copy.png")
    expect("leak", "train/cat/0003.jpg", "test/cat/copy.png")

    for number, (name, alter) in enumerate(ALTER.items(), start=4):
        original = Image.open(train / "cat" / f"{number:04}.jpg")
        save(alter(original), root / "test" / "cat" / f"{name}.jpg", quality=50 + 10 * number)
        expect("near_leak", f"train/cat/{number:04}.jpg", f"test/cat/{name}.jpg")
    save(ALTER["cropped"](Image.open(train / "dog" / "0000.jpg")), train / "dog" / "near.jpg")
    expect("near_duplicates", "train/dog/0000.jpg", "train/dog/near.jpg")
    save(ALTER["darker"](Image.open(train / "dog" / "0001.jpg")), train / "lynx" / "near.jpg")
    expect("near_contradiction", "train/dog/0001.jpg", "train/lynx/near.jpg")

    (train / "void").mkdir()
    expect("empty_class", "train/void")
    save(draw(rng), root / "val" / "wolf" / "0.jpg")
    expect("class_only_in_evaluation", "val/wolf")
    save(draw(rng), train / "Dog " / "0.jpg")
    expect("similar_names", "dog", "Dog ")
    expect("few_images", "Dog ")
    expect("imbalance", "cat", "Dog ")
    for split in ("val", "test"):
        expect("class_missing_from_split", f"{split}/void")
        expect("class_missing_from_split", f"{split}/Dog ")

    save(draw(rng, 20, 20), train / "cat" / "small.png")
    save(Image.new("RGB", (1, 1), "red"), train / "cat" / "dot.png")
    expect("small_images", "train/cat/small.png", "train/cat/dot.png")
    expect("near_duplicates_unknown", "train/cat/dot.png")
    save(draw(rng, 300, 70), train / "cat" / "long.png")
    expect("odd_aspect", "train/cat/long.png")
    (train / "cat" / "notes.txt").write_text("mine")
    (root / "list.csv").write_text("path")
    expect("stray_file", "train/cat/notes.txt", "list.csv")
    save(draw(rng), train / "loose.jpg")
    expect("misplaced_image", "train/loose.jpg")
    (train / "cat" / "again").symlink_to(train, target_is_directory=True)
    expect("symlink_loop", "train/cat/again")
    (train / "cat" / "self").symlink_to("self")
    expect("symlink_loop", "train/cat/self")
    elsewhere = root.parent / "elsewhere"
    elsewhere.mkdir()
    (train / "cat" / "more").symlink_to(elsewhere, target_is_directory=True)
    expect("linked_folder", "train/cat/more")
    (train / "cat" / "locked").mkdir()
    expect("unreadable_folder", "train/cat/locked")
    expect("channel_statistics")
    expect("fewer_than_k", "Dog ")
    return expected


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make folders called ``locked`` unreadable, for the superuser too."""
    scan = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)


@pytest.mark.usefixtures("locked")
@pytest.mark.parametrize(
    ("count", "photographs"),
    [(150, False), pytest.param(2000, True, marks=pytest.mark.full)],
    ids=["150 drawn", "2000 from photographs"],
)
def test_every_fault_is_found(tmp_path: Path, count: int, photographs: bool) -> None:
    expected = spoil(tmp_path / "mine", count, cut_photographs() if photographs else draw)
    grayish = Preprocessing(3, 64, None, "bilinear", True, (0.05, 0.05, 0.05), (0.2, 0.2, 0.2))
    report = check(tmp_path / "mine", tmp_path / "cache", grayish, labels_per_class=3)
    found: dict[str, list[set[str]]] = {}
    for finding in report.findings:
        found.setdefault(finding.kind, []).append(set(finding.paths))
    expected["few_images"] = []  # with a label budget, a class below it is an error instead
    for kind, groups in expected.items():
        assert sorted(map(sorted, found.pop(kind, []))) == sorted(map(sorted, groups)), kind
    assert found == {}
    assert report.has_errors
    unreadable = {finding.paths[0]: finding.message for finding in of_kind(report, "unreadable_image")}
    for name, words in FAULTS.items():
        assert words in unreadable[f"train/cat/{name}"]
    # What excludes other faults, and what only a table can have, has tests of its own.
    of_tables = {"bad_row", "repeated_row", "divided_group", "no_training", "zero_weights"}
    assert set(expected) | {"layout", "no_classes", "one_class"} | of_tables == set(KINDS)


def test_a_sound_folder_has_no_finding(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for split in ("train", "val", "test"):
        for name in ("a", "b"):
            for number in range(6):
                save(draw(rng), tmp_path / "mine" / split / name / f"{number}.png")
    report = check(tmp_path / "mine", tmp_path / "cache")
    assert report.findings == ()
    assert not report.has_errors
    assert {split: counter.total() for split, counter in report.counts.items()} == {0: 12, 1: 12, 2: 12}
    assert report.colours is not None
    pixels = np.stack([report.read(index) for index in range(36)]) / 255
    assert report.colours.mean == pytest.approx(pixels.mean(axis=(0, 1, 2)), abs=1e-6)
    assert report.colours.std == pytest.approx(pixels.std(axis=(0, 1, 2)), abs=1e-5)


def test_the_second_time_nothing_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    for name in ("a", "b"):
        for number in range(5):
            save(draw(rng), tmp_path / "mine" / name / f"{number}.png")
    first = check(tmp_path / "mine", tmp_path / "cache")
    asked: list[Path] = []

    def refuse(path: Path) -> np.ndarray:
        asked.append(path)
        raise GraftError("decoded again")

    monkeypatch.setattr("graft.data.measure.decode_image", refuse)
    again = check(tmp_path / "mine", tmp_path / "cache")
    assert again.findings == first.findings
    assert asked == []
    changed = tmp_path / "mine" / "a" / "0.png"
    changed.write_bytes(changed.read_bytes() + b" ")
    report = check(tmp_path / "mine", tmp_path / "cache")
    assert asked == [changed]
    assert [finding.paths for finding in of_kind(report, "unreadable_image")] == [("a/0.png",)]


def test_many_files_are_measured_by_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.data.measure._WORTH_PROCESSES", 1)
    rng = np.random.default_rng(3)
    for name in ("a", "b"):
        for number in range(60):
            save(draw(rng, 32, 32), tmp_path / "mine" / name / f"{number}.png")
    (tmp_path / "mine" / "a" / "7.png").write_bytes(b"no")
    report = check(tmp_path / "mine", tmp_path / "cache")
    monkeypatch.setattr("graft.data.measure._WORTH_PROCESSES", 1000)
    assert check(tmp_path / "mine", tmp_path / "other").findings == report.findings
    assert of_kind(report, "unreadable_image")[0].paths == ("a/7.png",)


def test_an_interrupted_check_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    for name in ("a", "b"):
        for number in range(5):
            save(draw(rng), tmp_path / "mine" / name / f"{number}.png")
    monkeypatch.setattr("graft.data.measure._CHUNK", 3)
    asked: list[str] = []

    def interrupt(path: Path) -> np.ndarray:
        asked.append(path.name)
        if len(asked) == 7:
            raise KeyboardInterrupt
        return decode_image(path)

    monkeypatch.setattr("graft.data.measure.decode_image", interrupt)
    with pytest.raises(KeyboardInterrupt):
        check(tmp_path / "mine", tmp_path / "cache")
    assert check(tmp_path / "mine", tmp_path / "cache").findings == ()
    assert len(asked) == 7 + 4


def test_a_part_of_a_folder_does_not_forget_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(9)
    for number in range(4):
        save(draw(rng), tmp_path / "mine" / "a" / f"{number}.png")
    names = [f"a/{number}.png" for number in range(4)]
    whole = measure_files(tmp_path / "mine", names, tmp_path / "cache")
    save(draw(rng), tmp_path / "mine" / "b" / "0.png")
    measure_files(tmp_path / "mine", ["b/0.png", "a/2.png"], tmp_path / "cache")
    monkeypatch.setattr("graft.data.measure.decode_image", None)
    again = measure_files(tmp_path / "mine", names, tmp_path / "cache")
    assert np.array_equal(again.rows, whole.rows)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    rng = np.random.default_rng(10)
    for name in ("a", "b"):
        save(draw(rng), tmp_path / "mine" / name / "0.png")
    bad = Path(os.fsdecode(os.fsencode(tmp_path / "mine" / "a") + b"/\xff.png"))
    bad.write_bytes(b"no image")
    report = check(tmp_path / "mine", tmp_path / "cache")
    assert "a/?.png" in of_kind(report, "unreadable_image")[0].message
    assert write_check(report, tmp_path / "report").exists()


def test_a_damaged_cache_costs_time_only(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    for name in ("a", "b"):
        for number in range(5):
            save(draw(rng), tmp_path / "mine" / name / f"{number}.png")
    first = check(tmp_path / "mine", tmp_path / "cache")
    for path in (tmp_path / "cache" / "check").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    assert check(tmp_path / "mine", tmp_path / "cache").findings == first.findings


@pytest.mark.parametrize(
    ("folders", "kind", "message"),
    [
        (["train/a", "train/b", "c"], "layout", "both splits (train) and classes (c)"),
        (["train/a", "train/b", "val/a", "valid/a"], "layout", "val, valid both mean one split"),
        (["val/a", "val/b"], "layout", "no folder train beside val"),
        (["a"], "one_class", "one class only: 'a'"),
        ([], "no_classes", "No image has a class"),
    ],
)
def test_layouts(tmp_path: Path, folders: list[str], kind: str, message: str) -> None:
    rng = np.random.default_rng(5)
    (tmp_path / "mine").mkdir()
    for folder in folders:
        save(draw(rng), tmp_path / "mine" / folder / "0.png")
    report = check(tmp_path / "mine", tmp_path / "cache")
    assert message in " ".join(finding.message for finding in of_kind(report, kind))
    assert report.has_errors


def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match=r"but .*gone does not exist"):
        check(tmp_path / "gone", tmp_path / "cache")
    (tmp_path / "file").write_text("")
    with pytest.raises(GraftError, match=r"but .*file is a file"):
        check(tmp_path / "file", tmp_path / "cache")


def test_sources_that_are_no_folder(tmp_path: Path) -> None:
    config = DataConfig(name="digits")
    seen: dict[str, int] = {}

    def listen(words: str) -> Callable[[int, int], None]:
        def hear(done: int, total: int) -> None:
            seen[words] = done
            assert done <= total

        return hear

    report = check_source(config, tmp_path, lambda channels: RGB_64, listen)
    assert seen["decoding images"] == 1797
    assert kinds(report) == {"small_images", "near_duplicates_unknown"}
    assert len(of_kind(report, "small_images")[0].paths) == 100
    assert of_kind(report, "small_images")[0].count == 1797
    assert check_source(config, tmp_path, lambda channels: RGB_64).findings == report.findings


def test_groups_keep_copies_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    pictures = [draw(rng) for _ in range(6)]
    for name, places in (("a", (0, 1, 2, 0)), ("b", (3, 4, 5))):
        for number, place in enumerate(places):
            save(pictures[place], tmp_path / "mine" / name / f"{number}.png")
    save(ALTER["cropped"](pictures[4]), tmp_path / "mine" / "b" / "9.png")
    images = open_images(DataConfig(name="folder", root=str(tmp_path / "mine")), tmp_path / "cache")
    expected = [0, 1, 2, 0, 4, 5, 6, 5]
    assert near_duplicate_groups(images, tmp_path / "cache").tolist() == expected
    by_files = near_duplicate_groups(images, tmp_path / "cache", root=tmp_path / "mine")
    assert by_files.tolist() == expected


def test_what_is_left_out() -> None:
    curable = [
        find("unreadable_image", "x.jpg is cut.", ["x.jpg"], leave_out=["x.jpg"]),
        find("leak", "The same.", ["train/a", "test/a"], leave_out=["train/a"]),
    ]
    with pytest.raises(GraftError, match=r"(?s)found 2:.*x\.jpg is cut.*data\.on_error=skip"):
        choose_left_out(curable, "stop")
    assert choose_left_out(curable, "skip") == {"x.jpg", "train/a"}
    assert choose_left_out([find("imbalance", "Uneven.")], "stop") == frozenset()
    with pytest.raises(GraftError, match=r"(?s)found 1:.*one class only.*does not help"):
        choose_left_out([*curable, find("one_class", "There is one class only.")], "skip")
