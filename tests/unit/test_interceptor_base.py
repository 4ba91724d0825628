"""The helper that all interceptors share: it must surround every kind of call from the first message to the last."""

from typing import Any

import grpc
import pytest

from tessera.rpc.interceptors.base import Call, CallInterceptor, Context, Method
from tests.fixtures.echo import KINDS, NAME, call, intercepted


class Recorder(CallInterceptor):
    def __init__(self, name: str, events: list[Any]) -> None:
        super().__init__()
        self.name = name
        self.events = events

    def around(self, method: Method, call: Call) -> Call:
        async def recorded(request: Any, context: Context) -> Any:
            self.events.append(("enter", self.name))
            try:
                return await call(request, context)
            except BaseException as error:
                self.events.append(("raise", type(error).__name__))
                raise
            finally:
                self.events.append(("leave", self.name))

        return recorded


@pytest.mark.parametrize("kind", KINDS)
async def test_the_first_interceptor_is_the_outermost(kind: str) -> None:
    events: list[Any] = []

    async def action(request: bytes, context: Any) -> bytes:
        events.append("handler")
        return request

    async with intercepted([Recorder("a", events), Recorder("b", events)], action) as channel:
        assert (await call(channel, kind))[-1] == b"ping"
    assert events == [("enter", "a"), ("enter", "b"), "handler", ("leave", "b"), ("leave", "a")]


@pytest.mark.parametrize("kind", KINDS)
async def test_an_exception_in_the_middle_of_any_call_is_seen(kind: str) -> None:
    events: list[Any] = []

    async def action(request: bytes, context: Any) -> bytes:
        raise KeyError(request)

    async with intercepted([Recorder("a", events)], action) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await call(channel, kind)
    assert events == [("enter", "a"), ("raise", "KeyError"), ("leave", "a")]


async def test_a_handler_is_wrapped_once() -> None:
    interceptor = Recorder("a", [])
    async with intercepted([interceptor]) as channel:
        await call(channel, "Unary")
        first = interceptor._wrapped[f"/{NAME}/Unary"]
        await call(channel, "Unary")
        assert interceptor._wrapped == {f"/{NAME}/Unary": first}


async def test_unknown_methods_are_unimplemented_and_not_remembered() -> None:
    interceptor = Recorder("a", [])
    async with intercepted([interceptor]) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_unary(f"/{NAME}/Guess")(b"")
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert interceptor._wrapped == {}
    assert interceptor.events == []


async def test_a_method_knows_its_names_and_kind() -> None:
    seen: list[Method] = []

    class Noter(CallInterceptor):
        def around(self, method: Method, call: Call) -> Call:
            seen.append(method)
            return call

    async with intercepted([Noter()]) as channel:
        for kind in KINDS:
            await call(channel, kind)
    assert seen == [Method(f"/{NAME}/{kind}", NAME, kind, unary=kind == "Unary") for kind in KINDS]
