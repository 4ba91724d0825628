"""What a trace shows of a request: which version answered, its phases below the call's own span, and a span for its batch.

A batch belongs to the trace of its first request, so that one trace reaches from the client into the runtime, and has links to all others.
A version that is loaded because an alias was moved belongs to the trace of whoever moved it, be it a person or a training job.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import Attributes, AttributeValue

from services.inference.batches import Answer, Outcome, Request
from services.inference.metrics import EngineMetrics
from tessera.telemetry import tracer

MODEL, VERSION, RUNTIME = "tessera.model.name", "tessera.model.version", "tessera.runtime"
ALIAS = "tessera.model.alias"
BATCH_SIZE, BATCH_ROWS = "tessera.batch.size", "tessera.batch.rows"
ROWS = "tessera.rows"


def describe(span: Span, model: str, version: int, answer: Answer | None) -> None:
    """Say in a call's span which version answers it, and how."""
    attributes: dict[str, AttributeValue] = {MODEL: model, VERSION: version}
    if answer:
        rows = len(next(iter(answer.outputs.values())))
        attributes |= {RUNTIME: answer.runtime, BATCH_SIZE: answer.batch_size, ROWS: rows}
    span.set_attributes(attributes)


def record(name: str, started: float, finished: float, parent: Span, links: Sequence[Link] = (), *, error: Exception | None = None) -> None:
    """Add a finished span below `parent`, which is recorded.

    Args:
        name: Its name.
        started: On the clock of `time.monotonic`, as `finished`.
        finished: When it ended.
        parent: Span of the call.
        links: Other spans that it has to do with.
        error: What went wrong in it.
    """
    span = _start(name, started, parent, links)
    if error:
        _fail(span, error)
    span.end(_nanoseconds(finished))


def traced(batch: Sequence[Request], metrics: EngineMetrics, compute: Callable[[], list[Outcome]]) -> list[Outcome]:
    """Compute a batch within its own span, in the thread where that runs, and add to each recorded request its part of it.

    Args:
        batch: The requests.
        metrics: Name the model and the runtime.
        compute: Returns an outcome for each request.
    """
    recorded = [index for index, request in enumerate(batch) if request.span.is_recording()]
    if not recorded:
        return compute()
    first = batch[recorded[0]].span
    links = [Link(batch[index].span.get_span_context()) for index in recorded]
    names: dict[str, AttributeValue] = {MODEL: metrics.model, RUNTIME: metrics.runtime}
    sizes: dict[str, AttributeValue] = {BATCH_SIZE: len(batch), BATCH_ROWS: sum(request.rows for request in batch)}
    whole = _start("inference.batch", time.monotonic(), first, links, names | sizes)
    with trace.use_span(whole, end_on_exit=True):
        outcomes = compute()
    to_whole = [Link(whole.get_span_context(), sizes)]
    for index in recorded:
        request, outcome = batch[index], outcomes[index]
        error = outcome.result if isinstance(outcome.result, Exception) else None
        record("inference.queue", request.queued, outcome.started, request.span)
        record("inference.compute", outcome.started, outcome.finished, request.span, to_whole, error=error)
    return outcomes


@contextmanager
def remote_call(name: str, attributes: Attributes = None) -> Iterator[Span]:
    """Put a span around a call to a runtime in another process; below the batch's span, if that is recorded.

    An exception that leaves the block is recorded and goes on.

    Args:
        name: Of the span, for example `torchserve predict`.
        attributes: What else is known of it.
    """
    parent = trace.get_current_span()
    if not parent.is_recording():
        yield parent
        return
    with tracer.start_as_current_span(name, kind=SpanKind.CLIENT, attributes=attributes) as span:
        yield span


@contextmanager
def swap_span(model: str, alias: str, version: int) -> Iterator[Span]:
    """Begin the span of an alias that is to answer with another version; what is begun within belongs to it. End it with `end_once_set`."""
    span = tracer.start_span("inference.swap", attributes={MODEL: model, ALIAS: alias, VERSION: version})
    with trace.use_span(span):
        yield span


async def end_once_set(span: Span, event: asyncio.Event) -> None:
    """End a span when something has happened, or when nobody waits for that any more."""
    try:
        await event.wait()
    finally:
        span.end()


@contextmanager
def load_span(model: str, version: int) -> Iterator[None]:
    """Put a span around a load, its downloads and its proof; an exception that leaves the block is recorded and goes on."""
    with tracer.start_as_current_span("inference.load", attributes={MODEL: model, VERSION: version}):
        yield


def _start(name: str, started: float, parent: Span, links: Sequence[Link], attributes: Attributes = None) -> Span:
    context = trace.set_span_in_context(parent)
    return tracer.start_span(name, context=context, links=links, attributes=attributes, start_time=_nanoseconds(started))


def _fail(span: Span, error: Exception) -> None:
    span.record_exception(error)
    span.set_status(Status(StatusCode.ERROR, type(error).__name__))


def _nanoseconds(moment: float) -> int:
    """Return a moment on the clock of `time.monotonic` as the time of day."""
    return min(_compare_clocks() for _ in range(3))[1] + round(moment * 1e9)


def _compare_clocks() -> tuple[int, int]:
    """Return how far apart the clocks were read, and how much the time of day is ahead; a busy machine may rest between two readings."""
    before, now, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
    return after - before, now - (before + after) // 2
