"""Which of the servers that share a TorchServe and its model store live, so that only what dead ones left there is removed."""

import fcntl
import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path

_OURS = re.compile(r".+-([0-9a-f]{8})-[0-9a-f]{8}")
_LOCK = ".owner"


class Owner:
    """This server among those that share a model store. Others know that it lives by a locked file there; the kernel unlocks it at its end.

    Args:
        model_store: Directory; made if missing.

    Raises:
        OSError: It cannot be written to.
    """

    def __init__(self, model_store: Path) -> None:
        self.id = uuid.uuid4().hex[:8]
        self._store = model_store
        self._store.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = self._store / f"{self.id}{_LOCK}"
        unseen = self._store / f".{self.id}"
        self._lock = os.open(unseen, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        unseen.rename(self._file)  # only now: an unlocked file would be that of a dead server

    def close(self) -> None:
        """Be dead for the others, who then remove what this server left."""
        os.close(self._lock)

    def settle_dead(self, remove: Callable[[str], None]) -> None:
        """Remove what dead servers left.

        Args:
            remove: Removes what a server with this id has registered. If it raises, somebody will try again.
        """
        for file in self._store.glob(f"*{_LOCK}"):
            if file != self._file:
                _settle(file, remove)

    def remove_archives(self, owner: str) -> None:
        """Remove the archives of a server."""
        for archive in self._store.glob("*.mar"):
            if owner_of(archive.stem) == owner:
                archive.unlink(missing_ok=True)


def name_for(model: str, version: int, owner: str) -> str:
    """Return a name that no other registration in TorchServe has or had."""
    return f"{model}-{version}-{owner}-{uuid.uuid4().hex[:8]}"


def owner_of(name: str) -> str:
    """Return the id of the server whose registration has this name; empty if it is nobody's."""
    found = _OURS.fullmatch(name)
    return found[1] if found else ""


def _settle(file: Path, remove: Callable[[str], None]) -> None:
    try:
        lock = os.open(file, os.O_RDWR)
    except FileNotFoundError:  # another server was faster
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove(file.name.removesuffix(_LOCK))
        file.unlink(missing_ok=True)
    except BlockingIOError:  # of a server that lives, or that another one is settling
        pass
    finally:
        os.close(lock)
