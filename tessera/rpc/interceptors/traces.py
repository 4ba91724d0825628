"""A server span around every call, child of the caller's span."""

from typing import Any

from grpc import StatusCode
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status

from tessera.rpc.interceptors.base import Call, CallInterceptor, Context, Method, outcome
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

    def around(self, method: Method, call: Call) -> Call:
        """Record the calls of a method."""
        if method.service.startswith("grpc."):
            return call
        attributes = {"rpc.system": "grpc", "rpc.service": method.service, "rpc.method": method.name}

        async def traced(request: Any, context: Context) -> Any:
            parent = extract(dict(context.invocation_metadata() or ()))
            span = tracer.start_span(method.path[1:], context=parent, kind=SpanKind.SERVER, attributes=attributes)
            # Never detached: the context ends with the call's own task, and a stream may be closed from another one.
            otel_context.attach(trace.set_span_in_context(span, parent))
            error: BaseException | None = None
            try:
                return await call(request, context)
            except BaseException as raised:
                error = raised
                raise
            finally:
                if span.is_recording():
                    _end(span, outcome(context, error))

        return traced


def _end(span: Span, code: StatusCode) -> None:
    span.set_attribute("rpc.grpc.status_code", code.value[0])
    if code in _SERVER_FAULTS:
        span.set_status(Status(trace.StatusCode.ERROR, code.name))
    span.end()
