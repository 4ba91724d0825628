"""What a trace shows of a request to a model."""

from collections import defaultdict

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.fixtures.inference import InferenceServer, TinyModel, piece, publish_version, tensor
from tests.fixtures.spans import spans  # noqa: F401 - a fixture
from tests.fixtures.waiting import until

PHASES = {"inference.decode", "inference.queue", "inference.compute", "inference.encode"}


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
