"""What the log says while the collector of traces is away."""

import logging
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from structlog.testing import capture_logs

from tessera.span_export import QuietExporter

SPANS = [ReadableSpan("one"), ReadableSpan("two")]


class Flaky(SpanExporter):
    """Fails while it is told to, with as many words as the real one."""

    away = True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if not self.away:
            return SpanExportResult.SUCCESS
        logging.getLogger("opentelemetry.exporter.otlp.proto.grpc.exporter").error("Failed to export, nobody is there")
        return SpanExportResult.FAILURE


def test_an_outage_is_told_once_with_its_reason_and_once_when_it_is_over() -> None:
    flaky = Flaky()
    exporter = QuietExporter("http://collector:4317", flaky)
    with capture_logs() as logs:
        for flaky.away in (False, True, True, True, False, False):
            exporter.export(SPANS)
    begin, end = logs
    assert "traces cannot be sent" in begin["event"]
    assert (begin["endpoint"], begin["reason"]) == ("http://collector:4317", "Failed to export, nobody is there")
    assert (end["event"], end["lost_spans"]) == ("traces are sent again", 6)
    assert {entry["log_level"] for entry in logs} == {"warning", "info"}


def test_every_outage_is_told_with_its_reason_whoever_sent_before_in_this_process() -> None:
    QuietExporter("http://collector:4317", Flaky()).export(SPANS)
    flaky = Flaky()
    exporter = QuietExporter("http://collector:4317", flaky)
    with capture_logs() as logs:
        for flaky.away in (True, False, True, False):
            exporter.export(SPANS)
    assert [entry.get("lost_spans") for entry in logs] == [None, 2, None, 2]
    assert [entry.get("reason") for entry in logs] == ["Failed to export, nobody is there", None] * 2
