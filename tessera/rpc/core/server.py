"""The server: one thread takes what the C core has done, the event loop runs the handlers."""

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import grpc
import structlog
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # no annotations

from tessera.rpc.core.call import Call, Metadata

log = structlog.get_logger()

_AWAITED_CALLS = 32
"""Calls that the core may announce before we have looked at the first."""


STALL_S = 300.0
"""A message of a stream that a client does not read holds memory, and whoever sends it."""


class _Details(NamedTuple):
    method: str
    invocation_metadata: Metadata


class CoreServer:
    """What `grpc.aio.server` is, for handlers that are coroutines: it answers a call with less than half of the CPU time.

    Its methods are those of `grpc.aio.Server`, so that generated code can add services to it. Interceptors are asked once for each method,
    when the server starts.

    Args:
        interceptors: Outermost first; each returns a handler whose function is a coroutine that takes a request (or an iterator of
            requests) and the context, and that returns the answer or writes a stream of answers.
        options: Channel arguments.
        stall_s: A client that reads nothing of a stream for so long is cut off, seconds.
    """

    def __init__(
        self, interceptors: Sequence[grpc.aio.ServerInterceptor], options: Sequence[tuple[str, int | str]], *, stall_s: float = STALL_S
    ) -> None:
        self._interceptors = interceptors
        self._stall_s = stall_s
        self._added: dict[str, Any] = {}
        self._handlers: dict[str, Any] = {}
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server(tuple(options), False)
        self._server.register_completion_queue(self._queue)
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[Callable[[], None]] = deque()
        self._awake = False
        self._open: set[Call] = set()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._take_events, name="grpc-core", daemon=True)

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """Do nothing: generated code adds the same handlers as registered ones too."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Add the methods of a service."""
        self._added |= {f"/{service}/{name}": handler for name, handler in handlers.items()}

    def add_insecure_port(self, address: str) -> int:
        """Listen in the clear and return the port. Raises RuntimeError if the address cannot be bound."""
        return _bound(address, self._server.add_http2_port(address.encode()))

    def add_secure_port(self, address: str, credentials: grpc.ServerCredentials) -> int:
        """Listen with TLS and return the port. Raises RuntimeError if the address cannot be bound."""
        core_credentials = credentials._credentials  # type: ignore[attr-defined]
        return _bound(address, self._server.add_http2_port(address.encode(), core_credentials))

    async def start(self) -> None:
        """Begin to take calls."""
        for path in self._added:
            self._handlers[path] = await self._intercepted(path)
        self._server.start()
        self._thread.start()
        for _ in range(_AWAITED_CALLS):
            self._await_call()

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, let the running ones end within `grace_s` seconds, cancel the others. The server cannot be used again.

        Does nothing if the server was not started.
        """
        if not self._thread.is_alive():
            return
        self._server.shutdown(self._queue, lambda _: self._post(self._stopped.set))
        try:
            async with asyncio.timeout(grace_s):
                await self._stopped.wait()
        except TimeoutError:
            self._server.cancel_all_calls()
            await self._stopped.wait()
        tasks = [call.task for call in self._open if call.task]
        await asyncio.gather(*tasks, return_exceptions=True)
        self._server.destroy()
        self._queue.shutdown()
        await asyncio.to_thread(self._thread.join)

    async def _intercepted(self, path: str) -> Any:
        async def innermost(details: _Details) -> Any:
            return self._added.get(details.method)

        continuation: Callable[[Any], Awaitable[Any]] = innermost
        for interceptor in reversed(self._interceptors):
            continuation = partial(interceptor.intercept_service, continuation)
        return await continuation(_Details(path, ()))

    def _await_call(self) -> None:
        self._server.request_call(self._queue, self._queue, self._on_call)

    def _take_events(self) -> None:
        """Pass on what the core has done; runs in the thread, until the queue is shut down and empty."""
        while True:
            event = self._queue.poll()
            if event.completion_type == cygrpc.CompletionType.queue_shutdown:
                return
            try:
                event.tag(event)
            except Exception:  # one call that cannot be served must not end all others
                log.exception("an event of gRPC's core could not be handled")
            del event  # it may hold the last reference to a call, whose memory the core wants back before the next event

    def _on_call(self, event: Any) -> None:
        """Begin with a call; runs in the thread."""
        if not event.success:  # the server is shutting down
            return
        with suppress(ValueError):  # the server has begun to shut down; this call is served all the same
            self._await_call()
        call = Call(event, self._post, self._stall_s)
        call.watch(self._on_cancel)
        handler = call.handler = self._handlers.get(call.path)
        if handler is None:
            call.fail(grpc.StatusCode.UNIMPLEMENTED, f"this server has no method {call.path}")
        elif handler.request_streaming:
            self._post(partial(self._begin, call))
        else:
            call.receive(self._begin)

    def _post(self, function: Callable[[], None]) -> None:
        """Run a function on the event loop soon; one wake-up serves all that came meanwhile. Any thread."""
        self._inbox.append(function)
        if not self._awake:
            self._awake = True
            self._loop.call_soon_threadsafe(self._empty_inbox)

    def _empty_inbox(self) -> None:
        self._awake = False  # before the first is taken: what is added from now on wakes us again
        while self._inbox:
            self._inbox.popleft()()

    def _begin(self, call: Call) -> None:
        if not call.cancelled:
            call.task = self._loop.create_task(self._answer(call))

    def _on_cancel(self, call: Call) -> None:
        if call.task:
            call.task.cancel()

    async def _answer(self, call: Call) -> None:
        """Run the handler of a call and end the call, whatever happens."""
        self._open.add(call)  # not before: a task that is cancelled before it begins would never take the call out again
        try:
            call.finish(await _response(call))
        except grpc.aio.AbortError:
            await call.hear_out()
            call.finish()
        except asyncio.CancelledError:
            call.fail(grpc.StatusCode.CANCELLED, "the call was given up")
        except Exception as error:
            call.fail(grpc.StatusCode.UNKNOWN, f"unexpected {type(error).__name__}")  # first: logs can fail too
            log.exception("a handler failed", method=call.path)
        finally:
            self._open.discard(call)


async def _response(call: Call) -> Any:
    """Run the handler; returns the one answer, None if it has written a stream."""
    handler = call.handler
    requests = call.requests() if handler.request_streaming else await call.request()
    if handler.response_streaming:
        behavior = handler.stream_stream if handler.request_streaming else handler.unary_stream
    else:
        behavior = handler.stream_unary if handler.request_streaming else handler.unary_unary
    return await behavior(requests, call)


def _bound(address: str, port: int) -> int:
    if not port:
        raise RuntimeError(f"failed to bind to {address}")
    return port
