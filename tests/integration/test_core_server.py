"""The server on gRPC's C core: what grpc.aio would have done for us, and what becomes of calls that go wrong."""

import asyncio
import random
from typing import Any
from unittest.mock import Mock

import grpc
import pytest
from grpc import StatusCode

from tessera.errors import InvalidArgumentError
from tessera.rpc.core.server import CoreServer
from tessera.settings import ServerSettings
from tests.fixtures.echo import KINDS, NAME, Echo, call, serving
from tests.fixtures.waiting import WAIT_S

UNARY = f"/{NAME}/Unary"


async def status_of(awaited: Any) -> StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaited
    code: StatusCode = caught.value.code()
    return code


async def test_bytes_that_are_no_message_are_refused_and_the_server_lives() -> None:
    async with serving() as address, grpc.aio.insecure_channel(address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        with pytest.raises(grpc.aio.AioRpcError, match="cannot be parsed") as caught:
            await check(b"\xff\xff\xff")
        assert caught.value.code() is StatusCode.INTERNAL
        assert await check(b"") == b"\x08\x01"


@pytest.mark.parametrize("path", [f"/{NAME}/Missing", "/missing.Service/Unary", "/", "/a/b/c"])
async def test_a_method_that_is_not_there_is_unimplemented(path: str) -> None:
    async with serving() as address, grpc.aio.insecure_channel(address) as channel:
        assert await status_of(channel.unary_unary(path)(b"")) is StatusCode.UNIMPLEMENTED
        assert await call(channel, "Unary") == [b"ping"]


@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_that_cannot_be_sent_fails_its_own_call_alone(kind: str) -> None:
    async def action(request: bytes, context: Any) -> bytes:
        return 5 if request == b"bad" else request  # type: ignore[return-value]

    async with serving(action) as address, grpc.aio.insecure_channel(address) as channel:
        assert await status_of(call(channel, kind, b"bad")) in (StatusCode.INTERNAL, StatusCode.UNKNOWN)
        assert (await call(channel, kind, b"good"))[-1] == b"good"


async def test_answers_go_to_their_callers_whoever_gives_up_meanwhile() -> None:
    random_ = random.Random(0)
    gate, given_up = asyncio.Event(), []

    async def action(request: bytes, context: Any) -> bytes:
        try:
            await gate.wait()
        except asyncio.CancelledError:
            given_up.append(request)
            raise
        return request

    async with serving(action) as address, grpc.aio.insecure_channel(address) as channel:
        requests = [random_.randbytes(random_.choice([1, 10, 100_000])) for _ in range(200)]
        calls = [asyncio.create_task(call(channel, random_.choice(["Unary", "Collect"]), request)) for request in requests]
        leaving = {number for number in range(200) if random_.random() < 0.3}
        await asyncio.sleep(0)
        for number in leaving:
            calls[number].cancel()
        await asyncio.gather(*(calls[number] for number in leaving), return_exceptions=True)
        gate.set()
        for number, request in enumerate(requests):
            if number not in leaving:
                assert await calls[number] == [request]
        assert set(given_up) <= {requests[number] for number in leaving}


async def test_a_handler_hears_of_it_when_its_caller_gives_up() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def action(request: bytes, context: Any) -> bytes:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return request

    async with serving(action) as address, grpc.aio.insecure_channel(address) as channel:
        calling = channel.unary_unary(UNARY)(b"ping")
        await started.wait()
        calling.cancel()
        async with asyncio.timeout(WAIT_S):
            await ended.wait()


async def test_deadlines_end_calls_with_the_status_that_says_so() -> None:
    remaining: list[float] = []

    async def action(request: bytes, context: Any) -> bytes:
        remaining.append(context.time_remaining())
        if request == b"wait":
            await asyncio.Event().wait()
        return request

    async with serving(action) as address, grpc.aio.insecure_channel(address) as channel:
        unary = channel.unary_unary(UNARY)
        await unary(b"ping", timeout=WAIT_S)
        assert 0 < remaining[0] <= WAIT_S + 0.1  # milliseconds are rounded up on the way
        assert await status_of(unary(b"wait", timeout=0.2)) is StatusCode.DEADLINE_EXCEEDED


async def test_a_stream_waits_for_a_reader_that_is_slow() -> None:
    chunk, chunks = bytes(1 << 20), 64
    written = 0

    async def action(request: bytes, context: Any) -> bytes:
        nonlocal written
        for _ in range(chunks):
            await context.write(chunk)
            written += 1
        return b"end"

    async with serving(action) as address, grpc.aio.insecure_channel(address) as channel:
        answers = aiter(channel.unary_stream(f"/{NAME}/Spread")(b"ping"))
        assert await anext(answers) == b"first"
        before = -1
        while not written or before != written:  # until it stands still, or has run to its end
            before = written
            await asyncio.sleep(0.2)
        assert 0 < written < chunks, "the server ran ahead of a reader that reads nothing"
        assert len([answer async for answer in answers]) == chunks + 1
        assert written == chunks


async def test_a_reader_that_stands_still_is_cut_off_and_other_calls_go_on() -> None:
    ended = asyncio.Event()

    async def action(request: bytes, context: Any) -> bytes:
        if request == b"flood":
            try:
                while True:
                    await context.write(bytes(1 << 20))
            finally:
                ended.set()
        return request

    async with serving(action, ServerSettings(stall_s=0.3)) as address, grpc.aio.insecure_channel(address) as channel:
        for kind in ("stream_stream", "unary_stream"):
            answers = getattr(channel, kind)(f"/{NAME}/{'Chat' if kind == 'stream_stream' else 'Spread'}")
            reading = answers() if kind == "stream_stream" else answers(b"flood")
            if kind == "stream_stream":
                await reading.write(b"flood")
            async with asyncio.timeout(WAIT_S):
                await ended.wait()
            ended.clear()
            assert await call(channel, "Unary") == [b"ping"]
            reading.cancel()


async def test_a_refused_stream_of_requests_tells_why_however_early_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(self: Echo, requests: Any, context: Any) -> None:
        await context.abort(StatusCode.PERMISSION_DENIED, "no")

    monkeypatch.setattr(Echo, "collect", refuse)
    async with serving() as address, grpc.aio.insecure_channel(address) as channel:
        for _ in range(50):
            assert await status_of(call(channel, "Collect")) is StatusCode.PERMISSION_DENIED


async def test_a_call_that_is_given_up_before_its_handler_begins_is_forgotten() -> None:
    server = CoreServer([], [])
    given_up = Mock(cancelled=False)
    server._begin(given_up)
    server._on_cancel(given_up)  # in the same turn of the event loop
    await asyncio.gather(given_up.task, return_exceptions=True)
    assert given_up.task.cancelled()
    assert not server._open


@pytest.mark.parametrize("kind", KINDS)
async def test_a_reason_that_is_no_unicode_reaches_the_caller_all_the_same(kind: str) -> None:
    async def refuse(request: bytes, context: Any) -> bytes:
        raise InvalidArgumentError("no file \udce9")  # how Python reads a file name in Latin-1

    async with serving(refuse) as address, grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="no file") as caught:
            await call(channel, kind, timeout=WAIT_S)
        assert caught.value.code() is StatusCode.INVALID_ARGUMENT


async def test_a_call_that_comes_in_the_moment_of_a_stop_is_served() -> None:
    server = CoreServer([], [])
    echo = Echo()
    echo.add_to_server(echo, server)  # type: ignore[arg-type]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await_call, stopping = server._await_call, asyncio.Event()

    def begin_to_stop_first() -> None:
        server._server.shutdown(server._queue, lambda _: server._post(stopping.set))
        await_call()

    server._await_call = begin_to_stop_first  # type: ignore[method-assign]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert await call(channel, "Unary", timeout=WAIT_S) == [b"ping"]
    async with asyncio.timeout(WAIT_S):
        await stopping.wait()
    server._queue.shutdown()
    await asyncio.to_thread(server._thread.join)
