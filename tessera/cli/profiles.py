"""Profiles: installations that a person calls by a name. Each is a file `profiles/NAME.toml` under the home.

registry = "localhost:8010"
trainer = "localhost:8020"
inference = "localhost:8001"          # or several, asked in turn: "ipv4:127.0.0.1:8101,127.0.0.1:8102"
tls_ca = "/path/to/ca.pem"            # optional; a relative path is relative to this file
token_file = "/path/to/client.token"  # optional
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera.errors import InvalidArgumentError

ADDRESSES = ("registry", "trainer", "inference")
FILES = ("tls_ca", "token_file")


@dataclass(frozen=True)
class Profile:
    """How to reach an installation.

    Args:
        name: What people call it.
        file: Where that is written.
        addresses: Of registry, trainer and inference, as `tessera.rpc.address.servers` reads them.
        tls_ca: Certificates (PEM) that vouch for the servers; None for servers without TLS.
        token_file: File with the bearer token; None for servers that ask for none.
    """

    name: str
    file: Path
    addresses: dict[str, str]
    tls_ca: Path | None
    token_file: Path | None


def profile_names(home: Path) -> list[str]:
    """Return the names of all profiles under a home."""
    return sorted(file.stem for file in (home / "profiles").glob("*.toml"))


def read_profile(home: Path, name: str) -> Profile:
    """Return a profile.

    Args:
        home: Directory below which the profiles lie.
        name: Of the profile.

    Raises:
        InvalidArgumentError: There is none of this name, its file cannot be read, or it does not hold what it should.
    """
    known = profile_names(home)
    if name not in known:
        raise InvalidArgumentError(
            f"unknown profile {name!r}; known: {', '.join(known) or 'none'}. A profile is a file {home}/profiles/NAME.toml"
        )
    file = home / "profiles" / f"{name}.toml"
    settings = _read(file)
    if unknown := sorted(settings.keys() - {*ADDRESSES, *FILES}):
        raise InvalidArgumentError(f"{file}: unknown key {unknown[0]!r}; known: {', '.join((*ADDRESSES, *FILES))}")
    for key in (*ADDRESSES, *FILES):
        if key in settings and not (isinstance(settings[key], str) and settings[key]):
            raise InvalidArgumentError(f"{file}: {key} is {settings[key]!r}; write it as text, such as {_example(key)}")
        if key in ADDRESSES and key not in settings:
            raise InvalidArgumentError(f"{file}: {key} is missing; add {_example(key)}")

    def path(key: str) -> Path | None:
        return file.parent / Path(settings[key]).expanduser() if key in settings else None

    return Profile(name, file, {key: settings[key] for key in ADDRESSES}, path("tls_ca"), path("token_file"))


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        raise InvalidArgumentError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise InvalidArgumentError(f"{file} is not a TOML file: {error}") from error


def _example(key: str) -> str:
    value = "host:port" if key in ADDRESSES else "/path/to/file"
    return f'{key} = "{value}"'
