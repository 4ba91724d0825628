"""How a call that sends a stream ended: gRPC may report INTERNAL in place of a status that comes while a message is being sent."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import grpc

T = TypeVar("T")

_LOST = "Internal error from Core"
"""What grpc.aio says of a message that could not be sent because the call had ended."""

_STATUS_WAIT_S = 5.0
"""For a status that is on its way through the core; it has arrived at this machine when sending fails."""


class Ending:
    """Keeps the status that a server sent, whatever grpc.aio puts in its place before or after.

    Args:
        call: A call of `grpc.aio` that has just begun.
    """

    def __init__(self, call: Any) -> None:
        self._sent: asyncio.Future[grpc.aio.AioRpcError] = asyncio.get_running_loop().create_future()
        call.add_done_callback(self._keep)

    async def error(self, raised: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """Return the error that stands for the server's status; `raised`, which the call raised, if that is it or no other is known."""
        if raised.details() != _LOST:
            return raised
        try:
            async with asyncio.timeout(_STATUS_WAIT_S):
                return await self._sent
        except TimeoutError:
            return raised

    def _keep(self, call: Any) -> None:
        status = _status(call)
        if status.details() != _LOST and not self._sent.done():
            self._sent.set_result(status)


async def answer_of(call: Any) -> Any:
    """Return the one answer to a stream of requests.

    Raises:
        grpc.aio.AioRpcError: With the status that the server sent.
    """
    ending = Ending(call)
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise await ending.error(error) from None


def _status(call: Any) -> grpc.aio.AioRpcError:
    """Return the status of a call that has just ended."""
    code, details, trailing = (known(getattr(call, name)()) for name in ("code", "details", "trailing_metadata"))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details)


def known(answer: Coroutine[Any, Any, T]) -> T:
    """Return what a method of a call that has ended returns; it is a coroutine that then need not wait, so no event loop is needed."""
    try:
        answer.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("the call has ended, so its status is known")
