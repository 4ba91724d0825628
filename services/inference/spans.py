"""What a trace shows of a request: its phases below the call's own span, and one span for the batch, linked to all its requests."""

import time
from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span

from services.inference.batches import Outcome, Request
from tessera.telemetry import tracer


def record(name: str, started: float, finished: float, parent: Span, links: Sequence[Link] = ()) -> None:
    """Add a finished span below `parent`, if that is recorded at all.

    Args:
        name: Its name.
        started: On the clock of `time.monotonic`, as `finished`.
        finished: When it ended.
        parent: Span of the call.
        links: Other spans that it has to do with.
    """
    if parent.is_recording():
        _span(name, started, finished, trace.set_span_in_context(parent), links)


def record_batch(batch: Sequence[Request], outcomes: Sequence[Outcome]) -> None:
    """Add the spans of a batch: its own, with a link to each recorded request, and for each request its part of it, with a link back."""
    recorded = [(request, outcome) for request, outcome in zip(batch, outcomes, strict=True) if request.span.is_recording()]
    if not recorded:
        return
    links = [Link(request.span.get_span_context()) for request, _ in recorded]
    whole = _span("inference.batch", outcomes[0].started, outcomes[-1].finished, Context(), links)
    whole_link = [Link(whole.get_span_context(), {"batch.size": len(batch)})]
    for request, outcome in recorded:
        record("inference.queue", request.queued, outcome.started, request.span)
        record("inference.compute", outcome.started, outcome.finished, request.span, whole_link)


def _span(name: str, started: float, finished: float, parent: Context, links: Sequence[Link]) -> Span:
    offset = time.time_ns() - time.monotonic_ns()
    span = tracer.start_span(name, context=parent, links=links, start_time=offset + round(started * 1e9))
    span.end(offset + round(finished * 1e9))
    return span
