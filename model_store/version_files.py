"""Files of versions on this machine: fetched once from the registry, kept while they are used, and for a while afterwards.

A cache directory holds one folder for each version, named by its manifest's digest; several processes may share it. Whoever uses a folder
holds a shared lock (flock) on it, which ends with the process whatever becomes of that; `prune` removes only what it can lock alone.
"""

import asyncio
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from model_store.manifest import FileEntry, Manifest
from tessera.blob_files import disk_errors
from tessera.blobs import BlobRef, BlobTransfers
from tessera.errors import InvalidArgumentError

_VERSION_FOLDER = re.compile(r"[0-9a-f]{64}")
_TEMPORARY = ".tmp-"
_RETRY_S = 0.01


class VersionFiles:
    """The folder of a version, protected from `prune` until it is closed; a context manager.

    Args:
        folder: The files lie below it as their paths in the manifest say.
        lock: Descriptor that holds the shared lock; closed with this object.
    """

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder = folder
        self._lock = lock
        self._touch()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Allow that the files are removed. To be called once."""
        self._touch()
        os.close(self._lock)

    def _touch(self) -> None:
        """Write down the time of its last use; not being allowed to is no reason not to use it."""
        with suppress(OSError):
            os.utime(self._lock)


async def materialize(transfers: BlobTransfers, manifest: Manifest, cache_dir: Path, wanted: Iterable[FileEntry]) -> VersionFiles:
    """Make sure that files of a version lie verified in its folder below `cache_dir`.

    What is there already is hashed again before it counts, so a file that was damaged on this disk is fetched anew; without one, the
    registry is not asked. Calls at the same time, also of other processes, are safe: a file takes its place at once and whole.

    Args:
        transfers: From the registry.
        manifest: Of the version.
        cache_dir: Made if missing.
        wanted: Those of its files that are needed.

    Returns:
        The folder, to be closed when the files are not needed any more.

    Raises:
        NotFoundError: The registry has a blob no longer.
        DataLossError: The registry's copy of a file is damaged.
        ResourceExhaustedError: The disk is full.
        UnavailableError: The registry cannot be reached, or the disk fails.
    """
    files = await _hold(cache_dir / manifest.digest())
    try:
        for file in wanted:
            path = files.folder / file.path
            if not await asyncio.to_thread(_is_intact, path, file.blob):
                await transfers.download_file(file.blob, path)
    except BaseException:
        files.close()
        raise
    return files


def prune(cache_dir: Path, keep_bytes: int) -> int:
    """Remove versions that no process uses, least recently used first, until the others take up at most `keep_bytes`. Blocking.

    What killed downloads left in a folder that nobody uses goes as well. Nothing else in the directory is touched.

    Args:
        cache_dir: As for `materialize`; need not exist.
        keep_bytes: 0 or more; versions in use are not counted.

    Returns:
        How many versions were removed.

    Raises:
        UnavailableError: The disk fails.
    """
    with disk_errors():
        for leftover in cache_dir.glob(f"{_TEMPORARY}*"):  # of a process that was killed in `_remove`
            shutil.rmtree(leftover, ignore_errors=True)
        folders = [folder for folder in cache_dir.glob("*") if _VERSION_FOLDER.fullmatch(folder.name)]
        unused = sorted(unused for folder in folders if (unused := _look_at(folder)))
        excess = sum(version.size_bytes for version in unused) - keep_bytes
        removed = 0
        for version in unused:
            if excess <= 0:
                break
            if _remove(version.folder):
                removed += 1
                excess -= version.size_bytes
        return removed


class _Unused(NamedTuple):
    """A version that nobody uses; they sort by the time of their last use."""

    used_ns: int
    size_bytes: int
    folder: Path


def _is_intact(path: Path, ref: BlobRef) -> bool:
    try:
        return path.is_file() and path.stat().st_size == ref.size_bytes and BlobRef.of_file(path) == ref
    except (OSError, InvalidArgumentError):  # unreadable, or removed meanwhile: fetch it
        return False


async def _hold(folder: Path) -> VersionFiles:
    """Make the folder of a version if there is none, and lock it; wait for a `prune` that looks at it."""
    while True:
        lock = _try_to_hold(folder)
        if lock is not None:
            return VersionFiles(folder, lock)
        await asyncio.sleep(_RETRY_S)


def _try_to_hold(folder: Path) -> int | None:
    with disk_errors():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return _lock(folder, fcntl.LOCK_SH)
        except FileNotFoundError:  # removed just now
            return None


def _lock(folder: Path, kind: int) -> int | None:
    """Return a descriptor that locks the folder, or None if somebody else's lock forbids that.

    Raises:
        FileNotFoundError: There is no such folder, or it was removed or replaced in this moment.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), folder.stat()):
            return descriptor
        raise FileNotFoundError(folder)
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Hold the folder against everybody; False if somebody uses it, or it is gone."""
    try:
        lock = _lock(folder, fcntl.LOCK_EX)
    except (FileNotFoundError, NotADirectoryError):
        lock = None
    try:
        yield lock is not None
    finally:
        if lock is not None:
            os.close(lock)


def _look_at(folder: Path) -> _Unused | None:
    """Return what an unused version takes up, less what killed downloads left there; None if it is in use."""
    with _alone(folder) as alone:
        if not alone:
            return None
        used_ns = folder.stat().st_mtime_ns
        size_bytes = 0
        for path in [path for path in folder.rglob("*") if path.is_file()]:
            if path.name.startswith(_TEMPORARY):
                path.unlink()
            else:
                size_bytes += path.stat().st_size
        os.utime(folder, ns=(used_ns, used_ns))  # removing files from it was no use
        return _Unused(used_ns, size_bytes, folder)


def _remove(folder: Path) -> bool:
    """Remove a version unless somebody has begun to use it. It disappears at once, so nobody ever finds half of it."""
    with _alone(folder) as alone:
        if alone:
            doomed = tempfile.mkdtemp(prefix=_TEMPORARY, dir=folder.parent)
            folder.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)  # another `prune` may help
        return alone
