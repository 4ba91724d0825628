"""Exceptions become statuses: domain errors with their details, anything else INTERNAL that tells the caller no more than a trace id."""

import asyncio
import logging
from typing import Any

import grpc
import structlog
from opentelemetry import trace

from tessera.errors import TesseraError
from tessera.rpc.interceptors.base import Call, CallInterceptor, Context, Method
from tessera.rpc.status import for_callers, to_status

log = structlog.get_logger()


class ErrorInterceptor(CallInterceptor):
    """Ends a call with the status that matches what its handler raised."""

    def around(self, method: Method, call: Call) -> Call:
        """Translate the exceptions of the calls of a method."""

        async def translated(request: Any, context: Context) -> Any:
            try:
                return await call(request, context)
            except (asyncio.CancelledError, grpc.aio.AbortError):
                raise
            except TesseraError as error:
                told = for_callers(error)
                log.log(
                    logging.DEBUG if told is error else logging.WARNING,
                    "call refused",
                    method=method.path,
                    code=told.code,
                    reason=told.message,
                )
                await _abort(context, told)
            except Exception as error:
                span = trace.get_current_span()
                span.record_exception(error)
                trace_id = trace.format_trace_id(span.get_span_context().trace_id)
                log.exception("call failed", method=method.path)
                await _abort(context, TesseraError(f"internal error, trace id {trace_id}: the server's log says more"))

        return translated


async def _abort(context: Context, error: TesseraError) -> None:
    status = to_status(error)
    await context.abort(status.code, status.details, status.trailing_metadata)
