"""No work for a caller who has gone: calls whose time is over are refused, unary calls without a deadline get one."""

import asyncio
from typing import Any

from tessera.errors import DeadlineExceededError
from tessera.rpc.interceptors.base import Call, CallInterceptor, Context, Method


class DeadlineInterceptor(CallInterceptor):
    """Checks the deadline before the handler runs; while it runs gRPC itself cancels it when the caller's time is over.

    Args:
        default_timeout_s: Deadline of unary calls that bring none, in seconds. Streams may last as long as they like.
    """

    def __init__(self, default_timeout_s: float) -> None:
        super().__init__()
        self._default_timeout_s = default_timeout_s

    def around(self, method: Method, call: Call) -> Call:
        """Guard the calls of a method."""

        async def guarded(request: Any, context: Context) -> Any:
            remaining = context.time_remaining()
            if remaining is None and method.unary:
                return await self._limited(call, request, context)
            if remaining is not None and remaining <= 0:
                raise DeadlineExceededError("the deadline had passed before the call was looked at")
            return await call(request, context)

        return guarded

    async def _limited(self, call: Call, request: Any, context: Context) -> Any:
        limit = asyncio.timeout(self._default_timeout_s)
        try:
            async with limit:
                return await call(request, context)
        except TimeoutError:
            if not limit.expired():  # the handler's own
                raise
            raise DeadlineExceededError(
                f"the call brought no deadline and took longer than {self._default_timeout_s:g} s; send a deadline if it may take longer"
            ) from None
