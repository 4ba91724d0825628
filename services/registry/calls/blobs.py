"""Calls that move blobs."""

# ruff: noqa: N802 (methods are named as in the contract)

import asyncio
from collections.abc import AsyncIterator
from functools import partial

from model_store.store import BlobRef
from services.registry.calls.base import Calls, Context
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.blob_files import CHUNK_BYTES
from tessera.errors import InvalidArgumentError


class BlobCalls(Calls):
    """See registry.proto for every method."""

    async def BeginUpload(self, request: pb.BeginUploadRequest, context: Context) -> pb.BeginUploadResponse:
        """Say how to send a blob."""
        return await asyncio.to_thread(self._registry.blobs.begin_upload, BlobRef(request.sha256, request.size_bytes))

    async def UploadBlob(self, request_iterator: AsyncIterator[pb.UploadBlobRequest], context: Context) -> pb.UploadBlobResponse:
        """Take a blob."""
        requests = aiter(request_iterator)
        first = await anext(requests, None)
        if first is None or first.WhichOneof("part") != "header":
            raise InvalidArgumentError("header: the first message of an upload must be the header", field="header")
        ref = BlobRef(first.header.sha256, first.header.size_bytes)
        await self._transfers.feed(partial(self._registry.blobs.write, ref), _chunks(requests, ref))
        return pb.UploadBlobResponse(sha256=ref.sha256)

    async def CompleteUpload(self, request: pb.CompleteUploadRequest, context: Context) -> pb.CompleteUploadResponse:
        """Take a blob that went to a presigned URL."""
        ref = BlobRef(request.sha256, request.size_bytes)
        await self._transfers.run(partial(self._registry.blobs.complete_upload, request.upload_id, ref))
        return pb.CompleteUploadResponse(sha256=ref.sha256)

    async def GetDownload(self, request: pb.GetDownloadRequest, context: Context) -> pb.GetDownloadResponse:
        """Say from where to read a blob."""
        return await asyncio.to_thread(self._registry.blobs.locate, request.sha256)

    async def DownloadBlob(self, request: pb.DownloadBlobRequest, context: Context) -> AsyncIterator[pb.DownloadBlobResponse]:
        """Send a blob."""
        async for chunk in self._transfers.pull(self._registry.blobs.read(request.sha256)):
            yield pb.DownloadBlobResponse(chunk=chunk)


async def _chunks(requests: AsyncIterator[pb.UploadBlobRequest], ref: BlobRef) -> AsyncIterator[bytes]:
    """Yield the chunks of an upload; one that is longer than announced is broken off at once."""
    left = ref.size_bytes
    async for request in requests:
        if request.WhichOneof("part") != "chunk":
            raise InvalidArgumentError("chunk: after the header only chunks may follow", field="chunk")
        if len(request.chunk) > CHUNK_BYTES:
            raise InvalidArgumentError(f"chunk: {len(request.chunk)} bytes; it takes at most {CHUNK_BYTES} (1 MiB)", field="chunk")
        left -= len(request.chunk)
        if left < 0:
            raise InvalidArgumentError(f"size_bytes: more came than the {ref.size_bytes} bytes announced", field="size_bytes")
        yield request.chunk
