"""Calls with a stream in both directions."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Protocol, TypeVar

import grpc

from tessera.client.wishes import Metadata
from tessera.rpc.ending import Ending
from tessera.rpc.status import from_rpc_error

Q = TypeVar("Q")


class StreamMethod(Protocol):
    """A method of a generated stub with streams in both directions."""

    def __call__(self, *, timeout: float | None = None, metadata: Metadata | None = None) -> Any:
        """Begin the call."""


async def converse(
    method: StreamMethod, requests: AsyncIterator[Q], *, timeout_s: float | None = None, metadata: Metadata | None = None
) -> AsyncGenerator[Any, None]:
    """Send requests as fast as the server takes them, and yield its answers meanwhile.

    Whoever leaves the loop early, or is cancelled, ends the call.

    Args:
        method: Method of a stub.
        requests: What to send; what it raises ends the call and is raised here.
        timeout_s: Seconds for the whole; None for as long as it takes.
        metadata: Sent with it; see `tessera.client.wishes`.

    Raises:
        TesseraError: The subclass that matches the status.
    """
    call = method(timeout=timeout_s, metadata=metadata)
    ending = Ending(call)
    sending = asyncio.create_task(_send(call, requests))
    try:
        async for answer in call:
            yield answer
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(await ending.error(error)) from error
    except asyncio.CancelledError:
        if sending.done() and not sending.cancelled() and (problem := sending.exception()):
            raise problem from None
        raise
    finally:
        call.cancel()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def _send(call: Any, requests: AsyncIterator[Any]) -> None:
    """Send all requests; if they fail, give the call up."""
    try:
        async for request in requests:
            await call.write(request)
        await call.done_writing()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass  # the call has ended; its status says why
    except BaseException:
        call.cancel()
        raise
