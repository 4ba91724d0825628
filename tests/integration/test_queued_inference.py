"""Queued inference end to end: registry, Redis and SQLite, a server in this process whose calls can be held back."""

import asyncio
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY

from model_store.manifest import TensorSpec
from services.inference.options import Priority
from services.inference.queued.wiring import QueuedInference
from services.registry.garbage import Garbage
from tessera.api.inference.v1 import queued_pb2 as pb
from tessera.client.queued import QueuedInferenceClient
from tessera.client.registry import RegistryClient
from tessera.errors import AlreadyExistsError, FailedPreconditionError, NotFoundError
from tessera.rpc.channel import open_channel
from tessera.rpc.server import GrpcServer
from tessera.settings import ServerSettings
from tessera.telemetry import tracer
from tessera.tensor_files import load_tensors
from tessera.times import microseconds, now
from tests.fixtures.inference import CELLS, TinyModel, publish_version
from tests.fixtures.queued import MODEL, PART, QueuedServer, images, until, until_ended, until_state, until_streams_are_empty
from tests.fixtures.redis import RedisServer
from tests.fixtures.registry import RegistryServer
from tests.fixtures.spans import spans  # noqa: F401 - a fixture
from tests.fixtures.waiting import WAIT_S

ROWS = 3 * PART + 2


def assert_logits(outputs: dict[str, np.ndarray], rows: int, seed: int = 0) -> None:
    assert outputs.keys() == {"logits"}
    np.testing.assert_allclose(outputs["logits"], TinyModel(marker=1).logits(images(rows, seed)), rtol=1e-4, atol=1e-5)


async def test_large_inputs_are_computed_part_by_part_at_low_priority(queued_server: QueuedServer, tmp_path: Path) -> None:
    submitted = await queued_server.client.submit({"image": images(ROWS)}, MODEL)
    assert (submitted.created, submitted.inference.priority) == (True, pb.INFERENCE_PRIORITY_LOW)
    seen = [inference async for inference in queued_server.client.watch(submitted.inference.id)]
    ended = seen[-1]
    assert (ended.state, ended.rows, ended.rows_done, ended.version) == (pb.INFERENCE_STATE_SUCCEEDED, ROWS, ROWS, 1)
    assert ended.runtime == "onnxruntime"
    assert [options.priority for options in queued_server.router.calls] == 4 * [Priority.LOW]
    assert_logits(await queued_server.client.result(ended.id), ROWS)
    await queued_server.client.download_result(ended.id, tmp_path / "result.safetensors")
    assert_logits(load_tensors(tmp_path / "result.safetensors"), ROWS)


async def test_a_graph_that_takes_one_row_gets_one_at_a_time(queued_server: QueuedServer) -> None:
    fixed = {
        "inputs": (TensorSpec(name="image", data_type="FP32", shape=(1, 3, 64, 64)),),
        "outputs": (TensorSpec(name="logits", data_type="FP32", shape=(1, CELLS)),),
    }
    await publish_version(queued_server.registry, "single", TinyModel(marker=1, batch=1), alias="champion", **fixed)
    submitted = await queued_server.client.submit({"image": images(3)}, "single")
    assert_logits(await _result(queued_server, submitted.inference.id), 3)
    assert len(queued_server.router.calls) == 3


async def _result(server: QueuedServer, inference_id: str) -> dict[str, np.ndarray]:
    ended = await until_ended(server.client, inference_id)
    assert ended.state == pb.INFERENCE_STATE_SUCCEEDED, ended
    return await server.client.result(inference_id)


async def test_inputs_that_lie_in_the_registry_already_need_no_upload(queued_server: QueuedServer) -> None:
    first = await until_ended(queued_server.client, await queued_server.submit(ROWS))
    blob = await queued_server.registry.upload_bytes(b"")
    again = type(blob)(first.inputs.sha256, first.inputs.size_bytes)
    submitted = await queued_server.client.submit(again, MODEL, version=1, priority="high")
    ended = await until_ended(queued_server.client, submitted.inference.id)
    assert_logits(await queued_server.client.result(ended.id), ROWS)
    assert queued_server.router.calls[-1].priority is Priority.HIGH


async def test_a_watcher_sees_the_place_in_the_queue_then_the_progress_then_the_end(queued_server: QueuedServer) -> None:
    queued_server.router.close()
    ids = [await queued_server.submit() for _ in range(5)]
    for running in ids[:2]:
        await until_state(queued_server.client, running, pb.INFERENCE_STATE_RUNNING)
    assert [(await queued_server.client.get(waiting)).position for waiting in ids[2:]] == [0, 1, 2]
    async with aclosing(queued_server.client.watch(ids[4])) as updates:
        seen = [await anext(updates)]
        queued_server.router.gate.set()
        seen += [update async for update in updates]
    assert (seen[0].state, seen[0].position) == (pb.INFERENCE_STATE_QUEUED, 2)
    assert seen[-1].state == pb.INFERENCE_STATE_SUCCEEDED
    assert [update.state for update in seen] == sorted(update.state for update in seen)


async def test_what_is_urgent_does_not_wait_for_what_is_not(queued_server: QueuedServer) -> None:
    queued_server.router.close()
    slow = [await queued_server.submit() for _ in range(3)]
    await until_state(queued_server.client, slow[1], pb.INFERENCE_STATE_RUNNING)
    queued_server.router.open_to.add(Priority.HIGH)
    urgent = await until_ended(queued_server.client, await queued_server.submit(priority="high"))
    assert urgent.state == pb.INFERENCE_STATE_SUCCEEDED
    assert (await queued_server.client.get(slow[2])).state == pb.INFERENCE_STATE_QUEUED


async def test_the_same_key_is_one_request_however_often_and_concurrently_it_is_submitted(queued_server: QueuedServer) -> None:
    inputs = {"image": images(PART)}
    answers = await asyncio.gather(*(queued_server.client.submit(inputs, MODEL, idempotency_key="scan-1") for _ in range(10)))
    assert len({answer.inference.id for answer in answers}) == 1
    assert sum(answer.created for answer in answers) == 1
    await until_ended(queued_server.client, answers[0].inference.id)
    again = await queued_server.client.submit(inputs, MODEL, idempotency_key="scan-1")
    assert (again.created, again.inference.state) == (False, pb.INFERENCE_STATE_SUCCEEDED)
    with pytest.raises(AlreadyExistsError, match="scan-1"):
        await queued_server.client.submit({"image": images(1)}, MODEL, idempotency_key="scan-1")
    assert len([inference async for inference in queued_server.client.list(model=MODEL)]) == 1


async def test_a_queued_request_is_cancelled_at_once_and_a_running_one_between_its_parts(queued_server: QueuedServer) -> None:
    queued_server.router.close(free=1)
    running = await queued_server.submit(ROWS)
    await queued_server.router.held.wait()
    await until(queued_server.client, running, lambda inference: inference.rows_done == PART)
    other = await queued_server.submit()
    await until_state(queued_server.client, other, pb.INFERENCE_STATE_RUNNING)
    waiting = await queued_server.submit()
    assert (await queued_server.client.cancel(waiting)).state == pb.INFERENCE_STATE_CANCELLED
    assert (await queued_server.client.cancel(running)).cancel_requested
    ended = await until_ended(queued_server.client, running)
    assert (ended.state, len(ended.attempts), ended.HasField("result")) == (pb.INFERENCE_STATE_CANCELLED, 1, False)
    with pytest.raises(FailedPreconditionError, match="CANCELLED and has no result"):
        await queued_server.client.result(running)
    queued_server.router.gate.set()
    assert (await until_ended(queued_server.client, other)).state == pb.INFERENCE_STATE_SUCCEEDED
    assert list((await queued_server.client.get(waiting)).attempts) == []


async def test_a_request_that_is_not_computed_in_time_is_dropped_wherever_it_is(
    queued_server: QueuedServer, redis_server: RedisServer
) -> None:
    queued_server.router.close()
    held = [await queued_server.submit() for _ in range(2)]
    for running in held:
        await until_state(queued_server.client, running, pb.INFERENCE_STATE_RUNNING)
    waiting = await until_ended(queued_server.client, await queued_server.submit(expire_after_s=1.0))
    assert (waiting.state, list(waiting.attempts)) == (pb.INFERENCE_STATE_EXPIRED, [])
    await queued_server.client.cancel(held[0])  # there is room for one now, which will be held too
    taken = await until_ended(queued_server.client, await queued_server.submit(expire_after_s=2.0))
    assert taken.state == pb.INFERENCE_STATE_EXPIRED
    queued_server.router.gate.set()
    assert (await until_ended(queued_server.client, held[1])).state == pb.INFERENCE_STATE_SUCCEEDED
    await until_streams_are_empty(redis_server.url)


async def test_a_result_outlives_garbage_collection_until_it_expires(queued_server: QueuedServer, registry_server: RegistryServer) -> None:
    ended = await until_ended(queued_server.client, await queued_server.submit(result_ttl_s=24 * 3600))

    def collect(hours: int) -> None:
        later = Garbage(registry_server.engine, registry_server.store, lambda: now() + microseconds(3600.0 * hours))
        later.collect(timedelta(minutes=1))

    async def held(what: str) -> bool:
        leases = [lease async for lease in queued_server.registry.list_leases(f"queued-inference/{ended.id}/{what}")]
        return bool(leases)

    async with asyncio.timeout(WAIT_S):
        while await held("inputs") or not await held("result"):
            await asyncio.sleep(0.01)
    await asyncio.to_thread(collect, 23)
    assert registry_server.store.stat(ended.inputs.sha256) is None
    assert_logits(await queued_server.client.result(ended.id), PART)
    await asyncio.to_thread(collect, 25)
    with pytest.raises(NotFoundError, match="is gone"):
        await queued_server.client.result(ended.id)


async def test_after_its_time_a_result_is_said_to_be_gone(queued_server: QueuedServer) -> None:
    ended = await until_ended(queued_server.client, await queued_server.submit(result_ttl_s=1.0))

    async def gone() -> bool:
        try:
            await queued_server.client.result(ended.id)
        except NotFoundError as error:
            return "is gone: it was kept until" in error.message
        return False

    async with asyncio.timeout(WAIT_S):
        while not await gone():
            await asyncio.sleep(0.05)
    assert (await queued_server.client.get(ended.id)).state == pb.INFERENCE_STATE_SUCCEEDED


async def test_one_trace_leads_from_the_caller_through_redis_to_the_computation(
    queued_server: QueuedServer,
    spans: InMemorySpanExporter,  # noqa: F811 - the fixture
) -> None:
    with tracer.start_as_current_span("caller") as caller:
        inference_id = await queued_server.submit()
    await until_ended(queued_server.client, inference_id)
    wanted = trace.format_trace_id(caller.get_span_context().trace_id)

    async with asyncio.timeout(WAIT_S):
        while True:
            names = {span.name for span in spans.get_finished_spans() if trace.format_trace_id(span.context.trace_id) == wanted}
            if "queued inference" in names:
                return
            await asyncio.sleep(0.01)


async def test_metrics_tell_how_much_waits_for_how_long_and_how_it_ended(queued_server: QueuedServer) -> None:
    before = REGISTRY.get_sample_value("inference_queued_attempts_total", {"outcome": "succeeded"}) or 0.0
    queued_server.router.close()
    ids = [await queued_server.submit() for _ in range(3)]

    def gauge(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(f"inference_queued_{name}", labels) or 0.0

    async with asyncio.timeout(WAIT_S):
        while not (gauge("requests", state="queued") == 1 and gauge("age_seconds", priority="low") > 0):
            await asyncio.sleep(0.01)
        while gauge("depth", priority="low") != 1:
            await asyncio.sleep(0.01)
    queued_server.router.gate.set()
    for inference_id in ids:
        await until_ended(queued_server.client, inference_id)
    assert REGISTRY.get_sample_value("inference_queued_attempts_total", {"outcome": "succeeded"}) == before + 3
    assert REGISTRY.get_sample_value("inference_queued_seconds_count", {"state": "succeeded"}) >= 3


async def test_a_server_without_a_queue_says_what_to_set() -> None:
    server = GrpcServer(ServerSettings(port=0), [QueuedInference().service()])
    await server.start()
    async with open_channel(f"127.0.0.1:{server.port}") as channel:
        client = QueuedInferenceClient(channel, RegistryClient(channel))
        with pytest.raises(FailedPreconditionError, match="TESSERA_INFERENCE_DATABASE_URL and TESSERA_INFERENCE_REDIS_URL"):
            await client.submit({"image": images(1)}, MODEL)
        with pytest.raises(FailedPreconditionError, match="TESSERA_INFERENCE_REDIS_URL"):
            await client.get("x")
        with pytest.raises(FailedPreconditionError, match="TESSERA_INFERENCE_REDIS_URL"):
            await anext(client.watch("x"))
    await server.stop(1.0)
