"""A server span around every call, child of the caller's span."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from grpc import StatusCode
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status

from tessera.rpc.interceptors.base import CallInterceptor, Context, Method, outcome
from tessera.telemetry import extract, tracer

_SERVER_FAULTS = {
    StatusCode.UNKNOWN,
    StatusCode.DEADLINE_EXCEEDED,
    StatusCode.UNIMPLEMENTED,
    StatusCode.INTERNAL,
    StatusCode.UNAVAILABLE,
    StatusCode.DATA_LOSS,
}
"""Codes that make a server span an error; with the others the caller was wrong (OpenTelemetry's semantic conventions for gRPC)."""


class TraceInterceptor(CallInterceptor):
    """Makes the span current while the handler runs; the probes of gRPC itself (health, reflection) leave none."""

    @asynccontextmanager
    async def around(self, method: Method, context: Context) -> AsyncIterator[None]:
        """Record one call."""
        if method.service.startswith("grpc."):
            yield
            return
        parent = extract(dict(context.invocation_metadata() or ()))
        attributes = {"rpc.system": "grpc", "rpc.service": method.service, "rpc.method": method.name}
        span = tracer.start_span(method.path[1:], context=parent, kind=SpanKind.SERVER, attributes=attributes)
        # Never detached: the context ends with the call's own task, and a stream may be closed from another one.
        otel_context.attach(trace.set_span_in_context(span, parent))
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            code = outcome(context, error)
            span.set_attribute("rpc.grpc.status_code", code.value[0])
            if code in _SERVER_FAULTS:
                span.set_status(Status(trace.StatusCode.ERROR, code.name))
            span.end()
