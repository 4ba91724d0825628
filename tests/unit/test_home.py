"""Who can read what a stack keeps."""

import os
import stat
from pathlib import Path

import pytest

from tessera.errors import FailedPreconditionError
from tessera.stack.home import Home


def modes(home: Home) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in [home.path, *home.path.iterdir()]}


def test_a_new_home_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    home = Home(tmp_path / "below" / "home")
    before = os.umask(0)
    try:
        home.make()
    finally:
        os.umask(before)
    assert modes(home) == {0o700}


def test_a_home_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.make()
    for path in [home.path, *home.path.iterdir()]:
        path.chmod(0o755)
    home.make()
    assert modes(home) == {0o700}


def test_a_place_that_all_users_share_is_no_home(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    with pytest.raises(FailedPreconditionError, match="is shared by all users; choose a directory below it with --home"):
        Home(tmp_path).make()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o1777
    assert not list(tmp_path.iterdir())


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FailedPreconditionError, match="cannot be the home of a stack: Not a directory; choose another --home"):
        Home(tmp_path / "file" / "home").make()
