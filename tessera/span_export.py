"""How spans leave the process: without noise while the collector is away."""

import logging
import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import structlog
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from tessera.rpc.options import proxy_option

log = structlog.get_logger()

TIMEOUT_S = 3.0
"""A collector that is away must not hold up the end of a process for long; OpenTelemetry's own variable tells another time."""
_NOISY = ("opentelemetry.exporter.otlp.proto.grpc.exporter", "opentelemetry.sdk._shared_internal")
"""Loggers that write several lines for every batch that is lost."""


class _Reason(logging.Filter):
    """Takes what the libraries would log, for the one line that we write; one for the process, as their loggers are."""

    text = ""

    def filter(self, record: logging.LogRecord) -> bool:
        self.text = record.getMessage()
        return False


_reason = _Reason()


class QuietExporter(SpanExporter):
    """Sends spans over OTLP, and says once that the collector is away and once that it is back.

    Spans that cannot be sent are lost: a queue for them would only grow. Sending happens in the SDK's own thread, so no call waits for it.

    Args:
        endpoint: The collector's URL.
        exporter: What sends; by default OTLP over gRPC.

    Raises:
        ValueError: The endpoint is no URL.
    """

    def __init__(self, endpoint: str, exporter: SpanExporter | None = None) -> None:
        self._endpoint = endpoint
        timeout_s = float(os.environ.get("OTEL_EXPORTER_OTLP_TIMEOUT", TIMEOUT_S))
        self._exporter = exporter or OTLPSpanExporter(endpoint=endpoint, timeout=timeout_s, channel_options=_options(endpoint))
        self._lost = 0
        for name in _NOISY:
            logging.getLogger(name).addFilter(_reason)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch."""
        result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            if not self._lost:
                log.warning("traces cannot be sent and are lost until the collector is back", endpoint=self._endpoint, reason=_reason.text)
            self._lost += len(spans)
        elif self._lost:
            log.info("traces are sent again", endpoint=self._endpoint, lost_spans=self._lost)
            self._lost = 0
        return result

    def shutdown(self) -> None:
        """Close the connection."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Return whether nothing waits here, which is always so."""
        return self._exporter.force_flush(timeout_millis)


def _options(endpoint: str) -> Any:  # the annotation of OTLPSpanExporter knows of one option, and of text alone
    return (proxy_option(urlsplit(endpoint).hostname or ""),)
