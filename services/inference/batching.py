"""Greedy dynamic batching: whatever waits when a thread becomes free is computed together; nothing ever waits for company.

All state lives on the event loop; a thread only sees a batch that was taken out of the queue, and hands back its outcomes. So there are
no locks, and a request is in exactly one place: the queue, a batch, or done.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog
from opentelemetry import trace

from services.inference.batches import Answer, Outcome, Request, Run, compute
from services.inference.metrics import EngineMetrics
from services.inference.options import CallOptions
from services.inference.runtimes.runtime import Tensors
from services.inference.spans import traced
from tessera.errors import DeadlineExceededError, InvalidArgumentError, ResourceExhaustedError, TesseraError
from tessera.histogram import exemplar_id

log = structlog.get_logger()

CLOCK_SKEW_S = 0.01
"""gRPC may cancel a call this long before its deadline passes on our clock."""
FIRST_GUESS_S = 0.01
"""Time of a batch, until one was measured."""


class Batcher:
    """The queue and the threads of one loaded version. To be used on one event loop.

    Args:
        run: Computes one batch; called in threads of this batcher.
        metrics: Where to count.
        max_rows: Most rows in a batch, 1 or more; a single request may not have more.
        queue_size: Most requests that wait.
        instances: Batches computed at the same time, each in a thread of its own.
    """

    def __init__(self, run: Run, metrics: EngineMetrics, *, max_rows: int, queue_size: int, instances: int) -> None:
        self._run = run
        self._metrics = metrics
        self._max_rows = max_rows
        self._queue_size = queue_size
        self._instances = instances
        self._idle = instances
        self._queue: deque[Request] = deque()
        self._batch_s = FIRST_GUESS_S
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(instances, thread_name_prefix=f"batch-{metrics.model}")

    async def submit(self, inputs: Tensors, options: CallOptions) -> Answer:
        """Compute one request, alone or together with others.

        Args:
            inputs: Every input of the model, checked; all with the same number of rows, at least one.
            options: The caller's wishes.

        Raises:
            InvalidArgumentError: More rows than a batch may have.
            DeadlineExceededError: The deadline passed before the request was computed; it was not computed.
            ResourceExhaustedError: The queue is full; `retry_after_s` says when there should be room.
            TesseraError: The model failed on this request.
        """
        request = self._admit(inputs, options)
        self._queue.append(request)
        self._fill()
        try:
            return await request.future
        except asyncio.CancelledError:
            self._forget(request)
            raise

    async def close(self) -> None:
        """End the threads, after the batches that run. Whoever still waits must have been cancelled before."""
        await asyncio.to_thread(self._threads.shutdown)

    def _admit(self, inputs: Tensors, options: CallOptions) -> Request:
        arrays = inputs.values()
        rows = len(next(iter(arrays)))
        if rows > self._max_rows:
            raise InvalidArgumentError(f"the request has {rows} rows; at most {self._max_rows} fit in a batch", field="inputs")
        if len(self._queue) >= self._queue_size:
            self._metrics.shed("queue_full")
            message = f"model {self._metrics.model}: {len(self._queue)} requests wait already, the most that this server accepts"
            raise ResourceExhaustedError(message, retry_after_s=self._seconds_of_work())
        # Only what can be laid on top of each other is computed together.
        kind = tuple((array.shape[1:], array.dtype) for array in arrays)
        return Request(inputs, rows, kind, options, self._loop.create_future(), trace.get_current_span())

    def _seconds_of_work(self) -> float:
        rows = sum(request.rows for request in self._queue)
        return max(0.001, self._batch_s * rows / self._max_rows / self._instances)

    def _forget(self, request: Request) -> None:
        """Take a request whose caller is gone out of the queue, if it still waits there."""
        if request not in self._queue:
            return
        self._queue.remove(request)
        if time.monotonic() >= request.options.deadline - CLOCK_SKEW_S:
            self._metrics.expired("queue")

    def _fill(self) -> None:
        """Give every idle thread a batch while there is work."""
        while self._idle and (batch := self._take()):
            self._idle -= 1
            self._threads.submit(self._work, batch)

    def _take(self) -> list[Request]:
        """Take the next batch out of the queue, dropping what has expired."""
        batch: list[Request] = []
        rows = 0
        while self._queue:
            request = self._queue[0]
            if request.expired():
                self._expire(self._queue.popleft())
                continue
            if batch and (rows + request.rows > self._max_rows or request.kind != batch[0].kind):
                break
            batch.append(self._queue.popleft())
            rows += request.rows
        return batch

    def _expire(self, request: Request) -> None:
        self._metrics.expired("queue")
        if not request.future.done():
            request.future.set_exception(DeadlineExceededError("the deadline passed while the request waited for the model"))

    def _work(self, batch: Sequence[Request]) -> None:
        """Compute a batch; runs in a thread."""
        outcomes = traced(batch, self._metrics, lambda: compute(self._run, batch))
        self._loop.call_soon_threadsafe(self._finish, batch, outcomes)

    def _finish(self, batch: Sequence[Request], outcomes: Sequence[Outcome]) -> None:
        self._idle += 1
        self._fill()  # first of all: the thread shall not wait while answers are written
        self._measure(batch, outcomes)
        for request, outcome in zip(batch, outcomes, strict=True):
            self._settle(request, outcome)

    def _measure(self, batch: Sequence[Request], outcomes: Sequence[Outcome]) -> None:
        seconds = outcomes[-1].finished - outcomes[0].started
        self._batch_s += 0.2 * (seconds - self._batch_s)
        trace_id = exemplar_id(batch[0].span)
        self._metrics.compute.observe(seconds, trace_id)
        self._metrics.batch_size.observe(len(batch), trace_id)

    def _settle(self, request: Request, outcome: Outcome) -> None:
        queue_s = outcome.started - request.queued
        self._metrics.queue.observe(queue_s, exemplar_id(request.span))
        if request.future.done():  # the caller went away meanwhile
            if time.monotonic() >= request.options.deadline - CLOCK_SKEW_S:
                self._metrics.expired("compute")
            return
        result = outcome.result
        if isinstance(result, Exception):
            request.future.set_exception(self._to_caller(result))
        else:
            request.future.set_result(
                Answer(result, outcome.batch_size, queue_s, outcome.finished - outcome.started, self._metrics.runtime)
            )

    def _to_caller(self, error: Exception) -> TesseraError:
        """Return what a caller may know of an error; the rest goes to the log."""
        if isinstance(error, DeadlineExceededError):
            self._metrics.expired("queue")
            return error
        self._metrics.failed()
        log.error("the model failed on a request", model=self._metrics.model, exc_info=error)
        return TesseraError(f"model {self._metrics.model} failed on this request; the server's log says why")
