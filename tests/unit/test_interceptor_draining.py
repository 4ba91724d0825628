import asyncio
from typing import Any

import grpc
import pytest

from tessera.errors import TesseraError, UnavailableError
from tessera.rpc.interceptors.draining import DrainInterceptor
from tessera.rpc.interceptors.errors import ErrorInterceptor
from tessera.rpc.status import rpc_errors
from tests.fixtures.echo import FIRST, NAME, call, intercepted


async def forever(request: bytes, context: Any) -> bytes:
    await asyncio.Event().wait()
    return request


async def test_watch_streams_end_as_unavailable_and_nothing_else_does() -> None:
    release = asyncio.Event()

    async def action(request: bytes, context: Any) -> bytes:
        await release.wait()
        return request

    drain = DrainInterceptor()
    async with intercepted([ErrorInterceptor(), drain], action) as channel:
        watch = channel.unary_stream(f"/{NAME}/Watch")(b"x")
        spread = channel.unary_stream(f"/{NAME}/Spread")(b"x")
        assert (await watch.read(), await spread.read()) == (FIRST, FIRST)
        drain.drain()
        drain.drain()
        with pytest.raises(UnavailableError, match="stopping") as caught, rpc_errors():
            await watch.read()
        assert caught.value.retry_after_s == 1.0
        release.set()
        assert await spread.read() == b"x"


async def test_a_watch_that_begins_while_draining_ends_at_once() -> None:
    drain = DrainInterceptor()
    drain.drain()
    async with intercepted([ErrorInterceptor(), drain], forever) as channel:
        with pytest.raises(UnavailableError), rpc_errors():
            await call(channel, "Watch")
        assert drain._open == set()


async def test_a_watch_that_its_caller_leaves_is_forgotten() -> None:
    drain = DrainInterceptor()
    async with intercepted([ErrorInterceptor(), drain], forever) as channel:
        watch = channel.unary_stream(f"/{NAME}/Watch")(b"x")
        assert await watch.read() == FIRST
        assert len(drain._open) == 1
        watch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watch.read()
        async with asyncio.timeout(20):
            while drain._open:
                await asyncio.sleep(0.01)


async def test_a_timeout_inside_a_watch_is_its_own() -> None:
    async def action(request: bytes, context: Any) -> bytes:
        raise TimeoutError("the database")

    async with intercepted([ErrorInterceptor(), DrainInterceptor()], action) as channel:
        with pytest.raises(TesseraError) as caught, rpc_errors():
            await call(channel, "Watch")
    assert caught.value.code == grpc.StatusCode.INTERNAL.name
