"""The registry's client: files in and out."""

from collections.abc import Callable
from pathlib import Path

import grpc

from tessera.api.registry.v1.registry_pb2 import GetDownloadRequest
from tessera.blobs import BlobRef, BlobTransfers
from tessera.client.calls import call
from tessera.client.registry_base import RegistryCalls


class BlobCalls(RegistryCalls):
    """Calls about blobs, which are named by their sha256."""

    def __init__(self, channel: grpc.aio.Channel, timeout_s: float = 10.0) -> None:
        super().__init__(channel, timeout_s)
        self.transfers = BlobTransfers(self.stub)

    async def upload_file(self, path: Path, on_progress: Callable[[int, int], None] | None = None) -> BlobRef:
        """Store a file unless it is stored already, and return its digest and size. `on_progress` is told the bytes done and in all.

        Raises:
            InvalidArgumentError: The file cannot be read, or is larger than 2 GiB.
            ResourceExhaustedError: The store is full.
        """
        return await self.transfers.upload_file(path, on_progress)

    async def upload_bytes(self, data: bytes) -> BlobRef:
        """Store bytes unless they are stored already, and return their digest and size."""
        return await self.transfers.upload_bytes(data)

    async def find_blob(self, sha256: str) -> BlobRef:
        """Return the digest of a stored blob with its size. Raises NotFoundError."""
        answer = await call(self.stub.GetDownload, GetDownloadRequest(sha256=sha256), timeout_s=self.timeout_s)
        return BlobRef(sha256, answer.size_bytes)

    async def read_head(self, sha256: str, head_bytes: int) -> tuple[BlobRef, bytes]:
        """Return the name of a stored blob with its size, and its first bytes, which are not verified. Raises NotFoundError."""
        return await self.transfers.read_head(sha256, head_bytes)

    async def download_file(self, ref: BlobRef, destination: Path, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Write a blob to a file; it appears complete and verified, or not at all.

        Raises:
            NotFoundError: No such blob.
            DataLossError: The bytes that came do not have the digest.
        """
        await self.transfers.download_file(ref, destination, on_progress)
