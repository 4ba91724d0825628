"""What a trace shows of a request to a model."""

from collections import defaultdict
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Span

from tessera.api.inference.v1.serving_pb2 import SERVED_STATE_READY
from tessera.client.inference import InferenceClient
from tessera.client.registry import RegistryClient
from tessera.rpc.channel import open_channel
from tessera.telemetry import tracer
from tests.fixtures.collector import Collector, is_whole
from tests.fixtures.inference import InferenceProcess, InferenceServer, TinyModel, piece, poll, publish_version, tensor
from tests.fixtures.registry import RegistryProcess
from tests.fixtures.spans import spans  # noqa: F401 - a fixture
from tests.fixtures.torchserve import publish_program
from tests.fixtures.waiting import until

PHASES = {"inference.decode", "inference.queue", "inference.compute", "inference.encode"}
PREDICTION = {
    ("client", "PuzzleService/ClassifyCell"),
    ("inference", "PuzzleService/ClassifyCell"),
    *(("inference", phase) for phase in PHASES),
    ("inference", "inference.batch"),
    ("inference", "torchserve predict"),
}
SWAP = {
    ("client", "RegistryService/SetAlias"),
    ("registry", "RegistryService/SetAlias"),
    *(("inference", name) for name in ("inference.swap", "inference.load", "torchserve register", "RegistryService/GetVersion")),
}
LOAD_S = 180.0


async def test_the_phases_of_a_request_lie_below_its_call_and_are_linked_to_its_batch(
    inference_server: InferenceServer,
    spans: InMemorySpanExporter,  # noqa: F811
) -> None:
    await publish_version(inference_server.registry, "puzzle", TinyModel(marker=1), alias="champion")
    await inference_server.wait_for_alias("puzzle", 1)
    spans.clear()
    answer = await inference_server.client.classify_cell(tensor(piece()), "puzzle")
    call = "tessera.api.inference.v1.PuzzleService/ClassifyCell"
    await until(lambda: sum(span.name == call for span in spans.get_finished_spans()) == 2)  # the client's and the server's
    named: dict[str, list[ReadableSpan]] = defaultdict(list)
    for span in spans.get_finished_spans():
        named[span.name].append(span)
    (batch,) = named["inference.batch"]
    server = next(span for span in named[call] if span.kind.name == "SERVER")
    for phase in PHASES:
        (span,) = named[phase]
        assert span.parent
        assert span.parent.span_id == server.context.span_id
        assert server.start_time <= span.start_time <= span.end_time <= server.end_time + 1_000_000
    assert [link.context.span_id for link in batch.links] == [server.context.span_id]
    assert [link.context.span_id for link in named["inference.compute"][0].links] == [batch.context.span_id]
    compute = named["inference.compute"][0]
    assert abs((compute.end_time - compute.start_time) - answer.answered_by.compute.ToNanoseconds()) < 1_000_000


async def test_a_prediction_and_the_swap_before_it_make_one_whole_trace_each(
    tmp_path: Path,
    collector: tuple[Collector, str],
    spans: InMemorySpanExporter,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")  # milliseconds; five seconds otherwise
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")  # seconds, so that a busy machine loses no span
    received, endpoint = collector
    registry = RegistryProcess(tmp_path, otlp_endpoint=endpoint)
    inference = InferenceProcess(tmp_path, registry.address, otlp_endpoint=endpoint)
    try:
        registry.start()
        inference.start()
        async with open_channel(registry.address) as to_registry, open_channel(inference.address) as to_inference:
            with tracer.start_as_current_span("a person") as swap:
                await publish_program(RegistryClient(to_registry), "puzzle", TinyModel(marker=1))
            client = InferenceClient(to_inference, LOAD_S)
            await poll(lambda: is_ready(client), LOAD_S)
            await until(lambda: has_all(received, spans, swap, SWAP), LOAD_S)
            with tracer.start_as_current_span("a caller") as call:
                answer = await client.classify_cell(tensor(piece()), "puzzle")
            assert answer.answered_by.runtime == "torchserve"
            await until(lambda: has_all(received, spans, call, PREDICTION), LOAD_S)
    finally:
        for process in (inference, registry):
            if process.process is not None:
                process.kill()


async def is_ready(client: InferenceClient) -> bool:
    return [one.state for one in (await client.list_served("puzzle")).versions] == [SERVED_STATE_READY]


def has_all(received: Collector, spans: InMemorySpanExporter, root: Span, wanted: set[tuple[str, str]]) -> bool:  # noqa: F811
    return is_whole(received.trace(root.get_span_context().trace_id, spans.get_finished_spans()), wanted)
