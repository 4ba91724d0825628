"""Structured logs on stderr: one event a line with time, level, service and, inside a call, the ids of its trace.

`log = structlog.get_logger()` at the top of a module, then `log.info("version loaded", model=..., version=...)`. Records of the standard
library's loggers take the same way. Passwords inside URLs are blotted out; `SecretStr` hides itself.
"""

import logging
import re
import sys
from typing import Literal

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, Processor, WrappedLogger

_PASSWORD = re.compile(r"(://[^/\s:@]*:)[^\s\"]+@")
_CHATTY = ("grpc", "urllib3", "opentelemetry", "alembic", "asyncio", "PIL", "minio")


def setup(service: str, level: str = "INFO", format: Literal["json", "text"] = "json") -> None:  # noqa: A002 - the word people look for
    """Send all logs of this process to stderr; may be called again.

    Args:
        service: Name that every line carries.
        level: Least level that is written; libraries are held at WARNING.
        format: One JSON object a line, or text for people.
    """

    def add_service(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_service,
        add_trace,
    ]
    rendering: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if format == "json":
        rendering += [structlog.processors.format_exc_info, _without_passwords(structlog.processors.JSONRenderer(sort_keys=True))]
    else:
        # Plain tracebacks: the default ones print local variables, and with them what nobody should read.
        text = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
        rendering.append(_without_passwords(text))
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *common, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=common, processors=rendering))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def add_trace(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Add the ids of the span that is current, so that a line can be found from its trace and the trace from the line."""
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = trace.format_trace_id(span.trace_id)
        event["span_id"] = trace.format_span_id(span.span_id)
    return event


def _without_passwords(render: Processor) -> Processor:
    """Blot out passwords inside URLs wherever they stand in a finished line: in a value, a message, a stack trace."""

    def rendered(logger: WrappedLogger, method: str, event: EventDict) -> str:
        return _PASSWORD.sub(r"\1***@", str(render(logger, method, event)))

    return rendered
