"""Traces over OpenTelemetry and metrics over Prometheus.

A trace follows a request through gRPC metadata and through the fields of Redis messages, both in the W3C format (`traceparent`).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import start_http_server

from tessera.errors import FailedPreconditionError, InvalidArgumentError

tracer = trace.get_tracer("tessera")

_propagator = TraceContextTextMapPropagator()


def setup(name: str, otlp_endpoint: str | None, sample_ratio: float = 1.0) -> None:
    """Start tracing in this process; call once. Without an endpoint traces have ids, for logs and errors, and go nowhere.

    Args:
        name: Name of the service that its spans carry.
        otlp_endpoint: Where spans are sent, `http://host:4317` (in the clear) or `https://host:4317`; None: nowhere.
        sample_ratio: Part of the traces that begin here which is recorded, 0 to 1. Of a trace that a caller began the caller has decided.

    Raises:
        InvalidArgumentError: The endpoint is no URL.
    """
    # A span that nobody will see costs a request as much as one that is sent; unsampled ones have their ids all the same.
    sampler = ParentBased(TraceIdRatioBased(sample_ratio)) if otlp_endpoint else ALWAYS_OFF
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}), sampler=sampler, shutdown_on_exit=False)
    if otlp_endpoint:
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from tessera.span_export import QuietExporter

        try:
            exporter = QuietExporter(otlp_endpoint)
        except ValueError as error:
            raise InvalidArgumentError(f"the OTLP endpoint {otlp_endpoint!r} is no URL: {error}", field="otlp_endpoint") from error
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def shutdown() -> None:
    """Send the spans that still wait and stop tracing; blocks for some seconds if the collector does not answer."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.shutdown()


def inject() -> dict[str, str]:
    """Return the fields that carry the current trace to whoever receives a message; empty outside a trace."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier


def extract(carrier: Mapping[str, object]) -> Context:
    """Return the trace context that a message brought: the `context` of a new span. Fields that are no trace context are ignored."""
    fields = {key: value for key in _propagator.fields if isinstance(value := carrier.get(key), str)}
    return _propagator.extract(fields, Context())


@contextmanager
def continued(carrier: Mapping[str, object]) -> Iterator[None]:
    """Let what is done in this block belong to the trace that a message or a row brought."""
    token = context.attach(extract(carrier))
    try:
        yield
    finally:
        context.detach(token)


class MetricsServer:
    """The Prometheus page of this process, served from a thread.

    Attributes:
        port: The bound port.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server, self._thread = start_http_server(port, addr=host)
        self.port: int = self._server.server_port

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def start_metrics_server(host: str, port: int) -> MetricsServer:
    """Serve `/metrics` on this address; port 0 takes a free one. Raises FailedPreconditionError if the address cannot be bound."""
    try:
        return MetricsServer(host, port)
    except OSError as error:
        raise FailedPreconditionError(f"cannot serve metrics on {host}:{port}: {error.strerror}", field="metrics_port") from error
