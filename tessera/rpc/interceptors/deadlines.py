"""No work for a caller who has gone: calls whose time is over are refused, unary calls without a deadline get one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tessera.errors import DeadlineExceededError
from tessera.rpc.interceptors.base import CallInterceptor, Context, Method


class DeadlineInterceptor(CallInterceptor):
    """Checks the deadline before the handler runs; while it runs gRPC itself cancels it when the caller's time is over.

    Args:
        default_timeout_s: Deadline of unary calls that bring none, in seconds. Streams may last as long as they like.
    """

    def __init__(self, default_timeout_s: float) -> None:
        super().__init__()
        self._default_timeout_s = default_timeout_s

    @asynccontextmanager
    async def around(self, method: Method, context: Context) -> AsyncIterator[None]:
        """Guard one call."""
        remaining = context.time_remaining()
        if remaining is not None and remaining <= 0:
            raise DeadlineExceededError("the deadline had passed before the call was looked at")
        if remaining is not None or not method.unary:
            yield
            return
        limit = asyncio.timeout(self._default_timeout_s)
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():  # the handler's own
                raise
            raise DeadlineExceededError(
                f"the call brought no deadline and took longer than {self._default_timeout_s:g} s; send a deadline if it may take longer"
            ) from None
