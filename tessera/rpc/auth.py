"""Tokens, the roles they carry, and the identity of the call being served."""

import hashlib
import hmac
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path

from tessera.errors import InvalidArgumentError, PermissionDeniedError
from tessera.watched_files import WatchedFiles

_SHA256_HEX_DIGITS = 64


class Role(IntEnum):
    """What a token may do; each role includes the ones below it."""

    READER = 1
    """Read and predict."""
    PUBLISHER = 2
    """Also train and register versions, point an alias at a version of one's own, as jobs do, and roll a rollout back, as servers do."""
    OPERATOR = 3
    """Also delete, collect garbage, point any alias at any version, and roll versions out."""


@dataclass(frozen=True)
class Grant:
    """What a token stands for."""

    sha256: str
    role: Role
    identity: str


_caller: ContextVar[Grant | None] = ContextVar("tessera_caller", default=None)


class Tokens:
    """The tokens that a server knows, by their SHA-256 digests: who reads the file cannot call the server."""

    def __init__(self, grants: list[Grant]) -> None:
        self._grants = grants

    def find(self, token: str) -> Grant | None:
        """Return what a token stands for, None if it is not known; takes as long whichever token it is."""
        digest = hash_token(token)
        found = None
        for grant in self._grants:
            if hmac.compare_digest(grant.sha256, digest):
                found = grant
        return found


class TokensFile(WatchedFiles[Tokens]):
    """The tokens of a file of lines `sha256-of-token role identity`; empty lines and lines that start with # are skipped.

    Args:
        path: Of the file.

    Raises:
        InvalidArgumentError: The file cannot be read, a line is not of that form, or there is none; the message names the line, never
            its content.
    """

    def __init__(self, path: Path) -> None:
        super().__init__("tokens file", [path], partial(_parse, path))

    def find(self, token: str) -> Grant | None:
        """Return what a token stands for at this moment, None if it is not known."""
        return self.value.find(token)


def hash_token(token: str) -> str:
    """Return the digest of a token as it stands in the tokens file (also: `printf %s "$TOKEN" | sha256sum`)."""
    return hashlib.sha256(token.encode()).hexdigest()


def current_identity() -> str:
    """Return who makes the call that is being served; `anonymous` on a server without tokens."""
    caller = _caller.get()
    return caller.identity if caller else "anonymous"


def set_caller(grant: Grant) -> None:
    """Say who makes the call of this task."""
    _caller.set(grant)


def require(least: Role, action: str) -> None:
    """Return if the call being served may do something; a server without tokens lets everybody.

    Args:
        least: The role that it takes.
        action: What it is, for the message.

    Raises:
        PermissionDeniedError: The caller has a lesser role.
    """
    caller = _caller.get()
    if caller and caller.role < least:
        raise PermissionDeniedError(f"{action} needs the role {least.name.lower()}; {caller.identity} is {caller.role.name.lower()}")


def _parse(path: Path, data: bytes) -> Tokens:
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"the tokens file {path} is not text (UTF-8)", field="tokens_file") from error
    grants = [_grant(line, path, number) for number, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#")]
    if not grants:
        raise InvalidArgumentError(f"the tokens file {path} holds no token, so nobody could call", field="tokens_file")
    return Tokens(grants)


def _grant(line: str, path: Path, number: int) -> Grant:
    match line.split():
        case [digest, role, identity] if len(digest) == _SHA256_HEX_DIGITS and set(digest.lower()) <= set("0123456789abcdef"):
            if role.upper() in Role.__members__:
                return Grant(digest.lower(), Role[role.upper()], identity)
            known = ", ".join(member.name.lower() for member in Role)
            raise InvalidArgumentError(f"{path}, line {number}: the role must be one of {known}", field="tokens_file")
    raise InvalidArgumentError(
        f"{path}, line {number}: must read `sha256-of-token role identity`, the first as 64 hexadecimal digits", field="tokens_file"
    )
