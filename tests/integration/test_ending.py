"""Streams of requests that a server refuses before it has read them: grpc.aio alone would say INTERNAL now and then."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from tessera.rpc.ending import Ending, answer_of
from tests.fixtures.echo import NAME, Echo, bare_server

CALLS = 100


async def refuse(self: Echo, requests: Any, context: Any) -> None:
    await context.abort(StatusCode.PERMISSION_DENIED, "no", (("why", "because"),))


@pytest.fixture
async def channel(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to grpc.aio's own server, which does not wait for the first request as ours does."""
    monkeypatch.setattr(Echo, "collect", refuse)
    monkeypatch.setattr(Echo, "chat", refuse)
    async with bare_server([]) as address, grpc.aio.insecure_channel(address) as channel:
        yield channel


async def requests() -> AsyncIterator[bytes]:
    for _ in range(20):
        yield bytes(10_000)


async def test_a_refused_stream_of_requests_tells_why(channel: grpc.aio.Channel) -> None:
    for _ in range(CALLS):
        with pytest.raises(grpc.aio.AioRpcError, match="no") as caught:
            await answer_of(channel.stream_unary(f"/{NAME}/Collect")(requests()))
        assert caught.value.code() is StatusCode.PERMISSION_DENIED
        assert ("why", "because") in tuple(caught.value.trailing_metadata() or ())


async def test_a_refused_conversation_tells_why(channel: grpc.aio.Channel) -> None:
    for _ in range(CALLS):
        call = channel.stream_stream(f"/{NAME}/Chat")(requests())
        ending = Ending(call)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert (await ending.error(caught.value)).code() is StatusCode.PERMISSION_DENIED


async def test_an_error_of_another_kind_stays_what_it_is() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await answer_of(channel.stream_unary(f"/{NAME}/Collect")(requests()))
        assert caught.value.code() is StatusCode.UNAVAILABLE
