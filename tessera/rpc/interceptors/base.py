"""What the interceptors share: one coroutine around a call, whichever of the four kinds it is."""

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from grpc import StatusCode

Context = grpc.aio.ServicerContext[Any, Any]
if TYPE_CHECKING:  # generic for the type checker only
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]
else:
    Handler = grpc.RpcMethodHandler
Call = Callable[[Any, Context], Coroutine[Any, Any, Any]]
"""The whole of a call, from its request (or the iterator of its requests) to its last answer."""

CLOCK_SKEW_S = 0.05
"""gRPC may cancel a call this long before its deadline passes on our clock: the time of its caller began earlier, when it was sent."""

_CODES = {code.value[0]: code for code in StatusCode}


@dataclass(frozen=True, slots=True)
class Method:
    """A method of a service.

    Attributes:
        path: As on the wire, `/tessera.api.registry.v1.RegistryService/GetModel`.
        service: Full name of the service.
        name: Name of the method.
        unary: Whether there is one request and one answer, no stream on either side.
    """

    path: str
    service: str
    name: str
    unary: bool


class CallInterceptor(grpc.aio.ServerInterceptor, ABC):
    """Runs every call inside a coroutine of its own.

    A handler is wrapped once, when its method is first called, and kept: the chain of interceptors costs a call one look-up, and each
    interceptor a coroutine (context managers would cost several times as much, see docs/adr/0017). Methods that the server does not have
    are left to gRPC, which answers UNIMPLEMENTED.
    """

    def __init__(self) -> None:
        self._wrapped: dict[str, Handler] = {}

    @abstractmethod
    def around(self, method: Method, call: Call) -> Call:
        """Return what shall run instead of `call`, and awaits it; `call` itself if this method is none of the interceptor's concern.

        gRPC runs every call in an asyncio task of its own, so context variables that are set here end with the call. What leaves `call`
        is the exception of the handler, or `asyncio.CancelledError` when the caller gave up.
        """

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]], handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """Return the wrapped handler of the method."""
        path = handler_call_details.method
        wrapped = self._wrapped.get(path)
        if wrapped is not None:
            return wrapped
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        service, name = path.strip("/").rsplit("/", 1)
        method = Method(path, service, name, unary=not (handler.request_streaming or handler.response_streaming))
        self._wrapped[path] = wrap(handler, partial(self.around, method))
        return self._wrapped[path]


def wrap(handler: Handler, around: Callable[[Call], Call]) -> Handler:
    """Return a handler of the same kind whose whole call, every message of a stream included, is what `around` makes of it.

    A generator is turned into a coroutine that writes its messages. gRPC would take the generator too, but a call that is cancelled while
    gRPC sends a message would then leave the generator, and what surrounds it, to the garbage collector.
    """
    behavior, make = _parts(handler)
    if inspect.isasyncgenfunction(behavior):
        behavior = partial(_write_all, behavior)
    return make(around(behavior), handler.request_deserializer, handler.response_serializer)


async def _write_all(generate: Callable[[Any, Context], AsyncGenerator[Any, None]], request: Any, context: Context) -> None:
    async with aclosing(generate(request, context)) as responses:
        async for response in responses:
            await see_through(context.write(response))


async def see_through(write: Coroutine[Any, Any, None]) -> None:
    """Send a message to its end even if the call is cancelled: until then gRPC could not take the status that tells the caller why."""
    sending = asyncio.ensure_future(write)
    try:
        await asyncio.shield(sending)
    except asyncio.CancelledError:
        await asyncio.gather(sending, return_exceptions=True)
        raise


def _parts(handler: Handler) -> tuple[Any, Callable[..., Handler]]:
    """Return the function of a handler and what makes another handler of its kind."""
    if handler.request_streaming and handler.response_streaming:
        return handler.stream_stream, grpc.stream_stream_rpc_method_handler
    if handler.request_streaming:
        return handler.stream_unary, grpc.stream_unary_rpc_method_handler
    if handler.response_streaming:
        return handler.unary_stream, grpc.unary_stream_rpc_method_handler
    return handler.unary_unary, grpc.unary_unary_rpc_method_handler


def outcome(context: Context, error: BaseException | None) -> StatusCode:
    """Return the status with which a call ends when this exception, or none, leaves its handler."""
    if isinstance(error, asyncio.CancelledError):
        remaining = context.time_remaining()
        return StatusCode.DEADLINE_EXCEEDED if remaining is not None and remaining <= CLOCK_SKEW_S else StatusCode.CANCELLED
    code = context.code()
    if error is not None and not isinstance(error, grpc.aio.AbortError):
        return StatusCode.UNKNOWN
    return code if isinstance(code, StatusCode) else _CODES[int(code or 0)]
