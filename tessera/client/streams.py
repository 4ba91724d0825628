"""Server streams that outlive a server."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TypeVar, cast

import grpc
import structlog

from tessera.client.calls import is_interruption, pause_s
from tessera.errors import TesseraError, UnavailableError
from tessera.rpc.status import rpc_errors

Q = TypeVar("Q")
M = TypeVar("M")
log = structlog.get_logger()


async def resumed(
    open_stream: Callable[[], grpc.aio.UnaryStreamCall[Q, M]], *, idle_timeout_s: float, what: str, patience_s: float = math.inf
) -> AsyncGenerator[M, None]:
    """Yield the messages of a stream and open it again, with growing pauses, whenever it ends or breaks, until the caller stops.

    Args:
        open_stream: Opens the stream from where it shall go on.
        idle_timeout_s: A stream that is silent for this long counts as broken.
        what: Name of the stream for the log.
        patience_s: How long to try in vain.

    Raises:
        UnavailableError: The server was away for longer than `patience_s`.
        TesseraError: The server refused the request itself.
    """
    failures = 0
    broken_since = 0.0
    while True:
        stream = open_stream()
        try:
            async for message in _messages(stream, idle_timeout_s):
                failures = 0
                yield message
            error: TesseraError = UnavailableError("the server ended the stream")
        except TesseraError as raised:
            if not is_interruption(raised):
                raise
            error = raised
        finally:
            stream.cancel()
        failures += 1
        if failures == 1:
            broken_since = time.monotonic()
            log.warning("stream interrupted, opening it again", stream=what, reason=error.message)
        if time.monotonic() - broken_since > patience_s:
            raise error
        await asyncio.sleep(pause_s(failures))


async def _messages(stream: grpc.aio.UnaryStreamCall[Q, M], idle_timeout_s: float) -> AsyncIterator[M]:
    while True:
        try:
            with rpc_errors():
                async with asyncio.timeout(idle_timeout_s):
                    message = await stream.read()
        except TimeoutError:
            raise UnavailableError(f"the stream was silent for {idle_timeout_s:g} s") from None
        except asyncio.CancelledError:
            # grpc.aio raises this too when the *server* cancels; only a cancelled task may stop here.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise UnavailableError("the server cancelled the stream") from None
        if message is grpc.aio.EOF:
            return
        yield cast(M, message)
