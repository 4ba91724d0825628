"""Counts and times of all calls, under the names that Prometheus users of gRPC know."""

import time
from functools import cache
from typing import Any

from grpc import StatusCode
from opentelemetry import trace
from prometheus_client import Counter

from tessera.histogram import Histogram, exemplar_id
from tessera.rpc.interceptors.base import Call, CallInterceptor, Context, Method, outcome

STARTED = Counter("grpc_server_started", "Calls that reached a handler.", ["grpc_service", "grpc_method"])
HANDLED = Counter("grpc_server_handled", "Calls that ended, by status code.", ["grpc_service", "grpc_method", "grpc_code"])
HANDLING = Histogram(
    "grpc_server_handling_seconds",
    "Seconds from the start of a call to its last message.",
    ["grpc_service", "grpc_method"],
    (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)


class MetricsInterceptor(CallInterceptor):
    """Counts every call of a known method, streams and cancelled ones included."""

    def around(self, method: Method, call: Call) -> Call:
        """Count the calls of a method; its labels are looked up once, which costs more than counting."""
        labels = (method.service, method.name)
        started, handling = STARTED.labels(*labels), HANDLING.labels(*labels)

        @cache
        def handled(code: StatusCode) -> Counter:
            return HANDLED.labels(*labels, code.name)

        async def counted(request: Any, context: Context) -> Any:
            started.inc()
            start = time.perf_counter()
            error: BaseException | None = None
            try:
                return await call(request, context)
            except BaseException as raised:
                error = raised
                raise
            finally:
                handling.observe(time.perf_counter() - start, exemplar_id(trace.get_current_span()))
                handled(outcome(context, error)).inc()

        return counted
