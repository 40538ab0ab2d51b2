from __future__ import annotations

import numpy as np
import pytest

from graft.data import glyphs
from graft.data.glyphs import CHARACTERS, find_text_fonts, load_glyphs, render_glyphs


def test_fonts_are_text_fonts() -> None:
    names = {path.stem for path in find_text_fonts()}
    assert {"DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral", "cmr10"} <= names
    assert not {name for name in names if "Sym" in name or "NonUni" in name or "LastResort" in name}
    assert not {"cmex10", "cmsy10", "cmmi10"} & names


def test_rendering_is_deterministic_and_balanced() -> None:
    images, labels = render_glyphs(150, 3)
    again, _ = render_glyphs(150, 3)
    assert images.shape == (150, 8, 8)
    assert images.dtype == np.uint8
    assert np.array_equal(images, again)
    counts = np.bincount(labels, minlength=len(CHARACTERS))
    assert counts.max() - counts.min() <= 1
    assert not np.array_equal(render_glyphs(150, 4)[0], images)
    assert np.array_equal(render_glyphs(70, 3)[0], images[:70])


def test_ink_is_like_that_of_the_handwritten_digits() -> None:
    from sklearn.datasets import load_digits

    images, labels = render_glyphs(1240, 0)
    rendered = images[labels < 10] / 255.0
    written = load_digits().images / 16.0
    assert rendered.mean() == pytest.approx(written.mean(), abs=0.05)
    assert (rendered == 0).mean() == pytest.approx((written == 0).mean(), abs=0.08)
    assert rendered.max(axis=(1, 2)).min() > 0.3
    for part in (slice(0, 1), slice(7, 8)):
        assert (rendered[:, part].max(axis=(1, 2)) > 0).mean() > 0.9
    correlations = [
        np.corrcoef(
            rendered[labels[labels < 10] == k].mean(0).ravel(),
            written[load_digits().target == k].mean(0).ravel(),
        )
        for k in range(10)
    ]
    assert min(matrix[0, 1] for matrix in correlations) > 0.6


def test_cache_is_used_and_a_damaged_one_is_drawn_again(tmp_path, monkeypatch) -> None:
    seen: list[tuple[int, int]] = []
    images, labels = load_glyphs(100, 0, tmp_path, lambda done, total: seen.append((done, total)))
    assert seen == [(100, 100)]
    (path,) = (tmp_path / "glyphs").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(glyphs, "render_glyphs", lambda *_: pytest.fail("drew again"))
        kept, kept_labels = load_glyphs(100, 0, tmp_path)
    assert np.array_equal(kept, images)
    assert np.array_equal(kept_labels, labels)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 4
    for damaged in (b"", whole[:500], bytes(flipped), b"nonsense"):
        path.write_bytes(damaged)
        assert np.array_equal(load_glyphs(100, 0, tmp_path)[0], images)
        assert [file.name for file in path.parent.iterdir()] == [path.name]
