"""Domain errors on the wire: `TesseraError` to gRPC status with google.rpc details, and back to the same class in the caller."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from tessera import errors
from tessera.errors import PermissionDeniedError, TesseraError, UnauthenticatedError, UnavailableError
from tessera.rpc.unreachable import why_unreachable
from tessera.times import to_duration

DOMAIN = "tessera"
"""`ErrorInfo.domain` of every error that Tessera raised itself."""

# Metadata beyond 8 KiB makes gRPC fail the whole call. The message travels twice: percent-encoded (up to three bytes for one) and in
# Base64.
_MAX_MESSAGE_BYTES = 1500
_MAX_FIELD_BYTES = 200

_FOREIGN = {"OUT_OF_RANGE": errors.InvalidArgumentError}


def _reason(cls: type[TesseraError]) -> str:
    """Return the name of an error class as ErrorInfo wants it: StaleFenceError is STALE_FENCE."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__.removesuffix("Error")).upper()


_CLASSES = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, TesseraError)]
_BY_REASON = {_reason(cls): cls for cls in _CLASSES}
_BY_CODE = {cls.code: cls for cls in reversed(_CLASSES)} | _FOREIGN  # reversed: the base class wins where two share a code


def to_status(error: TesseraError) -> grpc.Status:
    """Return the status of a domain error: code, message, and as details its class, field and pause before another try."""
    message = _clip(error.message, _MAX_MESSAGE_BYTES)
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=_reason(type(error)), domain=DOMAIN)]
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=_clip(error.field, _MAX_FIELD_BYTES))
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.CopyFrom(to_duration(error.retry_after_s))
        details.append(retry)
    status = Status(code=code_pb2.Code.Value(error.code), message=message)
    for detail in details:
        status.details.add().Pack(detail)
    converted: grpc.Status = rpc_status.to_status(status)
    return converted


def from_rpc_error(error: grpc.RpcError) -> TesseraError:
    """Return the domain error that a failed call stands for.

    An error raised by Tessera comes back as the class it was; one that gRPC itself made (no connection, a message too large) as the class
    of its code, TesseraError if there is none.
    """
    code = error.code()
    message = error.details() or code.name
    status = _rich_status(error)
    if status is None:
        return _from_grpc(code, message)
    info, bad_request, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for detail in status.details:
        for target in (info, bad_request, retry):
            if detail.Is(target.DESCRIPTOR):
                detail.Unpack(target)
    cls = _BY_CODE.get(code.name, TesseraError)
    if info.domain == DOMAIN:
        cls = _BY_REASON.get(info.reason, cls)
    field = bad_request.field_violations[0].field if bad_request.field_violations else ""
    retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None
    return cls(message, field=field, retry_after_s=retry_after_s)


@contextmanager
def rpc_errors() -> Iterator[None]:
    """Turn the gRPC errors of the block into domain errors: around `await stub.Method(...)` or `async for`.

    Raises:
        TesseraError: The subclass that the server raised, with its message, field and pause; UnavailableError naming the address if no
            connection could be made.
    """
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error


def for_callers(error: TesseraError) -> TesseraError:
    """Return what the callers of this service are told: that another service refuses this one is not their fault, and may pass."""
    refused = isinstance(error, UnauthenticatedError | PermissionDeniedError) and isinstance(error.__cause__, grpc.RpcError)
    return UnavailableError(f"another service refuses this one: {error.message}") if refused else error


def _from_grpc(code: grpc.StatusCode, message: str) -> TesseraError:
    if code is grpc.StatusCode.UNAVAILABLE:
        return UnavailableError(why_unreachable(message))
    if code is grpc.StatusCode.CANCELLED:
        # Not by the caller, who would see asyncio.CancelledError: a server that stops cancels what it has no time for.
        return UnavailableError(f"the server gave up the call: {message}")
    return _BY_CODE.get(code.name, TesseraError)(message)


def _rich_status(error: grpc.RpcError) -> Status | None:
    try:
        return rpc_status.from_call(error)
    except (ValueError, DecodeError):  # a proxy in between changed the code or the message
        return None


def _clip(text: str, limit: int) -> str:
    encoded = text.encode(errors="replace")  # Python reads file names that are no UTF-8 as lone surrogates
    return encoded.decode() if len(encoded) <= limit else encoded[: limit - 3].decode(errors="ignore") + "..."
