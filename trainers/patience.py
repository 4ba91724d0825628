"""Waiting for servers that are away: a training goes on without them, and its reports wait."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from tessera.client.calls import pause_s
from tessera.errors import CancelledError, DeadlineExceededError, UnavailableError

log = structlog.get_logger()
T = TypeVar("T")


async def patiently(what: str, call: Callable[[], Awaitable[T]], *, longest_pause_s: float = 5.0) -> T:
    """Return what `call` answers, and call it again, with growing pauses, for as long as the server is away.

    Args:
        what: For the log.
        call: Makes the call; it must be harmless to make it twice.
        longest_pause_s: Between two calls, seconds.

    Raises:
        TesseraError: The server answered with an error.
    """
    failures, told = 0, ""
    while True:
        try:
            return await call()
        except (UnavailableError, DeadlineExceededError, CancelledError) as error:
            failures += 1
            if error.message != told:  # not with every try
                log.warning("waiting for a server", what=what, reason=error.message)
            told = error.message
        await asyncio.sleep(min(longest_pause_s, pause_s(failures)))
