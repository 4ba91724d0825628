"""Which servers a command talks to, and how it talks to them."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from tessera.errors import InvalidArgumentError

if TYPE_CHECKING:
    from tessera.client import Client
    from tessera.settings import ClientSettings

T = TypeVar("T")
SERVICES = ("registry", "trainer", "inference")


@dataclass(frozen=True)
class Connection:
    """What the options before the command say; None where they say nothing."""

    home: Path
    registry: str | None = None
    trainer: str | None = None
    inference: str | None = None
    timeout_s: float = 10.0
    token_file: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    allow_insecure: bool = False

    def addresses(self) -> dict[str, str]:
        """Return the address of every service: as told, else of the stack that runs under the home, else of the default ports."""
        from tessera.stack.home import Home
        from tessera.stack.ports import Ports
        from tessera.stack.state import addresses, running_stack

        stack = running_stack(Home(self.home))
        found = stack.addresses if stack is not None else addresses(Ports())
        told = {"registry": self.registry, "trainer": self.trainer, "inference": self.inference}
        return {name: told[name] or found[name] for name in SERVICES}

    def settings(self) -> "ClientSettings":
        """Return TLS files, token and deadline. Raises InvalidArgumentError if they do not go together."""
        from pydantic import SecretStr, ValidationError

        from tessera.settings import ClientSettings

        token = os.environ.get("TESSERA_TOKEN")  # never an option: command lines are seen by every user of the machine
        try:
            return ClientSettings(
                token=SecretStr(token) if token else None,
                token_file=self.token_file,
                tls_ca=self.tls_ca,
                tls_cert=self.tls_cert,
                tls_key=self.tls_key,
                allow_insecure=self.allow_insecure,
                timeout_s=self.timeout_s,
            )
        except ValidationError as error:
            raise InvalidArgumentError("; ".join(problem["msg"] for problem in error.errors())) from error

    def client(self) -> "Client":
        """Return a client, to be entered with `async with`."""
        import structlog

        from tessera.client import Client

        # Stdout is for results. The stream is looked up for each line: it may have been replaced and closed since.
        structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
        return Client(**self.addresses(), settings=self.settings())


def connection(ctx: typer.Context) -> Connection:
    """Return what the options before the command said."""
    found = ctx.find_object(Connection)
    if found is None:  # shell completion does not run the callback that reads them
        from tessera.stack.home import default_home

        told = {name: os.environ.get(f"TESSERA_{name.upper()}_ADDRESS") for name in SERVICES}
        return Connection(default_home(), registry=told["registry"], trainer=told["trainer"], inference=told["inference"])
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
