"""Logs of child processes: bounded while they are written, read from their ends."""

from pathlib import Path

import pytest

from tessera.log_files import bound_log, log_tail


def test_a_log_over_the_limit_is_moved_and_its_writer_goes_on_at_the_beginning(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"0123456789")
        bound_log(path, 10)
        assert path.read_bytes() == b"0123456789", "the limit itself is allowed"
        writer.write(b"ab")
        bound_log(path, 10)
        assert path.read_bytes() == b""
        assert (tmp_path / "a.log.1").read_bytes() == b"23456789ab", "the copy holds the end, no more than the limit"
        writer.write(b"next")
        assert path.read_bytes() == b"next"
        writer.write(b"-and-more-of-it")
        bound_log(path, 10)
    assert (tmp_path / "a.log.1").read_bytes() == b"-more-of-it"[-10:]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.log", "a.log.1"]


def test_a_log_that_grows_while_it_is_copied_makes_no_larger_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"0123456789")
    measured = path.stat()
    path.write_bytes(b"0123456789-more")
    monkeypatch.setattr(Path, "stat", lambda _: measured)
    bound_log(path, 9)
    monkeypatch.undo()
    assert (tmp_path / "a.log.1").read_bytes() == b"123456789"


def test_a_log_that_cannot_be_copied_is_emptied(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"0123456789")
    (tmp_path / "a.log.1").mkdir()
    with pytest.raises(IsADirectoryError):
        bound_log(path, 5)
    assert path.read_bytes() == b""


def test_a_log_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    bound_log(tmp_path / "missing.log", 10)
    assert log_tail(tmp_path / "missing.log", 10) == ""


@pytest.mark.parametrize(
    ("content", "tail"),
    [(b"", ""), (b"one\n", "one"), (b"one\ntwo\nthree\n", "three"), (b"a long line without an end", "out an end"), (b"\xff\n", "\ufffd")],
)
def test_the_tail_begins_with_a_whole_line(tmp_path: Path, content: bytes, tail: str) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(content)
    assert log_tail(path, 10) == tail


def test_only_the_end_of_a_large_log_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    with path.open("wb") as log:
        log.truncate(2**40)  # a file of holes: reading it whole would not end well
        log.seek(0, 2)
        log.write(b"\nthe end\n")
    assert log_tail(path, 100) == "the end"
