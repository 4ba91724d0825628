"""Which servers a command talks to, and how it talks to them."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from tessera.cli.output import log_to_stderr
from tessera.cli.profiles import ADDRESSES, Profile, read_profile
from tessera.errors import InvalidArgumentError

if TYPE_CHECKING:
    from tessera.client import Client
    from tessera.settings import ClientSettings

T = TypeVar("T")


@dataclass(frozen=True)
class Connection:
    """What the options before the command say; None where they say nothing."""

    home: Path
    profile_name: str | None = None
    registry: str | None = None
    trainer: str | None = None
    inference: str | None = None
    timeout_s: float = 10.0
    token_file: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    allow_insecure: bool = False

    @cached_property
    def profile(self) -> Profile | None:
        """The profile that was named; single options win over it. Raises InvalidArgumentError if it cannot be used."""
        return read_profile(self.home, self.profile_name) if self.profile_name else None

    @property
    def names_servers(self) -> bool:
        """Whether a profile or an address was given, so that it is not about the stack of this machine alone."""
        return bool(self.profile_name or self.registry or self.trainer or self.inference)

    def addresses(self) -> dict[str, str]:
        """Return the address of every service: as told, else of the profile, the stack under the home, or the default ports."""
        told = {"registry": self.registry, "trainer": self.trainer, "inference": self.inference}
        found = self.profile.addresses if self.profile else self._local_addresses()
        return {name: told[name] or found[name] for name in ADDRESSES}

    def settings(self) -> "ClientSettings":
        """Return TLS files, token and deadline. Raises InvalidArgumentError if they do not go together."""
        from pydantic import SecretStr, ValidationError

        from tessera.settings import ClientSettings

        token = _token()
        try:
            return ClientSettings(
                token=SecretStr(token) if token else None,
                token_file=self.token_file or self._profile_token_file(),
                tls_ca=self.tls_ca or (self.profile.tls_ca if self.profile else None),
                tls_cert=self.tls_cert,
                tls_key=self.tls_key,
                allow_insecure=self.allow_insecure,
                timeout_s=self.timeout_s,
            )
        except ValidationError as error:
            raise InvalidArgumentError("; ".join(problem["msg"] for problem in error.errors())) from error

    def token_source(self) -> str:
        """Return where the token comes from, for people; empty if there is none."""
        return str(self.token_file or self._profile_token_file() or ("TESSERA_TOKEN" if _token() else ""))

    def client(self) -> "Client":
        """Return a client, to be entered with `async with`."""
        from tessera.client import Client

        log_to_stderr()
        return Client(**self.addresses(), settings=self.settings())

    def _profile_token_file(self) -> Path | None:
        return self.profile.token_file if self.profile and not _token() else None

    def _local_addresses(self) -> dict[str, str]:
        from tessera.stack.home import Home
        from tessera.stack.ports import Ports
        from tessera.stack.state import addresses, running_stack

        stack = running_stack(Home(self.home))
        return stack.addresses if stack is not None else addresses(Ports())


def _token() -> str | None:
    return os.environ.get("TESSERA_TOKEN")  # never an option: command lines are seen by every user of the machine


def connection(ctx: typer.Context) -> Connection:
    """Return what the options before the command said."""
    found = ctx.find_object(Connection)
    if found is None:  # shell completion parses them, but does not run the callback
        from tessera.stack.home import default_home

        told = ctx.find_root().params
        home, profile = told.get("home") or default_home(), told.get("profile")
        return Connection(home, profile, registry=told.get("registry"), trainer=told.get("trainer"), inference=told.get("inference"))
    return found


def run(ctx: typer.Context, main: Callable[["Client"], Awaitable[T]]) -> T:
    """Run a coroutine with a client and return its result.

    Raises:
        TesseraError: Whatever the calls raise; `tessera.cli.failures` tells the user.
    """

    async def session() -> T:
        async with connection(ctx).client() as client:
            return await main(client)

    return asyncio.run(session())
