"""The client side of blob transfer: to and from the registry, by gRPC stream or by presigned URL, verified at both ends."""

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, ParamSpec, TypeVar

from tessera.api.registry.v1.registry_pb2 import (
    BeginUploadRequest,
    BlobHeader,
    CompleteUploadRequest,
    DownloadBlobRequest,
    GetDownloadRequest,
    PresignedUpload,
    UploadBlobRequest,
)
from tessera.blob_files import CHUNK_BYTES, BlobRef, OnProgress, VerifiedFile, disk_errors
from tessera.errors import CancelledError, InvalidArgumentError, UnavailableError
from tessera.presigned import AvoidedHosts, Tell, UnusableUrlError, get_head, get_url, put_url
from tessera.rpc.ending import answer_of
from tessera.rpc.status import rpc_errors

if TYPE_CHECKING:
    from tessera.api.registry.v1.registry_pb2_grpc import RegistryServiceAsyncStub

__all__ = ["BlobRef", "BlobTransfers", "OnProgress"]

P = ParamSpec("P")
T = TypeVar("T")

_TIMEOUT_S = 30.0
_STALL_S = 60.0  # as long as a store behind presigned URLs may be silent
_COMPLETE_TIMEOUT_S = 900.0  # the registry reads all of the object to verify it


class BlobTransfers:
    """Moves blobs to and from a registry, by presigned URL where it gives one.

    A host where such URLs lead nowhere from here (an object store in a network of its own) is avoided for a while: the registry streams its
    blobs instead. So whoever reaches the registry reaches all blobs.

    Args:
        stub: Of the registry.
    """

    def __init__(self, stub: "RegistryServiceAsyncStub") -> None:
        self._stub = stub
        self._avoided = AvoidedHosts()

    async def upload_file(self, path: Path, on_progress: OnProgress | None = None) -> BlobRef:
        """Store a file in the registry, unless it is there already.

        Args:
            path: The file, at most 2 GiB; it must not change meanwhile.
            on_progress: See `OnProgress`; not called if the blob is there already.

        Returns:
            Its digest and size.

        Raises:
            InvalidArgumentError: The file cannot be read, is too large, or changed while it was sent.
            ResourceExhaustedError: The store is full.
            UnavailableError: The registry or its store cannot be reached.
        """
        ref = await asyncio.to_thread(BlobRef.of_file, path)
        await self._upload(ref, lambda: _open(path), on_progress)
        return ref

    async def upload_bytes(self, data: bytes) -> BlobRef:
        """Store bytes in the registry, unless they are there already. Returns and raises what `upload_file` does."""
        ref = BlobRef.of_bytes(data)
        await self._upload(ref, lambda: io.BytesIO(data), None)
        return ref

    async def download_file(self, ref: BlobRef, destination: Path, on_progress: OnProgress | None = None) -> None:
        """Read a blob into a file, which appears only when it is complete and verified; what was there before is replaced.

        Args:
            ref: What to read.
            destination: Path of the file; missing folders are made.
            on_progress: See `OnProgress`.

        Raises:
            NotFoundError: The registry has no such blob.
            DataLossError: The bytes are not the promised ones.
            ResourceExhaustedError: The disk is full.
            UnavailableError: The registry or its store cannot be reached or falls silent, or the disk fails.
        """
        url, _ = await self._locate(ref.sha256)
        with disk_errors():
            destination.parent.mkdir(parents=True, exist_ok=True)
        if url:
            try:
                return await _stoppable(lambda tell: get_url(url, ref, destination, tell), ref, on_progress)
            except UnusableUrlError as error:
                self._avoided.add(url, error.message)
        return await _download_stream(self._stub, ref, destination, on_progress)

    async def read_head(self, sha256: str, head_bytes: int) -> tuple[BlobRef, bytes]:
        """Return the name of a blob with its size, and its first bytes, or all if it has fewer; they are not verified.

        Raises:
            NotFoundError: The registry has no such blob.
            UnavailableError: The registry or its store cannot be reached or falls silent.
        """
        url, size_bytes = await self._locate(sha256)
        ref = BlobRef(sha256, size_bytes)
        if url:
            try:
                return ref, await asyncio.to_thread(get_head, url, head_bytes)
            except UnusableUrlError as error:
                self._avoided.add(url, error.message)
        return ref, await _stream_head(self._stub, sha256, head_bytes)

    async def _locate(self, sha256: str) -> tuple[str, int]:
        """Return a URL to read a blob from, empty if it has to be streamed, and its size in bytes."""
        with rpc_errors():
            answer = await self._stub.GetDownload(GetDownloadRequest(sha256=sha256), timeout=_TIMEOUT_S)
        return ("" if answer.presigned_url in self._avoided else answer.presigned_url), answer.size_bytes

    async def _upload(self, ref: BlobRef, open_source: Callable[[], BinaryIO], on_progress: OnProgress | None) -> None:
        with rpc_errors():
            request = BeginUploadRequest(sha256=ref.sha256, size_bytes=ref.size_bytes)
            answer = await self._stub.BeginUpload(request, timeout=_TIMEOUT_S)
            if answer.exists:
                return
            if answer.HasField("presigned") and answer.presigned.url not in self._avoided:
                try:
                    await _upload_presigned(self._stub, ref, answer.presigned, open_source, on_progress)
                    return
                except UnusableUrlError as error:
                    self._avoided.add(answer.presigned.url, error.message)
            with open_source() as source:
                await answer_of(self._stub.UploadBlob(_upload_requests(ref, source, on_progress)))


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InvalidArgumentError(f"cannot read {str(path)!r}: {error.strerror}", field="path") from error


async def _upload_requests(ref: BlobRef, source: BinaryIO, on_progress: OnProgress | None) -> AsyncIterator[UploadBlobRequest]:
    yield UploadBlobRequest(header=BlobHeader(sha256=ref.sha256, size_bytes=ref.size_bytes))
    sent = 0
    while chunk := await asyncio.to_thread(source.read, CHUNK_BYTES):
        yield UploadBlobRequest(chunk=chunk)
        sent += len(chunk)
        if on_progress:
            on_progress(sent, ref.size_bytes)


async def _upload_presigned(
    stub: "RegistryServiceAsyncStub",
    ref: BlobRef,
    target: PresignedUpload,
    open_source: Callable[[], BinaryIO],
    on_progress: OnProgress | None,
) -> None:
    def put(tell: Tell) -> None:
        with open_source() as source:
            put_url(target.url, source, ref.size_bytes, tell)

    await _stoppable(put, ref, on_progress)
    request = CompleteUploadRequest(upload_id=target.upload_id, sha256=ref.sha256, size_bytes=ref.size_bytes)
    await stub.CompleteUpload(request, timeout=_COMPLETE_TIMEOUT_S)


async def _stream_head(stub: "RegistryServiceAsyncStub", sha256: str, head_bytes: int) -> bytes:
    head = bytearray()
    with rpc_errors():
        stream = stub.DownloadBlob(DownloadBlobRequest(sha256=sha256), timeout=_TIMEOUT_S)
        async for message in stream:
            head += message.chunk
            if len(head) >= head_bytes:
                stream.cancel()
                break
    return bytes(head[:head_bytes])


async def _download_stream(stub: "RegistryServiceAsyncStub", ref: BlobRef, destination: Path, on_progress: OnProgress | None) -> None:
    with VerifiedFile(ref, destination) as file, rpc_errors():
        moved = 0
        try:
            async with asyncio.timeout(_STALL_S) as patience:
                async for message in stub.DownloadBlob(DownloadBlobRequest(sha256=ref.sha256)):
                    patience.reschedule(asyncio.get_running_loop().time() + _STALL_S)
                    await _to_its_end(file.write, message.chunk)
                    moved += len(message.chunk)
                    if on_progress:
                        on_progress(moved, ref.size_bytes)
        except TimeoutError as error:
            raise UnavailableError(
                f"the registry sent nothing for {_STALL_S:g} seconds, after {moved} of {ref.size_bytes} bytes"
            ) from error
        await _to_its_end(file.commit)


async def _stoppable(transfer: Callable[[Tell], None], ref: BlobRef, on_progress: OnProgress | None) -> None:
    """Run a blocking transfer, which owns its files, in a thread; if the caller is cancelled it ends by itself soon after."""
    stop = threading.Event()

    def tell(moved_bytes: int) -> None:
        if stop.is_set():
            raise CancelledError("the transfer was given up")
        if on_progress:
            on_progress(moved_bytes, ref.size_bytes)

    try:
        await asyncio.to_thread(transfer, tell)
    finally:
        stop.set()


async def _to_its_end(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Like `asyncio.to_thread`, but a cancelled caller goes on only when the thread has let go of the file."""
    task = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
