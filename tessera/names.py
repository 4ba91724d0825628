"""The rules for names and digests, the same for every service and for the client."""

import re

from tessera.errors import InvalidArgumentError

DEFAULT_ALIAS = "champion"
"""Names the version that is meant where none is given."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LONGEST_SHOWN = 64


def check_name(value: str, field: str) -> str:
    """Return `value` if it is a valid name of a model, family, architecture or runtime.

    Args:
        value: 1 to 128 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit. So it is one safe path segment too.
        field: Path of the request field, for the error.

    Raises:
        InvalidArgumentError: It is not.
    """
    if not _NAME.fullmatch(value):
        rule = "a name is 1 to 128 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit"
        raise InvalidArgumentError(f"{field}: {shown(value)} is not a valid name; {rule}", field=field)
    return value


def check_alias(value: str, field: str) -> str:
    """Return `value` if it is a valid alias: a name that is not made of digits alone, which would look like a version.

    Raises:
        InvalidArgumentError: It is not.
    """
    check_name(value, field)
    if value.isdigit():
        raise InvalidArgumentError(f"{field}: the alias {value!r} looks like a version number; use at least one letter", field=field)
    return value


def check_sha256(value: str, field: str) -> str:
    """Return `value` if it is a sha256 digest: 64 lower-case hexadecimal digits.

    Raises:
        InvalidArgumentError: It is not.
    """
    if not is_sha256(value):
        raise InvalidArgumentError(f"{field}: {shown(value)} is not a sha256; it takes 64 lower-case hexadecimal digits", field=field)
    return value


def is_sha256(value: str) -> bool:
    """Return whether `value` is a sha256 digest as we write it."""
    return _SHA256.fullmatch(value) is not None


def shown(value: object) -> str:
    """Return `value` as a short, printable text for an error message, whatever a caller sent."""
    if isinstance(value, str) and len(value) > _LONGEST_SHOWN:
        return f"{value[:_LONGEST_SHOWN]!a}... ({len(value)} characters)"
    text = ascii(value)
    return text if len(text) <= 2 * _LONGEST_SHOWN else f"{text[: 2 * _LONGEST_SHOWN]}..."
