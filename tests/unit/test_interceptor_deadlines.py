import asyncio
import threading
from typing import Any

import grpc
import pytest

from tessera.errors import DeadlineExceededError, TesseraError
from tessera.rpc.interceptors.base import Call, CallInterceptor, Context, Method
from tessera.rpc.interceptors.deadlines import DeadlineInterceptor
from tessera.rpc.interceptors.errors import ErrorInterceptor
from tessera.rpc.status import rpc_errors
from tests.fixtures.echo import NAME, bare_server, call, intercepted


class Stopwatch(CallInterceptor):
    """Notes how much time each request had left when it was looked at, before the deadline is checked."""

    def __init__(self) -> None:
        super().__init__()
        self.left: dict[bytes, float] = {}

    def around(self, method: Method, call: Call) -> Call:
        async def timed(request: Any, context: Context) -> Any:
            self.left[request] = context.time_remaining() or 0.0
            return await call(request, context)

        return timed


@pytest.mark.parametrize("kind", ["Unary", "Spread"])
async def test_a_call_whose_time_ran_out_while_the_server_was_busy_never_reaches_its_handler(kind: str) -> None:
    handled: list[bytes] = []

    def impatient(address: str) -> None:
        with grpc.insecure_channel(address) as channel:
            method = channel.unary_unary if kind == "Unary" else channel.unary_stream
            with pytest.raises(grpc.RpcError) as caught:
                list(method(f"/{NAME}/{kind}")(b"late", timeout=0.2))
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    async def action(request: bytes, context: Any) -> bytes:
        handled.append(request)
        if request != b"next":  # keeps the event loop busy for longer than the other caller waits
            thread = threading.Thread(target=impatient, args=(request.decode(),))
            thread.start()
            thread.join()
        return request

    watch = Stopwatch()
    interceptors = [ErrorInterceptor(), watch, DeadlineInterceptor(60)]
    async with bare_server(interceptors, action) as address, grpc.aio.insecure_channel(address) as channel:
        await call(channel, "Unary", address.encode())
        await call(channel, "Unary", b"next")
    # The time of a call begins for the server when it reads it: where that was late, some may be left when its caller has given up.
    assert [request for request in handled if request != b"late" or watch.left[request] <= 0] == [address.encode(), b"next"]


class Clock:
    """A context whose time is over."""

    def time_remaining(self) -> float:
        return -0.001


async def test_a_deadline_in_the_past_is_refused_before_the_handler() -> None:
    async def call(request: bytes, context: Any) -> bytes:
        raise AssertionError("the handler ran")

    guarded = DeadlineInterceptor(60).around(Method("/a/B", "a", "B", unary=True), call)
    with pytest.raises(DeadlineExceededError, match="had passed"):
        await guarded(b"", Clock())  # type: ignore[arg-type]


async def test_a_unary_call_without_deadline_gets_one() -> None:
    async def action(request: bytes, context: Any) -> bytes:
        await asyncio.Event().wait()
        return request

    async with intercepted([ErrorInterceptor(), DeadlineInterceptor(0.05)], action) as channel:
        with pytest.raises(DeadlineExceededError, match="brought no deadline"), rpc_errors():
            await call(channel, "Unary")


@pytest.mark.parametrize("kind", ["Collect", "Spread", "Chat"])
async def test_streams_without_deadline_last_as_long_as_they_like(kind: str) -> None:
    async def action(request: bytes, context: Any) -> bytes:
        await asyncio.sleep(0.2)
        return request

    async with intercepted([ErrorInterceptor(), DeadlineInterceptor(0.05)], action) as channel:
        assert (await call(channel, kind))[-1] == b"ping"


async def test_a_timeout_inside_the_handler_is_its_own() -> None:
    async def action(request: bytes, context: Any) -> bytes:
        raise TimeoutError("the database")

    async with intercepted([ErrorInterceptor(), DeadlineInterceptor(60)], action) as channel:
        with pytest.raises(TesseraError, match="internal error") as caught, rpc_errors():
            await call(channel, "Unary")
    assert type(caught.value) is TesseraError


async def test_the_handler_sees_the_time_that_remains_and_the_metadata() -> None:
    seen: dict[str, Any] = {}

    async def action(request: bytes, context: Any) -> bytes:
        seen.update(remaining=context.time_remaining(), metadata=dict(context.invocation_metadata()))
        return request

    async with intercepted([DeadlineInterceptor(60)], action) as channel:
        await call(channel, "Unary", timeout=600, metadata=(("who", "me"),))
    assert 300 < seen["remaining"] < 900  # gRPC rounds it up, and the clocks of the two sides are not read at once
    assert seen["metadata"]["who"] == "me"
