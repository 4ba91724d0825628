"""What an S3 server answers, as the error that tells what to do."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

import urllib3
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from tessera.errors import NotFoundError, ResourceExhaustedError, TesseraError, UnavailableError

_CODE = re.compile(r"<Code>(\w+)</Code>")
_FULL = {"QuotaExceeded", "XMinioStorageFull", "InsufficientCapacity"}


class StoreFullError(ResourceExhaustedError):
    """The store itself says so; limits of callers are other errors."""


@contextmanager
def s3_errors(what: str) -> Iterator[None]:
    """Turn errors of the client into domain errors.

    Args:
        what: What is asked for, for the message of NotFoundError.

    Raises:
        NotFoundError: It does not exist.
        StoreFullError: The store is full.
        UnavailableError: The store or its bucket cannot be reached, or refuses the keys: a caller can only wait until a person mends that.
    """
    try:
        yield
    except MinioException as error:
        raise _answered(error, what) from error
    except urllib3.exceptions.HTTPError as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, urllib3.exceptions.ResponseError):
            raise UnavailableError(f"the S3 store failed ({reason}); look into its logs") from error
        raise UnavailableError(f"the S3 store cannot be reached: {reason}") from error


def _answered(error: MinioException, what: str) -> TesseraError:
    status, code = _status_and_code(error)
    if code == "NoSuchBucket":
        return UnavailableError("the bucket of the S3 store is gone; it is made anew when the service starts")
    if status == HTTPStatus.NOT_FOUND:
        return NotFoundError(f"{what} is not stored")
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return UnavailableError(
            f"the S3 store refused the access ({code or status}); check the access key, the secret key, and what they may do in the bucket"
        )
    if status == HTTPStatus.INSUFFICIENT_STORAGE or code in _FULL:
        return StoreFullError(f"the S3 store is full ({code or status}); free some space and try again")
    return UnavailableError(f"the S3 store failed ({code or status}); look into its logs")


def _status_and_code(error: MinioException) -> tuple[int, str]:
    if isinstance(error, S3Error):
        return error.response.status, error.code or ""
    if isinstance(error, ServerError):
        return error.status_code, ""
    if isinstance(error, InvalidResponseError):  # some servers call their XML text/xml, which the client does not read
        found = _CODE.search(str(error))
        return error._code, found[1] if found else ""
    return 0, str(error)
