"""Page tokens: where a page ended, opaque to callers and bound to the list that they page through."""

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from services.registry.checks import MAX_INT64
from services.registry.kinds import Value
from tessera.errors import InvalidArgumentError

DEFAULT_PAGE = 100
MAX_PAGE = 1000


@dataclass(frozen=True)
class PageRequest:
    """What a caller asks of any list.

    Args:
        size: 1 to 1000; 0 means 100.
        token: From the previous page; empty for the first.
        filter: See `filters`.
        order_by: See `filters`.
    """

    size: int = 0
    token: str = ""
    filter: str = ""
    order_by: str = ""

    def limit(self) -> int:
        """Return how many rows the page may have. Raises InvalidArgumentError."""
        if not 0 <= self.size <= MAX_PAGE:
            raise InvalidArgumentError(f"page_size: {self.size} is outside 1 to {MAX_PAGE} (0 means {DEFAULT_PAGE})", field="page_size")
        return self.size or DEFAULT_PAGE


@dataclass(frozen=True)
class Position:
    """The last row of a page.

    Args:
        value: Its value of the field that the list is ordered by; None if the row has none, or the order is the list's own.
        id: Its row number, which settles ties.
    """

    value: Value | None
    id: int


def encode(position: Position, request: PageRequest, scope: str) -> str:
    """Return the token of the page after `position`."""
    parts = [_fingerprint(request, scope), position.value, position.id]
    return base64.urlsafe_b64encode(json.dumps(parts, separators=(",", ":")).encode()).decode()


def decode(request: PageRequest, scope: str, stored: type[Value]) -> Position | None:
    """Return the position in a request's token, or None on the first page.

    Args:
        request: With the token.
        scope: What else the list depends on, for example the model.
        stored: The type of the field that the list is ordered by.

    Raises:
        InvalidArgumentError: The token is not from this list with this filter and order.
    """
    if not request.token:
        return None
    try:
        parts = json.loads(base64.b64decode(request.token, altchars=b"-_", validate=True))
    except (binascii.Error, UnicodeError, ValueError, RecursionError):
        parts = None
    match parts:
        case [fingerprint, value, int(row)] if (
            fingerprint == _fingerprint(request, scope) and 0 <= row <= MAX_INT64 and _valid(value, stored)
        ):
            return Position(value, row)
    raise InvalidArgumentError(
        "page_token: not a token of this list; send next_page_token unchanged, with the same filter and order_by", field="page_token"
    )


def _valid(value: object, stored: type[Value]) -> bool:
    return value is None or (type(value) is stored and (not isinstance(value, int) or abs(value) <= MAX_INT64) and value != "\0")


def _fingerprint(request: PageRequest, scope: str) -> str:
    parts: Sequence[str] = (scope, request.filter.strip(), request.order_by.strip())
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
