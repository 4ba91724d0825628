"""What counts as room on a volume."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from tessera.blob_files import check_room
from tessera.errors import ResourceExhaustedError, UnavailableError

WELL = {"f_bavail": 100, "f_frsize": 4096, "f_files": 1000, "f_favail": 10}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"f_bavail": 99}, "fewer than 409,600 bytes are free"),
        ({"f_favail": 0}, "it can hold no more files"),
        ({"f_files": 0, "f_favail": 0}, ""),  # as btrfs answers
    ],
)
def test_room_is_bytes_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, int], said: str) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(**(WELL | changes)))
    if not said:
        check_room(tmp_path, 409_600)
        return
    with pytest.raises(ResourceExhaustedError, match=said):
        check_room(tmp_path, 409_600)


def test_a_folder_that_is_gone_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="No such file or directory"):
        check_room(tmp_path / "gone")
