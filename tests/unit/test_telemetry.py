import subprocess
import sys
import urllib.request

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tessera.errors import FailedPreconditionError
from tessera.telemetry import extract, inject, start_metrics_server, tracer
from tests.fixtures.ports import free_port
from tests.fixtures.spans import spans

__all__ = ["spans"]

KERNEL = [
    "tessera.errors",
    "tessera.lifecycle",
    "tessera.logs",
    "tessera.rpc.auth",
    "tessera.rpc.channel",
    "tessera.rpc.server",
    "tessera.rpc.status",
    "tessera.settings",
    "tessera.telemetry",
]


def test_a_trace_goes_on_behind_a_message(spans: InMemorySpanExporter) -> None:
    with tracer.start_as_current_span("submit") as submit:
        message = {"job_id": "7", **inject()}
    with tracer.start_as_current_span("train", context=extract(message)):
        pass
    train = spans.get_finished_spans()[-1]
    assert train.context.trace_id == submit.get_span_context().trace_id
    assert train.parent is not None and train.parent.span_id == submit.get_span_context().span_id


def test_outside_a_trace_nothing_is_injected() -> None:
    assert inject() == {}


@pytest.mark.parametrize(
    "carrier", [{}, {"traceparent": ""}, {"traceparent": "nonsense"}, {"traceparent": 7}, {"traceparent": b"00-1-1-1"}]
)
def test_a_message_without_a_proper_trace_starts_one(carrier: dict[str, object]) -> None:
    assert not trace.get_current_span(extract(carrier)).get_span_context().is_valid


def test_extract_forgets_the_trace_that_is_current(spans: InMemorySpanExporter) -> None:
    with tracer.start_as_current_span("consumer loop"), tracer.start_as_current_span("job", context=extract({})):
        pass
    job = next(span for span in spans.get_finished_spans() if span.name == "job")
    assert job.parent is None


def test_metrics_are_served_until_closed() -> None:
    server = start_metrics_server("127.0.0.1", free_port())  # which nobody else takes when it is closed
    try:
        page = urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10).read()
        assert b"process_cpu_seconds_total" in page
        with pytest.raises(FailedPreconditionError, match="cannot serve metrics on 127"):
            start_metrics_server("127.0.0.1", server.port)
    finally:
        server.close()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10)


def test_the_kernel_loads_no_tensor_library() -> None:
    heavy = ("torch", "tensorflow", "onnxruntime", "lightning", "onnx")
    probe = f"import sys, {', '.join(KERNEL)}; print([name for name in {heavy!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_kernel_does_not_import_the_client() -> None:
    probe = f"import sys, {', '.join(KERNEL)}; print([name for name in sys.modules if name.startswith('tessera.client')])"
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
