from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np

from graft.plan.spec import RunSpec
from graft.track.archive import Archive
from graft.track.store import Store
from graft.track.writer import recording

Plan = Callable[..., RunSpec]


def finish(store: Store, spec: RunSpec, folder: Path | None) -> str:
    with recording(store, spec, None, {}) as writer:
        assert writer is not None
        for step, value in ((10, 0.5), (20, 0.7), (30, 0.6)):
            writer.record({"val/accuracy": value}, step)
        writer.conclude({"val/accuracy": 0.7}, 30)  # that of the chosen weights
        if folder is not None:
            writer.log_folder(folder)
    return writer.run_id


def write_predictions(folder: Path, **arrays: np.ndarray) -> Path:
    np.savez_compressed(folder / "predictions.npz", **arrays)
    return folder


def test_what_a_run_left_is_read_back(store: Store, plan: Plan, tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    folder = write_predictions(tmp_path, index=np.arange(4), label=np.array([0, 1, 2, 0]), scores=scores)
    run_id = finish(store, plan("kept"), folder)
    archive = Archive(store)
    saved = archive.test_scores(run_id)
    assert saved is not None
    assert saved.index.tolist() == [0, 1, 2, 3]
    assert saved.label.tolist() == [0, 1, 2, 0]
    np.testing.assert_array_equal(saved.scores, scores.astype(np.float64))
    assert archive.history(run_id, "val/accuracy") == [(10, 0.5), (20, 0.7), (30, 0.6)]
    assert archive.history(run_id, "val/macro_f1") == []


def test_what_is_missing_or_damaged_is_none(store: Store, plan: Plan, tmp_path: Path) -> None:
    assert Archive(store).test_scores(finish(store, plan("kept", seed=1), None)) is None
    good = {"index": np.arange(2), "label": np.arange(2), "scores": np.zeros((2, 2))}
    for seed, change in enumerate(
        (
            {"scores": np.zeros(2)},
            {"scores": np.full((2, 2), np.nan)},
            {"label": np.arange(3)},
            {"copied": np.ones(3)},
        ),
        2,
    ):
        run_id = finish(store, plan("kept", seed=seed), write_predictions(tmp_path, **(good | change)))
        assert Archive(store).test_scores(run_id) is None
    run_id = finish(store, plan("kept", seed=9), write_predictions(tmp_path, **good))
    place = Path(unquote(urlsplit(store.client.get_run(run_id).info.artifact_uri).path))
    (place / "predictions.npz").write_bytes(b"PK but no archive")
    assert Archive(store).test_scores(run_id) is None
