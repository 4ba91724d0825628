"""How the clients call: every call has a deadline, and only a call that may safely happen twice is tried again."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol, TypeVar

from tessera.api.common.v1.common_pb2 import ModelSelector
from tessera.client.wishes import Metadata
from tessera.errors import TesseraError, UnavailableError
from tessera.rpc.status import rpc_errors

Q_contra = TypeVar("Q_contra", contravariant=True)
A_co = TypeVar("A_co", covariant=True)
Q = TypeVar("Q")
A = TypeVar("A")

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
MOST_TRIES = 4


class UnaryMethod(Protocol[Q_contra, A_co]):
    """A unary method of a generated stub."""

    def __call__(self, request: Q_contra, /, *, timeout: float | None = None, metadata: Metadata | None = None) -> Awaitable[A_co]:
        """Send the request and return what to await."""


class Page(Protocol):
    """Any answer to a List call."""

    @property
    def next_page_token(self) -> str:
        """Token of the next page; empty on the last one."""


P = TypeVar("P", bound=Page)


def pause_s(failures: int) -> float:
    """Return the seconds to wait after this many failures in a row: growing, bounded, and spread so that not all come back at once."""
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 16)) * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret


async def call(method: UnaryMethod[Q, A], request: Q, *, timeout_s: float, repeatable: bool = False, metadata: Metadata | None = None) -> A:
    """Send one request and return the answer.

    Args:
        method: Method of a stub.
        request: What to send.
        timeout_s: Seconds for the whole call, all tries together.
        repeatable: For a write that may reach the server twice: send it again while the server is unavailable, a few times. Reads need
            not say so, the channel does that for every `Get...` and `List...`.
        metadata: Sent with it; see `tessera.client.wishes`.

    Raises:
        TesseraError: The subclass that matches the status.
    """
    deadline = time.monotonic() + timeout_s
    failures = 0
    while True:
        try:
            with rpc_errors():
                return await method(request, timeout=max(0.001, deadline - time.monotonic()), metadata=metadata)
        except UnavailableError as error:
            failures += 1
            pause = max(pause_s(failures), error.retry_after_s or 0.0)
            if not repeatable or failures == MOST_TRIES or time.monotonic() + pause >= deadline:
                raise
        await asyncio.sleep(pause)


async def pages(fetch: Callable[[str], Awaitable[P]]) -> AsyncIterator[P]:
    """Yield every page of a list.

    Args:
        fetch: Fetches the page with this token; the empty token stands for the first.

    Raises:
        TesseraError: Whatever `fetch` raises.
    """
    token = ""
    while True:
        page = await fetch(token)
        yield page
        token = page.next_page_token
        if not token:
            return


def selector(model: str, version: int | None, alias: str | None) -> ModelSelector:
    """Return what names a version: by number, by alias, or by the alias `champion` if neither is given."""
    if version is not None:
        return ModelSelector(model=model, version=version)
    if alias is not None:
        return ModelSelector(model=model, alias=alias)
    return ModelSelector(model=model)


def is_interruption(error: TesseraError) -> bool:
    """Tell whether a stream that ended with this error is worth opening again: the server went away, the request itself was fine."""
    return error.code in {"UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED"}
