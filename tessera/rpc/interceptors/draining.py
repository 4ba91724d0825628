"""Streams that never end by themselves are ended when the server stops, so that they do not use up the time of those that do."""

import asyncio
from typing import Any

from tessera.errors import UnavailableError
from tessera.rpc.interceptors.base import Call, CallInterceptor, Context, Method

_LAST_WORD_S = 0.1
"""Time for an endless stream to send what came last, above all that health is NOT_SERVING now."""


class DrainInterceptor(CallInterceptor):
    """Keeps track of the calls of all methods whose name starts with `Watch`, by convention the endless ones."""

    def __init__(self) -> None:
        super().__init__()
        self._draining = False
        self._open: set[asyncio.Timeout] = set()

    def drain(self) -> None:
        """End all endless streams, the ones that begin later too, with UNAVAILABLE: their callers resume at another server."""
        if self._draining:
            return
        self._draining = True
        for limit in self._open:
            limit.reschedule(asyncio.get_running_loop().time() + _LAST_WORD_S)

    def around(self, method: Method, call: Call) -> Call:
        """Keep track of the calls of a method, if they are endless."""
        if not method.name.startswith("Watch"):
            return call

        async def tracked(request: Any, context: Context) -> Any:
            limit = asyncio.timeout(0 if self._draining else None)
            try:
                async with limit:
                    self._open.add(limit)
                    try:
                        return await call(request, context)
                    finally:
                        self._open.discard(limit)
            except TimeoutError:
                if not limit.expired():  # the handler's own
                    raise
                raise UnavailableError("the server is stopping; watch again from where you are", retry_after_s=1.0) from None

        return tracked
