import asyncio
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tessera.errors import DataLossError, NotFoundError
from tessera.rpc.interceptors.errors import ErrorInterceptor
from tessera.rpc.interceptors.traces import TraceInterceptor
from tests.fixtures.echo import KINDS, NAME, call, intercepted
from tests.fixtures.spans import spans
from tests.fixtures.waiting import until

__all__ = ["spans"]

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def act(request: bytes, context: Any) -> bytes:
    match request:
        case b"missing":
            raise NotFoundError("not here")
        case b"flipped":
            raise DataLossError("a byte")
        case b"bug":
            raise RuntimeError("oops")
        case b"wait":
            await asyncio.Event().wait()
    return trace.format_trace_id(trace.get_current_span().get_span_context().trace_id).encode()


@pytest.mark.parametrize("kind", KINDS)
async def test_the_span_is_current_in_the_handler_and_child_of_the_caller(kind: str, spans: InMemorySpanExporter) -> None:
    async with intercepted([TraceInterceptor(), ErrorInterceptor()], act) as channel:
        answers = await call(channel, kind, metadata=(("traceparent", PARENT),))
    assert answers[-1] == b"0af7651916cd43dd8448eb211c80319c"
    (span,) = spans.get_finished_spans()
    assert (span.name, span.kind) == (f"{NAME}/{kind}", SpanKind.SERVER)
    assert span.parent is not None and span.parent.span_id == 0xB7AD6B7169203331
    assert span.attributes == {"rpc.system": "grpc", "rpc.service": NAME, "rpc.method": kind, "rpc.grpc.status_code": 0}
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("request_", "code", "status"),
    [
        (b"missing", grpc.StatusCode.NOT_FOUND, StatusCode.UNSET),
        (b"flipped", grpc.StatusCode.DATA_LOSS, StatusCode.ERROR),
        (b"bug", grpc.StatusCode.INTERNAL, StatusCode.ERROR),
    ],
)
async def test_the_status_is_that_of_the_call(
    kind: str, request_: bytes, code: grpc.StatusCode, status: StatusCode, spans: InMemorySpanExporter
) -> None:
    async with intercepted([TraceInterceptor(), ErrorInterceptor()], act) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, kind, request_)
    (span,) = spans.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["rpc.grpc.status_code"] == code.value[0]
    assert span.status.status_code is status
    if request_ == b"bug":
        assert [event.name for event in span.events] == ["exception"]
        assert trace.format_trace_id(span.context.trace_id) in (caught.value.details() or "")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cancelled_call_ends_its_span(kind: str, spans: InMemorySpanExporter) -> None:
    reached = asyncio.Event()

    async def action(request: bytes, context: Any) -> bytes:
        reached.set()
        return await act(request, context)

    async with intercepted([TraceInterceptor(), ErrorInterceptor()], action) as channel:
        task = asyncio.create_task(call(channel, kind, b"wait"))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(spans.get_finished_spans)
    (span,) = spans.get_finished_spans()
    assert span.attributes is not None and span.attributes["rpc.grpc.status_code"] == grpc.StatusCode.CANCELLED.value[0]


@pytest.mark.parametrize("parent", ["", "nonsense", "00-0-0-00", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"])
async def test_a_call_with_a_broken_parent_starts_a_trace_of_its_own(parent: str, spans: InMemorySpanExporter) -> None:
    async with intercepted([TraceInterceptor()], act) as channel:
        await call(channel, "Unary", metadata=(("traceparent", parent),))
    (span,) = spans.get_finished_spans()
    assert span.parent is None
