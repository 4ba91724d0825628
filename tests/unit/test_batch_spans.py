"""What a trace shows of a batch: in the trace of its first request, linked to all of them, with the runtime's own call below."""

import asyncio
from typing import Any

import numpy as np
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, StatusCode

from services.inference import spans as inference_spans
from services.inference.batches import Outcome, Request, Run, compute
from services.inference.metrics import EngineMetrics
from services.inference.options import CallOptions
from services.inference.spans import record, remote_call, traced
from tessera.errors import UnavailableError
from tessera.telemetry import tracer
from tests.fixtures.spans import spans

__all__ = ["spans"]

METRICS = EngineMetrics.of("batch-spans", "torchserve")


def request(span: Span, value: float = 1.0, rows: int = 1) -> Request:
    inputs = {"x": np.full((rows, 1), value)}
    return Request(inputs, rows, None, CallOptions(), asyncio.get_running_loop().create_future(), span, 0.0)


def compute_all(batch: list[Request], run: Run) -> list[Outcome]:
    return traced(batch, METRICS, lambda: compute(run, batch))


def ids(links: Any) -> set[int]:
    return {link.context.span_id for link in links}


def id_of(span: Span) -> int:
    return span.get_span_context().span_id


def named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


def through_torchserve(inputs: Any) -> Any:
    with remote_call("torchserve predict", {"server.address": "127.0.0.1"}):
        return inputs


async def test_a_batch_is_linked_to_all_its_requests_and_they_to_it(spans: InMemorySpanExporter) -> None:
    first, second = tracer.start_span("first"), tracer.start_span("second")
    compute_all([request(INVALID_SPAN), request(first, rows=2), request(second)], through_torchserve)
    (whole,) = named(spans, "inference.batch")
    assert whole.parent and whole.parent.span_id == id_of(first)
    assert ids(whole.links) == {id_of(first), id_of(second)}
    assert dict(whole.attributes or {}) == {
        "tessera.model.name": "batch-spans",
        "tessera.runtime": "torchserve",
        "tessera.batch.size": 3,
        "tessera.batch.rows": 4,
    }
    parts = named(spans, "inference.compute")
    assert {part.parent.span_id for part in parts if part.parent} == {id_of(first), id_of(second)}
    assert all(ids(part.links) == {whole.context.span_id} for part in parts)
    assert len(named(spans, "inference.queue")) == 2


async def test_the_call_to_a_runtime_elsewhere_lies_in_the_trace_of_the_first_request(spans: InMemorySpanExporter) -> None:
    with tracer.start_as_current_span("call") as span:
        compute_all([request(span)], through_torchserve)
    (remote,) = named(spans, "torchserve predict")
    (whole,) = named(spans, "inference.batch")
    assert remote.parent and remote.parent.span_id == whole.context.span_id
    assert remote.context.trace_id == span.get_span_context().trace_id
    assert (remote.kind, dict(remote.attributes or {})) == (SpanKind.CLIENT, {"server.address": "127.0.0.1"})


async def test_an_error_stands_in_the_spans_of_the_request_that_failed_and_of_the_call_that_raised(spans: InMemorySpanExporter) -> None:
    def run(inputs: Any) -> Any:
        with remote_call("torchserve predict"):
            if (inputs["x"] < 0).any():
                raise ValueError("negative")
        return inputs

    good, bad = tracer.start_span("good"), tracer.start_span("bad")
    compute_all([request(good), request(bad, -1)], run)
    status = {part.parent.span_id: part.status.status_code for part in named(spans, "inference.compute") if part.parent}
    assert status == {id_of(good): StatusCode.UNSET, id_of(bad): StatusCode.ERROR}
    calls = [call.status.status_code for call in named(spans, "torchserve predict")]
    assert calls == [StatusCode.ERROR, StatusCode.UNSET, StatusCode.ERROR]  # together, and then one by one


async def test_requests_that_nobody_records_leave_no_span(spans: InMemorySpanExporter) -> None:
    outcomes = compute_all([request(INVALID_SPAN), request(INVALID_SPAN)], through_torchserve)
    assert [outcome.batch_size for outcome in outcomes] == [2, 2]
    assert spans.get_finished_spans() == ()


async def test_what_a_runtime_says_outside_a_batch_leaves_no_span(spans: InMemorySpanExporter) -> None:
    with pytest.raises(UnavailableError), remote_call("torchserve predict"):
        raise UnavailableError("away")
    assert spans.get_finished_spans() == ()
    assert trace.get_current_span() is INVALID_SPAN


class RestingClocks:
    """Stands in for the module `time`: a machine that rests for a second before one reading of a clock."""

    AHEAD_NS = 10**12

    def __init__(self, rests_at: int) -> None:
        self._now, self._readings, self._rests_at = 5 * 10**9, 0, rests_at

    def monotonic_ns(self) -> int:
        self._now += 10**9 if self._readings == self._rests_at else 10
        self._readings += 1
        return self._now

    def time_ns(self) -> int:
        return self.AHEAD_NS + self.monotonic_ns()


@pytest.mark.parametrize("rests_at", range(18))
def test_a_machine_that_rests_between_two_clocks_shifts_no_span(
    spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, rests_at: int
) -> None:
    monkeypatch.setattr(inference_spans, "time", RestingClocks(rests_at))
    record("phase", 2.0, 3.0, tracer.start_span("call"))
    (phase,) = named(spans, "phase")
    for told, moment in ((phase.start_time, 2), (phase.end_time, 3)):
        assert told == pytest.approx(RestingClocks.AHEAD_NS + moment * 10**9, rel=0, abs=100)
