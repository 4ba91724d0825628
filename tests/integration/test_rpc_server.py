"""The whole server: errors, limits, health, reflection, metrics and traces through everything that surrounds a service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tessera import telemetry
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.api.registry.v1 import registry_pb2_grpc
from tessera.errors import NotFoundError, ResourceExhaustedError, StaleFenceError, TesseraError, UnavailableError
from tessera.rpc.auth import Role
from tessera.rpc.channel import open_channel
from tessera.rpc.ending import answer_of
from tessera.rpc.server import GrpcServer, Service
from tessera.rpc.status import rpc_errors
from tessera.settings import ClientSettings, ServerSettings
from tests.fixtures.echo import FIRST, KINDS, NAME, Echo, call, connected, echo, serving
from tests.fixtures.ports import free_port
from tests.fixtures.spans import spans
from tests.fixtures.waiting import WAIT_S, until

__all__ = ["spans"]

REGISTRY = pb.DESCRIPTOR.services_by_name["RegistryService"]


async def act(request: bytes, context: Any) -> bytes:
    match request:
        case b"missing":
            raise NotFoundError("not here", field="name")
        case b"bug":
            raise RuntimeError("password is swordfish")
        case b"wait":
            await asyncio.Event().wait()
    return request


class Registry(registry_pb2_grpc.RegistryServiceServicer):
    """A registry that fails when it is told to."""

    def __init__(self) -> None:
        self.failures = 0
        self.calls: list[str] = []

    def _fail(self, name: str) -> None:
        self.calls.append(name)
        if self.failures:
            self.failures -= 1
            raise UnavailableError("not now")

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:
        self._fail("GetModel")
        return pb.GetModelResponse(model=pb.Model(name=request.name))

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        self._fail("ListModels")
        return pb.ListModelsResponse()

    async def CreateModel(self, request: pb.CreateModelRequest, context: Any) -> pb.CreateModelResponse:
        self._fail("CreateModel")
        return pb.CreateModelResponse()

    async def UploadBlob(self, requests: AsyncIterator[pb.UploadBlobRequest], context: Any) -> pb.UploadBlobResponse:
        async for _ in requests:
            pass
        raise StaleFenceError("too late")

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.WatchResponse]:
        yield pb.WatchResponse()
        raise StaleFenceError("too late")


@asynccontextmanager
async def registry() -> AsyncIterator[tuple[Registry, Any]]:
    servicer = Registry()
    roles = dict.fromkeys(REGISTRY.methods_by_name, Role.READER)
    server = GrpcServer(ServerSettings(), [Service(registry_pb2_grpc.add_RegistryServiceServicer_to_server, servicer, REGISTRY, roles)])
    await server.start()
    async with open_channel(f"localhost:{server.port}") as channel:
        yield servicer, registry_pb2_grpc.RegistryServiceStub(channel)
    await server.stop(0.5)


async def test_errors_pass_generated_stubs_and_a_full_server() -> None:
    async with registry() as (_, stub):
        with pytest.raises(StaleFenceError, match="too late"), rpc_errors():
            await answer_of(stub.UploadBlob(iter([pb.UploadBlobRequest(chunk=b"x")])))
        watch = stub.Watch(pb.WatchRequest())
        assert await watch.read() == pb.WatchResponse()
        with pytest.raises(StaleFenceError, match="too late"), rpc_errors():
            await watch.read()


async def test_reads_are_tried_again_while_unavailable_and_writes_are_not() -> None:
    async with registry() as (servicer, stub):
        for method, request in ((stub.GetModel, pb.GetModelRequest()), (stub.ListModels, pb.ListModelsRequest())):
            servicer.failures = 2
            await method(request, timeout=WAIT_S)
        servicer.failures = 2
        with pytest.raises(UnavailableError), rpc_errors():
            await stub.CreateModel(pb.CreateModelRequest(), timeout=WAIT_S)
    assert servicer.calls == ["GetModel"] * 3 + ["ListModels"] * 3 + ["CreateModel"]


async def test_reads_give_up_after_a_few_tries() -> None:
    async with registry() as (servicer, stub):
        servicer.failures = 100
        with pytest.raises(UnavailableError, match="not now"), rpc_errors():
            await stub.GetModel(pb.GetModelRequest(), timeout=WAIT_S)
    assert servicer.calls == ["GetModel"] * 4


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:1"])
async def test_a_server_that_cannot_be_reached_is_named(address: str) -> None:
    async with open_channel(address) as channel:
        for kind in KINDS:
            with (
                pytest.raises(UnavailableError, match=r"at (127\.0\.0\.1|\[::1\]):1 cannot be reached: nobody listens there"),
                rpc_errors(),
            ):
                await call(channel, kind, timeout=WAIT_S)


async def test_a_new_channel_does_not_wait_because_an_older_one_failed() -> None:
    port = free_port()
    async with open_channel(f"127.0.0.1:{port}") as older:
        with pytest.raises(UnavailableError), rpc_errors():
            await call(older, "Unary", timeout=WAIT_S)
        async with serving(settings=ServerSettings(port=port)) as address, open_channel(address) as newer:
            assert await call(newer, "Unary", timeout=WAIT_S) == [b"ping"]


@pytest.mark.parametrize("address", ["", "localhost", ":8010", "localhost:", "localhost:http"])
def test_an_address_must_have_host_and_port(address: str) -> None:
    with pytest.raises(TesseraError, match="must read host:port"):
        open_channel(address)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_message_of_100_mb_is_refused_and_the_server_lives(kind: str) -> None:
    handled: list[int] = []

    async def action(request: bytes, context: Any) -> bytes:
        handled.append(len(request))
        return request

    async with serving(action) as address:
        big = bytes(100 * 2**20)
        async with grpc.aio.insecure_channel(address, options=[("grpc.max_send_message_length", -1)]) as careless:
            with pytest.raises(ResourceExhaustedError, match="larger than max"), rpc_errors():
                await call(careless, kind, big)
        async with open_channel(address) as channel:
            with pytest.raises(ResourceExhaustedError, match="larger than max"), rpc_errors():
                await call(channel, kind, big)
            assert (await call(channel, kind))[-1] == b"ping"
    assert max(handled, default=0) < len(big)


async def test_an_answer_that_is_too_large_is_refused() -> None:
    async def action(request: bytes, context: Any) -> bytes:
        return bytes(2 * 2**20)

    async with connected(action, ServerSettings(max_message_bytes=2**20)) as channel:
        with pytest.raises(ResourceExhaustedError), rpc_errors():
            await call(channel, "Unary")
    async with connected(action, client=ClientSettings(max_message_bytes=2**20)) as channel:
        with pytest.raises(ResourceExhaustedError), rpc_errors():
            await call(channel, "Unary")


async def test_nothing_about_a_bug_leaves_the_server() -> None:
    async with connected(act) as channel:
        for kind in KINDS:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(channel, kind, b"bug")
            assert caught.value.code() is grpc.StatusCode.INTERNAL
            assert "swordfish" not in f"{caught.value} {caught.value.trailing_metadata()}"
            assert (await call(channel, kind))[-1] == b"ping"


async def test_health_says_what_it_was_told_for_every_service() -> None:
    server = GrpcServer(ServerSettings(), [])
    await server.start()
    async with open_channel(f"127.0.0.1:{server.port}") as channel:
        health = HealthStub(channel)
        assert (await health.Check(HealthCheckRequest())).status == HealthCheckResponse.NOT_SERVING
        watch = health.Watch(HealthCheckRequest())
        seen = [(await watch.read()).status]
        for serving_ in (True, False, True):
            server.set_serving(serving_)
            seen.append((await watch.read()).status)
        await server.stop(5)
        seen.append((await watch.read()).status)
        with pytest.raises(UnavailableError, match="stopping"), rpc_errors():
            await watch.read()
    states = HealthCheckResponse
    assert seen == [states.NOT_SERVING, states.SERVING, states.NOT_SERVING, states.SERVING, states.NOT_SERVING]


async def test_stop_lets_running_calls_end_and_takes_no_new_ones() -> None:
    release = asyncio.Event()
    running: list[bytes] = []

    async def action(request: bytes, context: Any) -> bytes:
        running.append(request)
        await release.wait()
        return request

    server = GrpcServer(ServerSettings(), [Echo(action).service()])
    await server.start()
    async with open_channel(f"127.0.0.1:{server.port}") as channel, open_channel(f"localhost:{server.port}") as late:
        calls = [asyncio.create_task(call(channel, kind)) for kind in KINDS]
        await until(lambda: len(running) == len(KINDS))
        stopping = asyncio.create_task(server.stop(20))
        with pytest.raises(UnavailableError), rpc_errors():
            while True:
                await call(late, "Watch", timeout=5)
        assert not stopping.done()
        release.set()
        assert [(await task)[-1] for task in calls] == [b"ping"] * len(KINDS)
        await stopping


async def test_the_trace_goes_from_the_client_through_the_server(spans: InMemorySpanExporter) -> None:
    async def action(request: bytes, context: Any) -> bytes:
        with telemetry.tracer.start_as_current_span("work"):
            return await act(request, context)

    async with connected(action) as channel:
        for kind in KINDS:
            with telemetry.tracer.start_as_current_span("caller"):
                await call(channel, kind)
            await until(lambda: len(spans.get_finished_spans()) == 4)
            by_name = {(span.name, span.kind): span for span in spans.get_finished_spans()}
            caller = by_name["caller", SpanKind.INTERNAL]
            client, server = by_name[f"{NAME}/{kind}", SpanKind.CLIENT], by_name[f"{NAME}/{kind}", SpanKind.SERVER]
            work = by_name["work", SpanKind.INTERNAL]
            assert {span.context.trace_id for span in by_name.values()} == {caller.context.trace_id}
            assert client.parent and client.parent.span_id == caller.context.span_id
            assert server.parent and server.parent.span_id == client.context.span_id
            assert work.parent and work.parent.span_id == server.context.span_id
            spans.clear()


async def test_client_spans_end_with_the_status_of_the_call(spans: InMemorySpanExporter) -> None:
    def client_span() -> Any:
        return next((span for span in spans.get_finished_spans() if span.kind is SpanKind.CLIENT), None)

    reached = asyncio.Event()

    async def action(request: bytes, context: Any) -> bytes:
        reached.set()
        return await act(request, context)

    async with connected(action) as channel:
        for kind in KINDS:
            with pytest.raises(NotFoundError), rpc_errors():
                await call(channel, kind, b"missing")
            await until(client_span)
            assert client_span().attributes["rpc.grpc.status_code"] == grpc.StatusCode.NOT_FOUND.value[0]
            assert client_span().status.status_code is StatusCode.ERROR
            await until(lambda: len(spans.get_finished_spans()) == 2)
            spans.clear()
            reached.clear()
            task = asyncio.create_task(call(channel, kind, b"wait"))
            await reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(client_span)
            assert client_span().attributes["rpc.grpc.status_code"] == grpc.StatusCode.CANCELLED.value[0]
            await until(lambda: len(spans.get_finished_spans()) == 2)
            spans.clear()


async def test_health_and_reflection_leave_no_spans(spans: InMemorySpanExporter) -> None:
    async with connected(echo) as channel:
        await HealthStub(channel).Check(HealthCheckRequest())
    assert [span for span in spans.get_finished_spans() if span.kind is SpanKind.SERVER] == []


async def test_a_stream_can_be_read_step_by_step_through_the_channel() -> None:
    async with connected() as channel:
        chat = channel.stream_stream(f"/{NAME}/Chat")()
        assert await chat.read() == FIRST
        await chat.write(b"one")
        assert await chat.read() == b"one"
        await chat.done_writing()
        assert await chat.read() is grpc.aio.EOF
        assert await chat.code() is grpc.StatusCode.OK
