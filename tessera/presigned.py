"""PUT and GET through presigned URLs of an object store. All of it blocks; call it in a thread."""

import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

import urllib3

from tessera.blob_files import CHUNK_BYTES, BlobRef, VerifiedFile
from tessera.errors import FailedPreconditionError, NotFoundError, ResourceExhaustedError, UnavailableError

Tell = Callable[[int], None]
"""Told the bytes moved so far, from 0 again after a broken connection; may raise to end the transfer."""

_TIMEOUT = urllib3.Timeout(connect=10.0, read=60.0)
_TRIES = 4
_BACKOFF_S = 0.25
_BUSY = frozenset({429, 500, 502, 503, 504})


def put_url(url: str, file: BinaryIO, size_bytes: int, tell: Tell) -> None:
    """Send a file with one PUT, again from its beginning after a broken connection or a busy answer.

    Args:
        url: Presigned for PUT.
        file: Seekable.
        size_bytes: Its size.
        tell: See `Tell`.

    Raises:
        UnavailableError: The store cannot be reached, or is busy, after several tries.
        FailedPreconditionError: It refuses the URL, for example because it has expired.
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
        UnavailableError: The store cannot be reached, or is busy, after several tries; the destination's disk fails.
        FailedPreconditionError: It refuses the URL, for example because it has expired.
        NotFoundError: The object is gone.
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
        except urllib3.exceptions.HTTPError as error:
            problem = f"the object store cannot be reached: {error}"
            continue
        if status not in _BUSY:
            return _check_status(status)
        problem = f"the object store is busy (status {status})"
    raise UnavailableError(f"{problem}; gave up after {_TRIES} tries")


def _check_status(status: int) -> None:
    match status:
        case HTTPStatus.OK | HTTPStatus.NO_CONTENT:
            return
        case HTTPStatus.NOT_FOUND:
            raise NotFoundError("the object store has no such object any more; ask the registry again")
        case HTTPStatus.INSUFFICIENT_STORAGE:
            raise ResourceExhaustedError("the object store is full; free some space and try again")
        case _:
            raise FailedPreconditionError(
                f"the object store refused the presigned URL (status {status}); if it has expired, ask for another"
            )
