"""The rules for texts that callers send: how long they may be, and that a database can keep them."""

import re

from tessera.errors import InvalidArgumentError
from tessera.names import shown

_FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def check_text(value: str, field: str, longest: int, *, least: int = 0) -> str:
    """Return `value` if it has `least` to `longest` characters and no control characters but tab and newline.

    Raises:
        InvalidArgumentError: It has not; PostgreSQL for one keeps no NUL.
    """
    if not least <= len(value) <= longest:
        raise InvalidArgumentError(f"{field}: {len(value)} characters; it takes {least} to {longest}", field=field)
    if _FORBIDDEN.search(value):
        raise InvalidArgumentError(f"{field}: {shown(value)} holds control characters", field=field)
    return value


def clean_text(value: str, longest: int) -> str:
    """Return `value` without control characters and not longer than `longest`: for what programs report, which must not be refused."""
    return _FORBIDDEN.sub("", value)[:longest]
