"""Blobs on this machine: their names (digest and size), and files that take their place only if they hold the promised bytes."""

import errno
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tessera.errors import DataLossError, InvalidArgumentError, ResourceExhaustedError, TesseraError, UnavailableError
from tessera.names import check_sha256

CHUNK_BYTES = 1 << 20
"""Bytes are read, sent and hashed in pieces of at most this size."""

MAX_BLOB_BYTES = 2 << 30
"""Largest blob, bytes."""

LEAST_ROOM_BYTES = 256 << 10
"""A volume with less room is full for all that we write."""

OnProgress = Callable[[int, int], None]
"""Called with the bytes moved so far and the bytes in all, from any thread; begins anew after a broken connection."""

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class BlobRef:
    """The name of a blob: what it holds and how much.

    Args:
        sha256: 64 lower-case hexadecimal digits.
        size_bytes: 0 to 2 GiB.

    Raises:
        InvalidArgumentError: One of them is not.
    """

    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        check_sha256(self.sha256, "sha256")
        if not 0 <= self.size_bytes <= MAX_BLOB_BYTES:
            raise InvalidArgumentError(f"size_bytes: {self.size_bytes} is outside 0 to {MAX_BLOB_BYTES} (2 GiB)", field="size_bytes")

    @classmethod
    def of_bytes(cls, data: bytes) -> Self:
        """Return the name of `data`."""
        return cls(hashlib.sha256(data).hexdigest(), len(data))

    @classmethod
    def of_file(cls, path: Path) -> Self:
        """Return the name of what the file at `path` holds now.

        Raises:
            InvalidArgumentError: It cannot be read, or is larger than 2 GiB.
        """
        digest = hashlib.sha256()
        size = 0
        try:
            for chunk in read_chunks(path):
                digest.update(chunk)
                size += len(chunk)
        except OSError as error:
            raise InvalidArgumentError(f"cannot read {str(path)!r}: {error.strerror}", field="path") from error
        return cls(digest.hexdigest(), size)


class Verifier:
    """Compares bytes that pass by with the digest and the size that they were announced with.

    Args:
        sha256: The digest.
        size_bytes: The size; None if only the digest is known.
        error: What to raise if they differ: `InvalidArgumentError` for what a caller sends, `DataLossError` for what was stored.
    """

    def __init__(self, sha256: str, size_bytes: int | None = None, *, error: type[TesseraError] = DataLossError) -> None:
        self._sha256 = sha256
        self._size_bytes = size_bytes
        self._error = error
        self._hash = hashlib.sha256()
        self.seen_bytes = 0

    def update(self, chunk: bytes) -> None:
        """Take the next bytes. Raises the error as soon as there are too many, so that an endless sender fills no disk."""
        self.seen_bytes += len(chunk)
        if self._size_bytes is not None and self.seen_bytes > self._size_bytes:
            raise self._error(f"blob {self._sha256} has more than its {self._size_bytes} bytes", field="size_bytes")
        self._hash.update(chunk)

    def finish(self) -> None:
        """Raise the error unless all bytes were seen and they are the right ones."""
        if self._size_bytes is not None and self.seen_bytes != self._size_bytes:
            raise self._error(f"blob {self._sha256} has {self.seen_bytes} bytes instead of {self._size_bytes}", field="size_bytes")
        if self._hash.hexdigest() != self._sha256:
            raise self._error(f"the bytes have the sha256 {self._hash.hexdigest()}, not {self._sha256}", field="sha256")


class VerifiedFile:
    """A temporary file that becomes `destination` only if it holds exactly the promised bytes; otherwise nothing stays behind.

    A context manager: write, then `commit`; leaving without `commit` removes it.

    Args:
        ref: What it must hold.
        destination: Its final path; what is there is replaced. The folder must exist.
        folder: Where the temporary file lives, on the same filesystem; by default beside the destination.
        error: What to raise if the bytes are not the promised ones.

    Raises:
        ResourceExhaustedError: No space is left (from every method).
        UnavailableError: The filesystem fails otherwise.
    """

    def __init__(self, ref: BlobRef, destination: Path, *, folder: Path | None = None, error: type[TesseraError] = DataLossError) -> None:
        self._ref = ref
        self._destination = destination
        self._error = error
        with disk_errors():
            descriptor, name = tempfile.mkstemp(prefix=".tmp-", dir=folder or destination.parent)
        self._temporary = Path(name)
        # Unbuffered: after an error, closing has nothing left to write and cannot fail again.
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        self.restart()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    @property
    def written_bytes(self) -> int:
        """Bytes written so far."""
        return self._verifier.seen_bytes

    def write(self, chunk: bytes) -> None:
        """Append bytes."""
        self._verifier.update(chunk)
        rest = memoryview(chunk)
        with disk_errors():
            while rest:
                rest = rest[self._file.write(rest) :]

    def restart(self) -> None:
        """Forget what was written, to begin again after a broken connection."""
        self._verifier = Verifier(self._ref.sha256, self._ref.size_bytes, error=self._error)
        with disk_errors():
            self._file.seek(0)
            self._file.truncate()

    def commit(self) -> None:
        """Verify, make durable and rename. Raises the error if the bytes are not the promised ones."""
        self._verifier.finish()
        with disk_errors():
            os.fsync(self._file.fileno())
            self._temporary.replace(self._destination)
            sync_folder(self._destination.parent)


def read_chunks(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file in pieces of at most 1 MiB; raises OSError."""
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: without it a rename may be lost when the machine loses power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_room(folder: Path, least_bytes: int = LEAST_ROOM_BYTES) -> None:
    """Return if there is room for this many bytes on the volume of a folder.

    Raises:
        ResourceExhaustedError: There is none.
        UnavailableError: The filesystem fails.
    """
    with disk_errors():
        volume = os.statvfs(folder)
    if volume.f_bavail * volume.f_frsize < least_bytes:
        # Not how many are free: that may change every second, and what changes is logged again.
        raise ResourceExhaustedError(f"no space left at {str(folder)!r}: fewer than {least_bytes:,} bytes are free; free some")
    if volume.f_files and not volume.f_favail:  # some filesystems do not count files
        raise ResourceExhaustedError(f"no space left at {str(folder)!r}: it can hold no more files; remove some")


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn an OSError of the filesystem into the domain error that tells what to do."""
    try:
        yield
    except OSError as error:
        where = f" at {error.filename!r}" if error.filename else ""
        if error.errno in _NO_SPACE:
            raise ResourceExhaustedError(f"no space left{where} ({error.strerror}); free some and try again") from error
        raise UnavailableError(f"the filesystem failed{where}: {error.strerror or error}") from error
