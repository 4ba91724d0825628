"""Brings the files of a version from the registry to this machine, once."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from model_store.manifest import Manifest
from tessera.blobs import BlobRef, download_file
from tessera.errors import InvalidArgumentError

if TYPE_CHECKING:
    from tessera.api.registry.v1.registry_pb2_grpc import RegistryServiceAsyncStub


async def materialize(stub: "RegistryServiceAsyncStub", manifest: Manifest, cache_dir: Path) -> Path:
    """Make sure that all files of a version lie verified in a folder of their own below `cache_dir`.

    The folder is named by the manifest's digest. What is there already is hashed again before it counts, so a file that was damaged on
    this disk is fetched anew; without one, the registry is not asked. Calls at the same time, also of other processes, are safe: a file
    takes its place at once and whole.

    Args:
        stub: Of the registry.
        manifest: Of the version.
        cache_dir: Made if missing.

    Returns:
        The folder; the files lie below it as their paths in the manifest say.

    Raises:
        NotFoundError: The registry has a blob no longer.
        DataLossError: The registry's copy of a file is damaged.
        ResourceExhaustedError: The disk is full.
        UnavailableError: The registry cannot be reached, or the disk fails.
    """
    folder = cache_dir / manifest.digest()
    for file in manifest.files:
        path = folder / file.path
        if not await asyncio.to_thread(_is_intact, path, file.blob):
            await download_file(stub, file.blob, path)
    return folder


def _is_intact(path: Path, ref: BlobRef) -> bool:
    try:
        return path.is_file() and path.stat().st_size == ref.size_bytes and BlobRef.of_file(path) == ref
    except (OSError, InvalidArgumentError):  # unreadable, or removed meanwhile: fetch it
        return False
