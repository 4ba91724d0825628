"""One call on the C core: its operations, and the context that handlers and interceptors see."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # no annotations

Metadata = tuple[tuple[str, str | bytes], ...]
Post = Callable[[Callable[[], None]], None]
"""Runs a function on the event loop soon; may be called from any thread."""

_HEAR_OUT_S = 0.1
_NO_FLAGS = 0
_NOTHING: Metadata = ()


class Call:
    """A call that a client began; the `context` of its handler, with the part of `grpc.aio.ServicerContext` that we use.

    Everything runs on the event loop but what the name or the text says otherwise.

    Args:
        event: With which the core announced it.
        post: To come back to the event loop from the core's thread.
        stall_s: A client that reads nothing of a stream for so long is cut off, seconds.
    """

    __slots__ = (
        *("_call", "_code", "_deadline", "_details", "_head_sent", "_heard", "_metadata", "_post", "_stall_s", "_trailing"),
        *("cancelled", "handler", "message", "path", "task"),
    )

    def __init__(self, event: Any, post: Post, stall_s: float) -> None:
        self.path: str = event.call_details.method.decode(errors="replace")
        self.handler: Any = None
        self.message: bytes | None = None
        self.task: asyncio.Task[None] | None = None
        self.cancelled = False
        self._call = event.call
        self._deadline: float = event.call_details.deadline
        self._metadata: Metadata = event.invocation_metadata
        self._post = post
        self._stall_s = stall_s
        self._head_sent = False
        self._heard = False
        self._code = grpc.StatusCode.OK
        self._details = ""
        self._trailing = _NOTHING

    def invocation_metadata(self) -> Metadata:
        """Return what the client sent along."""
        return self._metadata

    def time_remaining(self) -> float | None:
        """Return the seconds until the client's deadline, 0 if it has passed, None if there is none."""
        return None if self._deadline == math.inf else max(self._deadline - time.time(), 0.0)

    def code(self) -> grpc.StatusCode:
        """Return the status that was set, OK if none was."""
        return self._code

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = _NOTHING) -> NoReturn:
        """End the call with a status that is not OK, by raising `grpc.aio.AbortError`."""
        self._code, self._details, self._trailing = code, details, trailing_metadata
        raise grpc.aio.AbortError(f"{code.name}: {details}")

    async def write(self, response: Any) -> None:
        """Send one message of a stream; returns when the core takes the next one."""
        message = self._serialized(response)
        stalled = asyncio.get_running_loop().call_later(self._stall_s, self._cut_off)
        try:
            if not await self._batch(lambda event: event.success, *self._head(), cygrpc.SendMessageOperation(message, _NO_FLAGS)):
                raise asyncio.CancelledError("the client is gone")
        finally:
            stalled.cancel()

    async def requests(self) -> AsyncIterator[Any]:
        """Yield the messages of a stream of requests."""
        while (message := await self._next()) is not None:
            yield self._parsed(message)

    async def request(self) -> Any:
        """Return the one request; aborts the call if none came or it is not the message that it should be."""
        if self.message is None:
            await self.abort(grpc.StatusCode.INTERNAL, "the call brought no request")
        message, self.message = self.message, None  # not to be held in memory twice
        try:
            return self._parsed(message)
        except Exception as error:  # whatever the deserializer raises, the bytes are not its message
            await self.abort(grpc.StatusCode.INTERNAL, f"the request cannot be parsed: {error}")

    def watch(self, on_cancel: Callable[["Call"], None]) -> None:
        """Tell the event loop if the client gives up, its deadline passes, or the connection breaks. Any thread."""

        def closed(event: Any) -> None:
            if event.batch_operations[0].cancelled():
                self.cancelled = True
                self._post(partial(on_cancel, self))

        self._call.start_server_batch((cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), closed)

    def receive(self, on_message: Callable[["Call"], None]) -> None:
        """Receive the one request and go on with it on the event loop. Any thread."""

        def received(event: Any) -> None:
            self.message = _message(event)
            self._post(partial(on_message, self))

        self._call.start_server_batch((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), received)

    def finish(self, response: Any = None) -> None:
        """End the call with the status that was set, after `response` if there is one."""
        answer = () if response is None else (cygrpc.SendMessageOperation(self._serialized(response), _NO_FLAGS),)
        details = self._details.encode(errors="replace")  # what cannot be sent must not keep the caller waiting
        status = cygrpc.SendStatusFromServerOperation(self._trailing, self._code.value[0], details, _NO_FLAGS)
        self._call.start_server_batch((*self._head(), *answer, status), _ignore)

    def fail(self, code: grpc.StatusCode, details: str) -> None:
        """End the call with this status. Any thread."""
        self._code, self._details = code, details
        self.finish()

    def _cut_off(self) -> None:
        """End the call for a client that reads nothing; what is being sent to it fails."""
        self._call.cancel(grpc.StatusCode.CANCELLED.value[0], f"nothing was read for {self._stall_s:g} s")

    def _head(self) -> tuple[Any, ...]:
        """Return the operation that begins an answer, once."""
        if self._head_sent:
            return ()
        self._head_sent = True
        return (cygrpc.SendInitialMetadataOperation(_NOTHING, _NO_FLAGS),)

    async def hear_out(self) -> None:
        """Wait for the first message of a stream of requests before the call is refused, if none was read, for a short time.

        grpc.aio's client reports INTERNAL in place of our status if the call ends while it sends that.
        """
        if self.handler.request_streaming and not self._heard:
            with suppress(TimeoutError):
                async with asyncio.timeout(_HEAR_OUT_S):
                    await self._next()

    async def _next(self) -> bytes | None:
        message: bytes | None = await self._batch(_message, cygrpc.ReceiveMessageOperation(_NO_FLAGS))
        self._heard = True
        return message

    def _parsed(self, message: bytes) -> Any:
        parse = self.handler.request_deserializer
        return parse(message) if parse else message

    def _serialized(self, response: Any) -> Any:
        serialize = self.handler.response_serializer
        return serialize(response) if serialize else response

    async def _batch(self, result: Callable[[Any], Any], *operations: Any) -> Any:
        """Let the core do this, and return what `result` takes from its event.

        Not the event itself: it refers to the function that it calls, which refers to the future that would refer to the event.
        """
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def settle(value: Any) -> None:
            if not done.done():  # whoever waited may have been cancelled
                done.set_result(value)

        self._call.start_server_batch(operations, lambda event: self._post(partial(settle, result(event))))
        return await done


def _message(event: Any) -> bytes | None:
    message: bytes | None = event.batch_operations[0].message()
    return message


def _ignore(event: object) -> None:
    """The answer is on its way; nobody waits for that."""
