"""Blobs as a tar archive, for backups: `python -m services.registry.archive pack` writes one, `unpack` reads it.

Both take the settings of the registry from the environment. Members are named by their digest. `pack` reads from stdin the digests that a
backup holds already, one a line, and leaves them out.
"""

import argparse
import io
import sys
import tarfile
from collections.abc import Collection, Iterator
from pathlib import PurePosixPath
from typing import IO, Any, BinaryIO

from model_store.store import BlobStore
from services.registry.settings import RegistrySettings
from services.registry.storage import configured_store
from tessera.blob_files import CHUNK_BYTES, BlobRef
from tessera.errors import DataLossError, InvalidArgumentError, NotFoundError, TesseraError
from tessera.settings import load_settings


def pack(store: BlobStore, known: Collection[str], target: BinaryIO) -> list[str]:
    """Write every blob of a store that is not known yet.

    Each is read twice: first to find out whether it is whole, so that a damaged one is left out and all others are saved.

    Args:
        store: Where the blobs lie.
        known: Digests to leave out.
        target: Takes the archive.

    Returns:
        The damaged blobs, one message each.

    Raises:
        UnavailableError: The store cannot be reached; the archive ends early.
    """
    damaged = []
    with tarfile.open(fileobj=target, mode="w|") as archive:
        for blob in store.list():
            if blob.sha256 in known:
                continue
            try:
                for _ in store.read(blob.sha256):
                    pass
            except NotFoundError:  # collected as garbage since it was listed
                continue
            except DataLossError as error:
                damaged.append(f"blob {blob.sha256} is damaged: {error.message}")
                continue
            member = tarfile.TarInfo(blob.sha256)
            member.size, member.mtime = blob.size_bytes, int(blob.modify_time.timestamp())
            archive.addfile(member, io.BufferedReader(_Chunks(store.read(blob.sha256))))
    return damaged


def unpack(store: BlobStore, source: BinaryIO) -> int:
    """Store every blob of an archive; those that are there already are written anew.

    Args:
        store: Takes the blobs.
        source: The archive.

    Returns:
        How many there were.

    Raises:
        InvalidArgumentError: It is no archive, a member has no digest for a name, or holds other bytes than its digest says.
        ResourceExhaustedError: The store is full.
        UnavailableError: The store cannot be reached.
    """
    count = 0
    try:
        with tarfile.open(fileobj=source, mode="r|") as archive:
            for member in archive:
                data = archive.extractfile(member)
                if data is not None:  # else a folder
                    store.write(BlobRef(PurePosixPath(member.name).name, member.size), _pieces(data))
                    count += 1
    except tarfile.TarError as error:
        raise InvalidArgumentError(f"stdin is no whole tar archive: {error}", field="archive") from error
    return count


class _Chunks(io.RawIOBase):
    """Chunks as a stream."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._rest = self._rest or memoryview(next(self._chunks, b""))
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def _pieces(data: IO[bytes]) -> Iterator[bytes]:
    while piece := data.read(CHUNK_BYTES):
        yield piece


def main() -> None:
    """Pack to stdout or unpack from stdin; exit code 1 if something failed or a blob is damaged."""
    parser = argparse.ArgumentParser(prog="python -m services.registry.archive", description=(__doc__ or "").strip())
    parser.add_argument("command", choices=["pack", "unpack"])
    command = parser.parse_args().command
    settings = load_settings(RegistrySettings, [])
    try:
        store = configured_store(settings)
        store.check()
        if command == "pack":
            problems = pack(store, frozenset(sys.stdin.read().split()), sys.stdout.buffer)
        else:
            print(f"{unpack(store, sys.stdin.buffer)} blobs stored")  # noqa: T201 - a command for people
            problems = []
    except TesseraError as error:
        problems = [error.message]
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
