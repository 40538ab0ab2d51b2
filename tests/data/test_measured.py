"""What is measured once is the same for all, and its file may be gone or damaged at any time."""

from __future__ import annotations

from graft.data.measured import measure_once


def test_numbers_are_measured_once_for_what_is_the_same(tmp_path):
    asked = []

    def measure():
        asked.append(1)
        return {"a/b": float(len(asked))}

    folder = tmp_path / "measured"
    assert measure_once(folder, "x", ("one", {"k": 1}), measure) == {"a/b": 1.0}
    assert measure_once(folder, "x", ("one", {"k": 1}), measure) == {"a/b": 1.0}
    assert measure_once(folder, "x", ("one", {"k": 2}), measure) == {"a/b": 2.0}
    assert measure_once(folder, "y", ("one", {"k": 1}), measure) == {"a/b": 3.0}


def test_a_damaged_file_is_measured_again(tmp_path):
    measure_once(tmp_path, "x", (), lambda: {"a": 1.0})
    (file,) = tmp_path.iterdir()
    for content in ("", "[1]", '{"a": null}', "{"):
        file.write_text(content)
        assert measure_once(tmp_path, "x", (), lambda: {"a": 2.0}) == {"a": 2.0}


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path):
    (tmp_path / "file").write_text("")
    for _ in range(2):
        assert measure_once(tmp_path / "file" / "below", "x", (), lambda: {"a": 2.0}) == {"a": 2.0}
