from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tessera.errors import InvalidArgumentError
from tessera.watched_files import WatchedFiles


def number(text: bytes) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise InvalidArgumentError("no number") from error


def test_what_is_made_follows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "number"
    path.write_text("1")
    watched = WatchedFiles("number", [path], number)
    assert (watched.value, watched.refresh()) == (1, False)
    path.write_text("2")
    with capture_logs() as logs:
        assert (watched.refresh(), watched.refresh(), watched.value) == (True, False, 2)
    assert [(line["event"], line["files"]) for line in logs] == [("number read again", [str(path)])]


def test_a_file_that_is_another_one_under_the_same_name_counts(tmp_path: Path) -> None:
    for text in "12":
        (tmp_path / text).write_text(text)
    path = tmp_path / "number"
    path.symlink_to("1")
    watched = WatchedFiles("number", [path], number)
    path.unlink()
    path.symlink_to("2")
    assert (watched.refresh(), watched.value) == (True, 2)


def test_what_cannot_be_used_changes_nothing_and_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "number"
    path.write_text("1")
    watched = WatchedFiles("number", [path], number)
    with capture_logs() as logs:
        path.write_text("one")
        assert [watched.refresh(), watched.refresh(), watched.value] == [False, False, 1]
        path.unlink()
        assert [watched.refresh(), watched.refresh(), watched.value] == [False, False, 1]
        path.write_text("1")
        assert not watched.refresh()
        path.write_text("one")
        assert not watched.refresh()
    assert {line["event"] for line in logs} == {"the new number cannot be used, the old stays"}
    assert [line["reason"] for line in logs] == ["no number", f"cannot read {path}: No such file or directory", "no number"]


def test_at_the_beginning_it_must_be_usable(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"cannot read .*: No such file"):
        WatchedFiles("number", [tmp_path / "missing"], number)
    (tmp_path / "number").write_text("one")
    with pytest.raises(InvalidArgumentError, match="no number"):
        WatchedFiles("number", [tmp_path / "number"], number)
