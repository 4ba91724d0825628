from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from tessera import errors
from tessera.errors import NotFoundError, PermissionDeniedError, TesseraError, UnauthenticatedError, UnavailableError
from tessera.rpc.interceptors.errors import ErrorInterceptor
from tessera.rpc.status import rpc_errors
from tests.fixtures.echo import KINDS, call, intercepted

CLASSES = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, TesseraError)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cls", CLASSES)
async def test_every_domain_error_reaches_the_caller_through_every_kind_of_call(cls: type[TesseraError], kind: str) -> None:
    async def action(request: bytes, context: Any) -> bytes:
        raise cls("wrong: ü", field="a.b", retry_after_s=0.5)

    async with intercepted([ErrorInterceptor()], action) as channel:
        with pytest.raises(TesseraError) as caught, rpc_errors():
            await call(channel, kind)
    assert type(caught.value) is cls
    assert (caught.value.message, caught.value.field, caught.value.retry_after_s) == ("wrong: ü", "a.b", 0.5)


@pytest.mark.parametrize("kind", KINDS)
async def test_anything_else_is_internal_and_leaks_nothing(kind: str) -> None:
    async def action(request: bytes, context: Any) -> bytes:
        raise RuntimeError("password is swordfish")

    async with intercepted([ErrorInterceptor()], action) as channel:
        with capture_logs() as logged, pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, kind)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "trace id" in (caught.value.details() or "")
    assert "swordfish" not in str(caught.value)
    assert "swordfish" not in str(caught.value.trailing_metadata())
    (line,) = logged
    assert (line["event"], line["log_level"], line["exc_info"]) == ("call failed", "error", True)


@pytest.mark.parametrize("cls", [UnauthenticatedError, PermissionDeniedError])
async def test_a_service_that_another_one_refuses_does_not_blame_its_caller(cls: type[TesseraError]) -> None:
    async def refuse(request: bytes, context: Any) -> bytes:
        raise cls("this token is not known here")

    async def ask(request: bytes, context: Any) -> bytes:
        with rpc_errors():
            (answer,) = await call(other, "Unary", request)
        return answer

    async with intercepted([ErrorInterceptor()], refuse) as other, intercepted([ErrorInterceptor()], ask) as channel:
        with capture_logs() as logged, pytest.raises(UnavailableError) as caught, rpc_errors():
            await call(channel, "Unary")
    assert caught.value.message == "another service refuses this one: this token is not known here"
    assert [(line["log_level"], line["reason"]) for line in logged if line["log_level"] != "debug"] == [("warning", caught.value.message)]


async def test_a_status_that_the_handler_sends_itself_is_left_alone() -> None:
    async def action(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.OUT_OF_RANGE, "mine")
        return b""

    async with intercepted([ErrorInterceptor()], action) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, "Spread")
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.OUT_OF_RANGE, "mine")


@pytest.mark.parametrize("text", ["x" * 100_000, "😀" * 100_000])
async def test_an_endless_message_arrives_cut(text: str) -> None:
    async def action(request: bytes, context: Any) -> bytes:
        raise NotFoundError(text, field=text)

    async with intercepted([ErrorInterceptor()], action) as channel:
        with pytest.raises(NotFoundError, match=r"\.\.\.$"), rpc_errors():
            await call(channel, "Unary")
