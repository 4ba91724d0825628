"""Work that can wait goes on when a model that is busy with others is free again."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tessera.client.calls import pause_s
from tessera.errors import ResourceExhaustedError

T = TypeVar("T")

MOST_TRIES = 8
"""A model that is busy with others is asked so often, over some 20 s."""


async def patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    """Return what an attempt returns; while the model is busy, wait and try again.

    Raises:
        ResourceExhaustedError: It is busy for too long.
        TesseraError: Whatever else the attempt raises.
    """
    failures = 0
    while True:
        try:
            return await attempt()
        except ResourceExhaustedError as error:
            failures += 1
            if failures == MOST_TRIES:
                raise
            await asyncio.sleep(max(pause_s(failures), error.retry_after_s or 0.0))
