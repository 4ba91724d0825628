"""The interface of a blob store. Blobs are named by their sha256, so equal files are stored once and every read can be verified.

All methods block; servers call them through `asyncio.to_thread`. All are safe to be called from many threads and processes at once.
Every method that takes a digest raises `InvalidArgumentError` if it is malformed, and `UnavailableError` if the store cannot be reached.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from tessera.blob_files import BlobRef

__all__ = ["BlobInfo", "BlobRef", "BlobStore"]


@dataclass(frozen=True)
class BlobInfo:
    """What a store knows about a blob without reading it.

    Args:
        sha256: Its digest, 64 lower-case hexadecimal digits.
        size_bytes: Its size as stored.
        modify_time: When it was written last; with time zone.
    """

    sha256: str
    size_bytes: int
    modify_time: datetime


class BlobStore(Protocol):
    """Keeps immutable blobs under their digest."""

    def check(self) -> None:
        """Make sure that the store can be used; makes its directory or bucket if missing.

        Raises:
            UnavailableError: It cannot be reached, or does not let us in.
            ResourceExhaustedError: It is full.
        """

    def write(self, ref: BlobRef, chunks: Iterable[bytes]) -> None:
        """Store a blob, all or nothing, in constant memory. A blob that is there already is written anew, which heals it.

        Args:
            ref: Digest and size that were announced.
            chunks: The bytes, in pieces of any size. An error raised by it passes through.

        Raises:
            InvalidArgumentError: The bytes are not the announced ones (`field` is `sha256` or `size_bytes`).
            ResourceExhaustedError: No space is left.
        """

    def read(self, sha256: str) -> Iterator[bytes]:
        """Yield a blob in pieces of at most 1 MiB, verified on the way: only a reader that reaches the end has the right bytes.

        Raises (at the first or a later step):
            NotFoundError: There is no such blob.
            DataLossError: At the end, if the stored bytes have changed.
        """

    def stat(self, sha256: str) -> BlobInfo | None:
        """Answer what is known about a blob, or None if it is not there. Its bytes are not read."""

    def delete(self, sha256: str) -> None:
        """Remove a blob; succeeds if it is gone already."""

    def list(self) -> Iterator[BlobInfo]:
        """Yield every blob, in no particular order; what else lies in the same place is left out."""

    def presign_upload(self, upload_id: str, expires: timedelta) -> str | None:
        """Answer a URL that takes one PUT of a staged object, or None if blobs have to be streamed through `write`.

        Args:
            upload_id: Chosen by the caller, at random: 32 lower-case hexadecimal digits.
            expires: How long the URL works, 1 s to 7 days.
        """

    def complete_upload(self, upload_id: str, ref: BlobRef) -> None:
        """Read the object staged under a presigned URL, verify it and move it to its place; a wrong one is removed.

        Raises:
            NotFoundError: Nothing was uploaded.
            InvalidArgumentError: The bytes are not the announced ones.
            FailedPreconditionError: This store gives no presigned URLs.
        """

    def presign_download(self, sha256: str, expires: timedelta) -> str | None:
        """Answer a URL from which the blob can be read with GET (the reader must verify it), or None if it has to be streamed."""

    def delete_uploads(self, older_than: datetime, *, dry_run: bool) -> int:
        """Remove what unfinished uploads left behind before a moment, and answer how many there were.

        Args:
            older_than: With time zone.
            dry_run: Only count.
        """
