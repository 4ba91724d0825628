"""The domain errors of Tessera.

Code below the gRPC layer raises these and nothing else on purpose; `tessera.rpc` translates them to gRPC status on the server and back
again in the client, so that a caller catches the same class on either side of the network. A message says what was wrong, with which
field and value, and what would be right.
"""

from collections.abc import Iterable
from typing import ClassVar


class TesseraError(Exception):
    """Base of all domain errors; by itself an internal error.

    Args:
        message: What was wrong and what would be right, for people.
        field: Path of the offending request field, for example `spec.hyperparameters.lr`; empty if none.
        retry_after_s: Seconds after which another try makes sense; None if it does not.
    """

    code: ClassVar[str] = "INTERNAL"
    """Name of the gRPC status code."""

    def __init__(self, message: str, *, field: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s


class InvalidArgumentError(TesseraError):
    """The request itself is wrong; sending it again will not help."""

    code = "INVALID_ARGUMENT"

    @classmethod
    def unknown(cls, what: str, value: str, known: Iterable[str], *, field: str = "") -> "InvalidArgumentError":
        """Return the error for a name that is not one of a known few, which it lists."""
        return cls(f"unknown {what} {value!r}; known: {', '.join(sorted(known)) or 'none'}", field=field)


class NotFoundError(TesseraError):
    """What the request names does not exist."""

    code = "NOT_FOUND"


class AlreadyExistsError(TesseraError):
    """What the request would make exists already."""

    code = "ALREADY_EXISTS"


class FailedPreconditionError(TesseraError):
    """The request is right, but not in the present state; something else has to happen first."""

    code = "FAILED_PRECONDITION"


class ConflictError(TesseraError):
    """Somebody else was faster (compare-and-swap); read again and decide again."""

    code = "ABORTED"


class StaleFenceError(ConflictError):
    """A later attempt has taken over; the caller must stop."""


class ResourceExhaustedError(TesseraError):
    """A limit is reached: a full queue, a full disk, a message that is too large."""

    code = "RESOURCE_EXHAUSTED"


class DeadlineExceededError(TesseraError):
    """The caller's time is over; its work was dropped."""

    code = "DEADLINE_EXCEEDED"


class CancelledError(TesseraError):
    """The caller gave up."""

    code = "CANCELLED"


class UnauthenticatedError(TesseraError):
    """No token, or one that is not known."""

    code = "UNAUTHENTICATED"


class PermissionDeniedError(TesseraError):
    """The token is known but its role does not allow this."""

    code = "PERMISSION_DENIED"


class UnavailableError(TesseraError):
    """What the request needs is not reachable now; an idempotent request may be tried again."""

    code = "UNAVAILABLE"


class DataLossError(TesseraError):
    """Stored bytes are not what was written: a digest does not match."""

    code = "DATA_LOSS"
