"""Blobs: bytes in the store, and what the database knows about their use.

Whether a blob may be removed is decided under the registry's one lock (`changing`), and so is everything that makes a blob needed: no
upload is told "it is stored already", and no version is made, of a blob that is being removed.
"""

import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from model_store.artifact_files import check_beginning
from model_store.manifest import FileEntry
from model_store.store import BlobInfo, BlobRef, BlobStore
from services.registry.changes import changing
from services.registry.tables import BlobTouch
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.errors import (
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from tessera.names import check_sha256
from tessera.times import Clock, now, to_timestamp

log = structlog.get_logger()

URL_LIFETIME = timedelta(hours=1)
"""How long a presigned URL works."""


class Blobs:
    """What can be done with blobs. All methods block."""

    def __init__(self, engine: Engine, store: BlobStore, clock: Clock = now) -> None:
        self._engine = engine
        self._store = store
        self._clock = clock

    def begin_upload(self, ref: BlobRef) -> pb.BeginUploadResponse:
        """Return how to send a blob, or that it is stored already.

        Raises:
            InvalidArgumentError: A blob of this digest is stored and has another size.
        """
        with changing(self._engine) as session:
            if info := self._store.stat(ref.sha256):
                _check_size(info, ref)
                touch(session, [ref.sha256], self._clock())
                return pb.BeginUploadResponse(exists=True)
        upload_id = uuid.uuid4().hex
        url = self._store.presign_upload(upload_id, URL_LIFETIME)
        if url is None:
            return pb.BeginUploadResponse(stream=True)
        expire_time = to_timestamp(self._clock() + URL_LIFETIME // timedelta(microseconds=1))
        return pb.BeginUploadResponse(presigned=pb.PresignedUpload(url=url, upload_id=upload_id, expire_time=expire_time))

    def write(self, ref: BlobRef, chunks: Iterable[bytes]) -> None:
        """Store a blob, all or nothing. Raises what `BlobStore.write` and `chunks` raise."""
        with _want_of_room_logged(ref):
            self._store.write(ref, chunks)
        self._keep(ref)

    def complete_upload(self, upload_id: str, ref: BlobRef) -> None:
        """Verify and store what was sent to a presigned URL. Raises what `BlobStore.complete_upload` raises."""
        with _want_of_room_logged(ref):
            self._store.complete_upload(upload_id, ref)
        self._keep(ref)

    def locate(self, sha256: str) -> pb.GetDownloadResponse:
        """Return from where to read a blob. Raises NotFoundError."""
        info = self._store.stat(check_sha256(sha256, "sha256"))
        if info is None:
            raise NotFoundError(f"blob {sha256} is not stored", field="sha256")
        url = self._store.presign_download(sha256, URL_LIFETIME)
        if url is None:
            return pb.GetDownloadResponse(stream=True, size_bytes=info.size_bytes)
        return pb.GetDownloadResponse(presigned_url=url, size_bytes=info.size_bytes)

    def read(self, sha256: str) -> Iterator[bytes]:
        """Yield a blob in pieces, verified on the way. Raises what `BlobStore.read` raises."""
        return self._store.read(check_sha256(sha256, "sha256"))

    def _keep(self, ref: BlobRef) -> None:
        """Keep a blob that has just been sent from a garbage collection that saw it as old."""
        with changing(self._engine) as session:
            if self._store.stat(ref.sha256) is None:
                raise UnavailableError(f"blob {ref.sha256} was removed while it was sent; send it again", retry_after_s=0.0)
            touch(session, [ref.sha256], self._clock())


def touch(session: Session, digests: Iterable[str], time: int) -> None:
    """Note that blobs are about to be used, which makes them young for garbage collection; only within `changing`."""
    for sha256 in digests:
        session.merge(BlobTouch(sha256=sha256, time=time))


def touched_after(session: Session, sha256: str, time: int) -> bool:
    """Return whether a blob was touched after a moment."""
    return session.scalar(sa.select(BlobTouch.sha256).where(BlobTouch.sha256 == sha256, BlobTouch.time > time)) is not None


def stored_size(store: BlobStore, file: FileEntry) -> None:
    """Return if a file's blob is stored with the size that the manifest says. Raises FailedPreconditionError."""
    field = f"manifest.files.{file.path}"
    info = store.stat(file.sha256)
    if info is None:
        raise FailedPreconditionError(f"{file.path}: blob {file.sha256} is not stored; upload it first", field=field)
    if info.size_bytes != file.size_bytes:
        raise FailedPreconditionError(
            f"{file.path}: blob {file.sha256} has {info.size_bytes} bytes, the manifest says {file.size_bytes}", field=field
        )


def verify(store: BlobStore, file: FileEntry) -> None:
    """Read a file's blob to its end and look at its beginning.

    Raises:
        InvalidArgumentError: Its bytes are not what its role promises, for example a pickle in place of weights.
        FailedPreconditionError: It is not stored.
        DataLossError: It is damaged.
    """
    field = f"manifest.files.{file.path}"
    head: bytes | None = None
    try:
        for chunk in store.read(file.sha256):
            if head is None:
                head = chunk
        check_beginning(file.path, file.role, head or b"", file.size_bytes)
    except NotFoundError as error:
        raise FailedPreconditionError(f"{file.path}: blob {file.sha256} is not stored; upload it first", field=field) from error
    except InvalidArgumentError as error:
        raise InvalidArgumentError(error.message, field=field) from error
    except DataLossError as error:
        raise DataLossError(f"{file.path}: {error.message}", field=field) from error


@contextmanager
def _want_of_room_logged(ref: BlobRef) -> Iterator[None]:
    """Tell the operator what only the caller would hear of: there may be room for everything else."""
    try:
        yield
    except ResourceExhaustedError as error:
        log.warning("no room for a blob", sha256=ref.sha256, size_bytes=ref.size_bytes, reason=error.message)
        raise


def _check_size(info: BlobInfo, ref: BlobRef) -> None:
    if info.size_bytes != ref.size_bytes:
        message = f"size_bytes: blob {ref.sha256} has {info.size_bytes} bytes, not {ref.size_bytes}"
        raise InvalidArgumentError(message, field="size_bytes")
