"""A blob store in a bucket of any S3 server, reached through the `minio` client.

Nothing rests on conditional requests or on the meaning of an ETag, which servers handle differently: a blob is verified before its key
exists, and every read is verified again.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import BinaryIO, cast

import urllib3
from minio import Minio
from minio.commonconfig import CopySource
from minio.datatypes import Upload
from minio.error import MinioException

from model_store.s3_errors import StoreFullError, s3_errors
from model_store.store import BlobInfo, BlobRef
from tessera.blob_files import CHUNK_BYTES, Verifier
from tessera.errors import InvalidArgumentError, NotFoundError, UnavailableError
from tessera.fullness import Fullness
from tessera.names import check_sha256, is_sha256, shown

PART_BYTES = 8 << 20
"""A blob above this size is sent in parts of it; a few are in memory at once."""

_BLOBS = "blobs/sha256/"
_UPLOADS = "uploads/"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_UPLOAD_ID = re.compile(r"[0-9a-f]{32}")
_TRIES = 4


class S3Store:
    """Implements `BlobStore` on a bucket: `blobs/sha256/ab/abcd...` for what is complete, `uploads/` for what clients send.

    Args:
        bucket: Its name; `check` makes it if missing.
        endpoint: `host:port`, without a scheme.
        access_key: Name of the key.
        secret_key: The key itself.
        region: With which requests are signed.
        secure: TLS or not.
        public_endpoint: `host:port` for presigned URLs, where callers reach the same server by another name; empty for `endpoint`.
        public_secure: TLS or not, at `public_endpoint`.

    Raises:
        InvalidArgumentError: One of these cannot be right.
    """

    def __init__(
        self,
        bucket: str,
        *,
        endpoint: str,
        access_key: str,
        secret_key: str,
        region: str,
        secure: bool,
        public_endpoint: str = "",
        public_secure: bool = True,
    ) -> None:
        if not _BUCKET.fullmatch(bucket):
            raise InvalidArgumentError(f"{shown(bucket)} is no bucket name; it takes 3 to 63 of a-z, 0-9, '.' and '-'", field="blob_store")
        if not access_key or not secret_key:
            raise InvalidArgumentError("an S3 store needs both an access key and a secret key", field="s3_access_key")

        def client(host: str, field: str, *, tls: bool, timeout: urllib3.Timeout, tries: int) -> Minio:
            # Every request may be repeated: what is stored under a digest is the same whoever writes it and how often.
            busy = [429, 500, 502, 503, 504]
            retries = urllib3.Retry(total=tries - 1, backoff_factor=0.2, status_forcelist=busy, allowed_methods=None)
            http = urllib3.PoolManager(timeout=timeout, retries=retries, maxsize=16)
            try:
                return Minio(host, access_key, secret_key, region=region, secure=tls, http_client=http)
            except ValueError as error:
                raise InvalidArgumentError(f"{shown(host)} is no S3 endpoint ({error}); it takes host:port", field=field) from None

        self._bucket = bucket
        self._fullness = Fullness()
        patient, hasty = urllib3.Timeout(connect=5.0, read=120.0), urllib3.Timeout(connect=3.0, read=5.0)
        self._client = client(endpoint, "s3_endpoint", tls=secure, timeout=patient, tries=_TRIES)
        self._probe = client(endpoint, "s3_endpoint", tls=secure, timeout=hasty, tries=1)
        self._signer = self._client  # which sends nothing to sign a URL
        if public_endpoint:
            self._signer = client(public_endpoint, "s3_public_endpoint", tls=public_secure, timeout=hasty, tries=1)

    def check(self) -> None:
        """See `BlobStore.check`."""
        try:
            with s3_errors(f"bucket {self._bucket}"):
                self._make_bucket()
        except NotFoundError as error:
            raise UnavailableError(error.message) from error
        self._fullness.check()

    def write(self, ref: BlobRef, chunks: Iterable[bytes]) -> None:
        """See `BlobStore.write`."""
        reader = _VerifiedReader(ref, chunks)
        if not ref.size_bytes:
            reader.read(0)  # the client reads nothing for an empty object
        with self._writing():
            # The reader refuses wrong bytes together with the last part, so that the client aborts and the key never exists. One part
            # at a time: the client's threads are lost when the reader raises.
            source = cast(BinaryIO, reader)
            self._client.put_object(self._bucket, _key(ref.sha256), source, ref.size_bytes, part_size=PART_BYTES, num_parallel_uploads=1)

    def read(self, sha256: str) -> Iterator[bytes]:
        """See `BlobStore.read`."""
        return self._read(_key(sha256), f"blob {sha256}", Verifier(sha256))

    def stat(self, sha256: str) -> BlobInfo | None:
        """See `BlobStore.stat`."""
        try:
            with s3_errors(f"blob {sha256}"):
                found = self._client.stat_object(self._bucket, _key(sha256))
        except NotFoundError:
            return None
        return BlobInfo(sha256, cast(int, found.size), cast(datetime, found.last_modified))

    def delete(self, sha256: str) -> None:
        """See `BlobStore.delete`."""
        self._remove(_key(sha256))

    def list(self) -> Iterator[BlobInfo]:
        """See `BlobStore.list`."""
        with s3_errors(self._bucket):
            for found in self._client.list_objects(self._bucket, prefix=_BLOBS, recursive=True):
                name = cast(str, found.object_name).rpartition("/")[2]
                if is_sha256(name):
                    yield BlobInfo(name, cast(int, found.size), cast(datetime, found.last_modified))

    def presign_upload(self, upload_id: str, expires: timedelta) -> str | None:
        """See `BlobStore.presign_upload`."""
        with s3_errors(self._bucket):
            return self._signer.presigned_put_object(self._bucket, _sent_key(upload_id), expires)

    def complete_upload(self, upload_id: str, ref: BlobRef) -> None:
        """See `BlobStore.complete_upload`.

        The object is first moved out of reach of its URL, which may still be valid: otherwise it could change after it was verified.
        """
        sent = _sent_key(upload_id)
        taken = f"{sent}.taken"
        try:
            self._move(sent, taken)
        except NotFoundError:
            if self.stat(ref.sha256):  # completed before, by a call whose answer was lost
                return
            raise NotFoundError(f"nothing was uploaded as {upload_id!r}; PUT the blob to its URL first", field="upload_id") from None
        try:
            for _ in self._read(taken, f"upload {upload_id}", Verifier(ref.sha256, ref.size_bytes, error=InvalidArgumentError)):
                pass
            with self._writing():
                self._client.copy_object(self._bucket, _key(ref.sha256), CopySource(self._bucket, taken))
        finally:
            self._remove(taken)

    def presign_download(self, sha256: str, expires: timedelta) -> str | None:
        """See `BlobStore.presign_download`."""
        with s3_errors(self._bucket):
            return self._signer.presigned_get_object(self._bucket, _key(sha256), expires)

    def delete_uploads(self, older_than: datetime, *, dry_run: bool) -> int:
        """See `BlobStore.delete_uploads`."""
        parts = [upload for upload in self._unfinished() if cast(datetime, upload.initiated_time) < older_than]
        with s3_errors(_UPLOADS):
            found = self._client.list_objects(self._bucket, prefix=_UPLOADS, recursive=True)
            sent = [cast(str, file.object_name) for file in found if cast(datetime, file.last_modified) < older_than]
            if not dry_run:
                for key in sent:
                    self._client.remove_object(self._bucket, key)
                for upload in parts:
                    self._client._abort_multipart_upload(self._bucket, upload.object_name, cast(str, upload.upload_id))
        return len(sent) + len(parts)

    def _unfinished(self) -> Iterator[Upload]:
        """Yield the uploads in parts that a killed process left; the client has no public way to list them."""
        with suppress(NotFoundError), s3_errors(_UPLOADS):  # not found: so some servers say that there is none
            yield from self._client._list_multipart_uploads(self._bucket).uploads

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn errors of the client into domain errors, and remember that the store is full."""
        try:
            with s3_errors(self._bucket):
                yield
        except StoreFullError as error:
            self._fullness.found(error)
            raise

    def _make_bucket(self) -> None:
        if self._probe.bucket_exists(self._bucket):
            return
        try:
            self._probe.make_bucket(self._bucket)
        except MinioException:  # somebody else may have made it at the same moment
            if not self._probe.bucket_exists(self._bucket):
                raise

    def _read(self, key: str, what: str, verifier: Verifier) -> Iterator[bytes]:
        """Yield an object, going on where a connection broke off."""
        with s3_errors(what):
            for tries_left in reversed(range(_TRIES)):
                try:
                    for chunk in self._stream(key, verifier.seen_bytes):
                        verifier.update(chunk)
                        yield chunk
                    break
                except (urllib3.exceptions.ProtocolError, urllib3.exceptions.ReadTimeoutError):
                    if not tries_left:
                        raise
        verifier.finish()

    def _stream(self, key: str, offset: int) -> Iterator[bytes]:
        response = self._client.get_object(self._bucket, key, offset=offset)
        try:
            yield from response.stream(CHUNK_BYTES, decode_content=False)
        finally:
            response.close()
            response.release_conn()

    def _move(self, source: str, destination: str) -> None:
        with s3_errors(source):
            self._client.copy_object(self._bucket, destination, CopySource(self._bucket, source))
        self._remove(source)

    def _remove(self, key: str) -> None:
        with s3_errors(key):
            self._client.remove_object(self._bucket, key)


class _VerifiedReader:
    """Chunks of any size as the stream that the client reads from; refuses to hand out the last bytes if the whole is not as announced."""

    def __init__(self, ref: BlobRef, chunks: Iterable[bytes]) -> None:
        self._size_bytes = ref.size_bytes
        self._chunks = iter(chunks)
        self._verifier = Verifier(ref.sha256, ref.size_bytes, error=InvalidArgumentError)
        self._buffer = bytearray()

    def read(self, size: int) -> bytes:
        """Return exactly the next `size` bytes."""
        while len(self._buffer) < size and self._take():
            pass
        if len(self._buffer) < size or self._verifier.seen_bytes == self._size_bytes:
            while self._take():  # whatever comes now is too much, and refused
                pass
            self._verifier.finish()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _take(self) -> bool:
        chunk = next(self._chunks, None)
        if chunk is None:
            return False
        self._verifier.update(chunk)
        self._buffer += chunk
        return True


def _key(sha256: str) -> str:
    return f"{_BLOBS}{check_sha256(sha256, 'sha256')[:2]}/{sha256}"


def _sent_key(upload_id: str) -> str:
    if not _UPLOAD_ID.fullmatch(upload_id):
        raise InvalidArgumentError(f"{shown(upload_id)} is no upload id; take it from BeginUpload", field="upload_id")
    return f"{_UPLOADS}{upload_id}"
