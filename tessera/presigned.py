"""PUT and GET through presigned URLs of an object store. All of it blocks; call it in a thread."""

import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import structlog
import urllib3

from tessera.blob_files import CHUNK_BYTES, BlobRef, VerifiedFile
from tessera.errors import ResourceExhaustedError, UnavailableError

log = structlog.get_logger()

Tell = Callable[[int], None]
"""Told the bytes moved so far, from 0 again after a broken connection; may raise to end the transfer."""

_AVOIDED_S = 300.0
_TIMEOUT = urllib3.Timeout(connect=5.0, read=60.0)
_TRIES = 4
_BACKOFF_S = 0.25
_BUSY = frozenset({429, 500, 502, 503, 504})
_NO_CONNECTION = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError, urllib3.exceptions.SSLError)


class UnusableUrlError(UnavailableError):
    """A URL leads nowhere from here: no connection to its host, or one that refuses it, such as a stranger of the same name.

    Nothing was moved. The registry can stream what would have been moved, or say better what is wrong.
    """


class AvoidedHosts:
    """Hosts of presigned URLs that led nowhere, each for five minutes: a network may change, or a store come back."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def __contains__(self, url: str) -> bool:
        """Tell whether the host of a URL is avoided."""
        return self._until.get(urlsplit(url).netloc, 0.0) > time.monotonic()

    def add(self, url: str, reason: str) -> None:
        """Avoid the host of a URL from now on."""
        host = urlsplit(url).netloc
        self._until[host] = time.monotonic() + _AVOIDED_S
        log.info("presigned URLs lead nowhere from here, the registry streams its blobs", host=host, reason=reason)


def put_url(url: str, file: BinaryIO, size_bytes: int, tell: Tell) -> None:
    """Send a file with one PUT, again from its beginning after a broken connection or a busy answer.

    Args:
        url: Presigned for PUT.
        file: Seekable.
        size_bytes: Its size.
        tell: See `Tell`.

    Raises:
        UnusableUrlError: No connection to its host, or the host refuses it.
        UnavailableError: The store breaks off, or is busy, in several tries.
        ResourceExhaustedError: It is full.
    """
    headers = {"Content-Length": str(size_bytes), "Content-Type": "application/octet-stream"}
    with _pool() as http:

        def put() -> int:
            return http.request("PUT", url, body=_chunks(file, tell), headers=headers).status

        _retry(put)


def get_url(url: str, ref: BlobRef, destination: Path, tell: Tell) -> None:
    """Read a blob with GET into a file that appears only when it is complete and verified.

    Args:
        url: Presigned for GET.
        ref: What it must yield.
        destination: Path of the file; its folder must exist.
        tell: See `Tell`.

    Raises:
        DataLossError: The bytes are not the promised ones.
        UnusableUrlError: No connection to its host, or the host refuses it.
        UnavailableError: The store breaks off, or is busy, in several tries; the destination's disk fails.
        ResourceExhaustedError: The destination's disk is full.
    """
    with VerifiedFile(ref, destination) as file, _pool() as http:

        def get() -> int:
            file.restart()
            response = http.request("GET", url, preload_content=False)
            try:
                if response.status == HTTPStatus.OK:
                    for chunk in response.stream(CHUNK_BYTES, decode_content=False):
                        file.write(chunk)
                        tell(file.written_bytes)
            finally:
                response.close()
            return response.status

        _retry(get)
        file.commit()


def get_head(url: str, head_bytes: int) -> bytes:
    """Return the first bytes of an object, or all if it has fewer, by GET from a presigned URL. Raises what `get_url` does of the store."""
    head = b""
    with _pool() as http:

        def get() -> int:
            nonlocal head
            response = http.request("GET", url, preload_content=False)
            try:
                if response.status == HTTPStatus.OK:
                    head = response.read(head_bytes, decode_content=False)
            finally:
                response.close()  # which ends the transfer: the rest is not read
            return response.status

        _retry(get)
    return head


def _pool() -> urllib3.PoolManager:
    """Make a client that neither retries nor follows redirects by itself, since only we can rewind what was moved."""
    return urllib3.PoolManager(timeout=_TIMEOUT, retries=False, blocksize=CHUNK_BYTES)


def _chunks(file: BinaryIO, tell: Tell) -> Iterator[bytes]:
    file.seek(0)
    while chunk := file.read(CHUNK_BYTES):
        yield chunk
        tell(file.tell())


def _retry(step: Callable[[], int]) -> None:
    """Run a step, which answers an HTTP status, until it succeeds, is refused, or has failed too often."""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_BACKOFF_S * 2**attempt)
        try:
            status = step()
        except _NO_CONNECTION as error:
            raise UnusableUrlError(f"the object store cannot be reached: {error}") from error
        except urllib3.exceptions.HTTPError as error:
            problem = f"the object store breaks off: {error}"
            continue
        if status not in _BUSY:
            return _check_status(status)
        problem = f"the object store is busy (status {status})"
    raise UnavailableError(f"{problem}; gave up after {_TRIES} tries")


def _check_status(status: int) -> None:
    if status == HTTPStatus.INSUFFICIENT_STORAGE:
        raise ResourceExhaustedError("the object store is full; free some space and try again")
    if status not in (HTTPStatus.OK, HTTPStatus.NO_CONTENT):
        raise UnusableUrlError(f"the presigned URL is refused (status {status}): it has expired, or the registry's S3 keys are wrong")
