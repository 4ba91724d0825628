"""Small files that may change while a process runs, such as certificates and tokens: what is made of them is made anew."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from tessera.errors import InvalidArgumentError

log = structlog.get_logger()

T = TypeVar("T")


class WatchedFiles(Generic[T]):
    """What is made of a few files, and made again when one of them has changed; a component of a process that looks every second.

    Files that cannot be used (half written, gone, wrong) change nothing: what was made before stays, and the log says so once.

    Args:
        name: What the files hold, for the log.
        paths: Of the files.
        make: Makes it of their contents, in the order of the paths; raises InvalidArgumentError if they are not what they must be.

    Attributes:
        name: As given.
        value: What was made last.

    Raises:
        InvalidArgumentError: They cannot be read, or cannot be used.
    """

    def __init__(self, name: str, paths: Sequence[Path], make: Callable[..., T]) -> None:
        self.name = name
        self._paths = paths
        self._make = make
        self._contents = self._read()
        self.value = make(*self._contents)
        self._problem = ""

    def refresh(self) -> bool:
        """Look at the files, and tell whether `value` is another one now. It blocks for as long as small files take to read."""
        try:
            contents = self._read()
            changed = contents != self._contents
            if changed:
                self.value = self._make(*contents)
        except InvalidArgumentError as error:
            if error.message != self._problem:
                log.warning(f"the new {self.name} cannot be used, the old stays", reason=error.message)
            self._problem = error.message
            return False
        self._contents, self._problem = contents, ""
        if changed:
            log.info(f"{self.name} read again", files=[str(path) for path in self._paths])
        return changed

    async def start(self) -> None:
        """Do nothing: the files have been read already."""

    async def stop(self) -> None:
        """Do nothing."""

    async def check(self) -> None:
        """Look at the files. Not in a thread: where many wait for one, a look at small files would be late."""
        self.refresh()

    def _read(self) -> list[bytes]:
        return [_read(path) for path in self._paths]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidArgumentError(f"cannot read {path}: {error.strerror}", field=str(path)) from error
