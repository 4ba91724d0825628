"""The registry as queued inference sees it: a store of inputs and results, which are held by leases for as long as they are needed."""

import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path

from tessera.blob_files import BlobRef, disk_errors
from tessera.client.registry import RegistryClient
from tessera.errors import NotFoundError
from tessera.times import Clock, now

LONGEST_WAIT = timedelta(days=7)
"""A request that was not computed after this time is dropped."""
INPUTS_LEASE_S = (LONGEST_WAIT + timedelta(days=1)).total_seconds()
"""Inputs are kept for longer than any request waits, seconds."""
HEAD_BYTES = 64 << 10
"""Of a file whose header is judged; the header of a scan takes less than 1 KiB."""
SHORTEST_LEASE_S = 1.0
"""The shortest lease that the registry grants, seconds."""


class Store:
    """Inputs and results.

    Args:
        registry: Where they are.
        work_dir: Where they lie while they are worked on; made if missing.
        clock: Answers the present.
    """

    def __init__(self, registry: RegistryClient, work_dir: Path, clock: Clock = now) -> None:
        self._registry = registry
        self._work_dir = work_dir
        self._clock = clock

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Yield an empty folder, which is removed at the end. Raises UnavailableError if the disk fails."""
        with disk_errors():
            self._work_dir.mkdir(parents=True, exist_ok=True)
            folder = tempfile.TemporaryDirectory(dir=self._work_dir, ignore_cleanup_errors=True)
        with folder as path:
            yield Path(path)

    def remove_leftovers(self) -> None:
        """Remove the folders of servers that were killed at work: those that are older than any request can be."""
        before = time.time() - LONGEST_WAIT.total_seconds()
        with suppress(OSError):  # none yet, or another server was faster
            for folder in self._work_dir.iterdir():
                if folder.stat().st_mtime < before:
                    shutil.rmtree(folder, ignore_errors=True)

    async def upload_bytes(self, data: bytes) -> BlobRef:
        """Store bytes. Raises UnavailableError if the registry cannot be reached."""
        return await self._registry.upload_bytes(data)

    async def upload(self, path: Path) -> BlobRef:
        """Store a file. Raises UnavailableError if the registry cannot be reached."""
        return await self._registry.upload_file(path)

    async def download(self, ref: BlobRef, path: Path) -> None:
        """Fetch a file.

        Raises:
            NotFoundError: It is not stored.
            DataLossError: What is stored is not what was.
            UnavailableError: The registry cannot be reached.
        """
        await self._registry.download_file(ref, path)

    @asynccontextmanager
    async def header(self, sha256: str, field: str) -> AsyncIterator[Path]:
        """Yield a file that stands for a stored one: of the same size and with the same beginning, but empty beyond it.

        So whoever opens safetensors files can judge the header of a large one that was not fetched.

        Raises:
            NotFoundError: It is not stored.
            UnavailableError: The registry cannot be reached, or the disk fails.
        """
        try:
            ref, head = await self._registry.read_head(sha256, HEAD_BYTES)
        except NotFoundError as error:
            raise _missing(sha256, field) from error
        with self.folder() as folder:
            with disk_errors(), (folder / "header").open("wb") as file:
                file.write(head)
                file.truncate(ref.size_bytes)
            yield folder / "header"

    async def hold_inputs(self, inference_id: str, sha256: str, field: str) -> None:
        """Make sure that the inputs of a request, which its `field` names, are stored, and keep them for as long as it may wait.

        Raises:
            NotFoundError: They are not stored.
            UnavailableError: The registry cannot be reached.
        """
        try:
            await self._registry.acquire_lease(_holder(inference_id, "inputs"), INPUTS_LEASE_S, blob_sha256=sha256)
        except NotFoundError as error:
            raise _missing(sha256, field) from error

    async def release_inputs(self, inference_id: str, sha256: str) -> None:
        """Keep the inputs of a request no longer. Raises UnavailableError if the registry cannot be reached."""
        with suppress(NotFoundError):  # gone already
            held = await self._registry.acquire_lease(_holder(inference_id, "inputs"), INPUTS_LEASE_S, blob_sha256=sha256)
            await self._registry.release_lease(held.lease_id)  # the same lease as before

    async def hold_result(self, inference_id: str, sha256: str, until: int) -> None:
        """Keep a result until then, microseconds.

        Raises:
            NotFoundError: It is not stored.
            UnavailableError: The registry cannot be reached.
        """
        seconds = (until - self._clock()) / 1e6
        if seconds > 0:
            lease_s = max(SHORTEST_LEASE_S, seconds)
            await self._registry.acquire_lease(_holder(inference_id, "result"), lease_s, blob_sha256=sha256)


def _missing(sha256: str, field: str) -> NotFoundError:
    return NotFoundError(f"the registry has no blob {sha256}; upload it first", field=f"{field}.sha256")


def _holder(inference_id: str, what: str) -> str:
    return f"queued-inference/{inference_id}/{what}"
