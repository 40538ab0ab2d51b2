from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.track.journal import Journal, Message, say_batch, say_end, say_files

words = st.text(max_size=20)
points = st.tuples(words, st.floats(allow_infinity=False), st.integers(0, 2**50), st.integers(0, 10**9))
messages = st.one_of(
    st.builds(
        lambda numbers, tags: say_batch(numbers, tags=tags), st.lists(points), st.dictionaries(words, words)
    ),
    st.builds(say_end, st.sampled_from(["FINISHED", "KILLED"]), st.integers(0, 2**50)),
)


def compare(found: list[Message], expected: list[Message]) -> None:
    assert repr(found) == repr(expected), "NaN included"


@settings(max_examples=10)  # each line is brought to the disk
@given(st.lists(messages, max_size=6), st.text(max_size=30).map(lambda text: text.replace("\n", "")))
def test_what_was_kept_is_read_in_order(
    tmp_path_factory: pytest.TempPathFactory, said: list[Message], torn: str
) -> None:
    journal = Journal(tmp_path_factory.mktemp("journal") / "run")
    assert journal.read() == []
    for message in said:
        journal.append(message)
    compare(journal.read(), said)
    if said:
        with (journal.folder / "journal.jsonl").open("a", encoding="utf-8", errors="replace") as file:
            file.write(torn)  # its process died while it wrote the line
        compare(journal.read(), said)
        journal.append(said[0])
        compare(journal.read(), [*said, said[0]])
    journal.remove()
    assert not journal.folder.exists()


def test_files_are_copies(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run")
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    for number in range(2):
        (source / "deep" / "a.txt").write_text(f"a{number}")
        journal.append(say_files(source, "there"))
    (source / "deep" / "a.txt").unlink()
    kept = journal.read()
    assert [message.content["path"] for message in kept] == ["there"] * 2
    folders = [Path(message.content["folder"]) for message in kept]
    assert [(folder / "deep" / "a.txt").read_text() for folder in folders] == ["a0", "a1"]
