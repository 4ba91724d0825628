"""Greedy dynamic batching: whatever waits when a thread becomes free is computed together; nothing ever waits for company.

All state lives on the event loop; a thread only sees a batch that was taken out of the queue, and hands back its outcomes. So there are
no locks, and a request is in exactly one place: the queue, a batch, or done.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from functools import partial

import structlog
from opentelemetry import trace

from services.inference.batches import RUNTIME_FAILED, Answer, Outcome, Request, Run, compute
from services.inference.estimates import Estimates, Running
from services.inference.limits import MAX_BATCH, Limits
from services.inference.metrics import EngineMetrics
from services.inference.options import CallOptions
from services.inference.queueing import Queue
from services.inference.runtimes.runtime import Tensors
from services.inference.spans import traced
from services.inference.threads import Threads
from tessera.errors import DeadlineExceededError, InvalidArgumentError, ResourceExhaustedError, TesseraError
from tessera.histogram import exemplar_id

log = structlog.get_logger()

SHORTEST_RETRY_S = 0.001


class Batcher:
    """The queue and the threads of one version in one runtime. To be used on one event loop.

    Args:
        run: Computes one batch; called in threads of this batcher.
        metrics: Where to count.
        limits: Of the model; see `apply`.
        instances: Batches computed at the same time, each in a thread of its own, unless the limits name a number.
        most_rows: Most rows that a batch may have whatever the limits say: 1 if the graph takes no other.
        regular: Whether batches of equal rows take about equal time. Where they do not, for other extents differ too, what earlier batches
            took says nothing of the next, and no request is refused for it.
    """

    def __init__(
        self, run: Run, metrics: EngineMetrics, limits: Limits, *, instances: int, most_rows: int = MAX_BATCH, regular: bool = True
    ) -> None:
        self._run = run
        self._metrics = metrics
        self._default_instances = instances
        self._most_rows = most_rows
        self._regular = regular
        self._queue = Queue()
        self._estimates = Estimates()
        self._loop = asyncio.get_running_loop()
        self._threads = Threads(f"batch-{metrics.model}")
        self.apply(limits)

    def apply(self, limits: Limits) -> None:
        """Keep to these limits from now on; what waits or is being computed stays."""
        self._queue_size = limits.queue_size
        self._max_rows = min(limits.max_batch, self._most_rows)
        self._instances = limits.instances or self._default_instances
        self._threads.grow(self._instances)
        self._fill()

    async def submit(self, inputs: Tensors, options: CallOptions) -> Answer:
        """Compute one request, alone or together with others.

        Args:
            inputs: Every input of the model, checked; all with the same number of rows, at least one.
            options: The caller's wishes.

        Raises:
            InvalidArgumentError: More rows than a batch may have.
            DeadlineExceededError: The deadline passed, or was about to, before the request was computed; it was not computed.
            ResourceExhaustedError: The queue is full, or there is too much work before this request for it to end within its deadline;
                `retry_after_s` says when to come again.
            TesseraError: The model failed on this request.
        """
        request = self._admit(inputs, options)
        self._queue.add(request)
        self._fill()
        try:
            return await request.future
        except asyncio.CancelledError:
            self._forget(request)
            raise

    async def close(self) -> None:
        """End the threads, after the batches that run. Whoever still waits must have been cancelled before."""
        await asyncio.to_thread(self._threads.close)

    def _admit(self, inputs: Tensors, options: CallOptions) -> Request:
        arrays = inputs.values()
        rows = len(next(iter(arrays)))
        if rows > self._max_rows:
            raise InvalidArgumentError(f"the request has {rows} rows; at most {self._max_rows} fit in a batch", field="inputs")
        # Only what can be laid on top of each other is computed together.
        kind = tuple([(array.shape[1:], array.dtype) for array in arrays])
        request = Request(inputs, rows, kind, options, self._loop.create_future(), trace.get_current_span(), time.monotonic())
        if len(self._queue) >= self._queue_size:
            self._metrics.shed("queue_full")
            message = f"model {self._metrics.model}: {len(self._queue)} requests wait already, the most that this server accepts"
            raise ResourceExhaustedError(message, retry_after_s=max(SHORTEST_RETRY_S, self._until_answer(request)))
        if options.deadline < math.inf:
            self._check_deadline(request)
        return request

    def _check_deadline(self, request: Request) -> None:
        """Raise an error if the request cannot end within its deadline."""
        left = request.options.deadline - request.queued
        if left <= 0:
            self._metrics.expired("decode")
            raise DeadlineExceededError("the deadline passed before the request could wait for the model")
        needed = self._until_answer(request)
        if needed > left:
            self._metrics.shed("deadline")
            raise ResourceExhaustedError(
                f"model {self._metrics.model}: an answer takes about {needed:.3f} s now, and the call has {left:.3f} s left",
                retry_after_s=max(SHORTEST_RETRY_S, needed - left),
            )

    def _until_answer(self, request: Request) -> float:
        if not self._regular:
            return 0.0
        return self._estimates.until_answer(
            request.rows,
            self._queue.rows(request.options.priority),
            instances=self._instances,
            max_rows=self._max_rows,
            now=request.queued,
        )

    def _forget(self, request: Request) -> None:
        """Take a request whose caller is gone out of the queue, if it still waits there."""
        if self._queue.discard(request) and request.options.ended_by_deadline(time.monotonic()):
            self._metrics.expired("queue")

    def _fill(self) -> None:
        """Give every idle instance a batch while there is work."""
        while self._estimates.running < self._instances and self._queue:
            now = time.monotonic()
            least = self._estimates.least_of_all(now) if self._regular else 0.0
            batch, late = self._queue.take(self._max_rows, now + least)
            for request in late:
                self._expire(request)
            if batch:
                rows = sum([request.rows for request in batch])
                running = self._estimates.begin(rows, now, others_wait=bool(self._queue))
                self._threads.submit(partial(self._work, batch, running))

    def _expire(self, request: Request) -> None:
        self._metrics.expired("queue")
        if not request.future.done():
            request.future.set_exception(DeadlineExceededError("the deadline would pass before the model has computed the request"))

    def _work(self, batch: Sequence[Request], running: Running) -> None:
        """Compute a batch; runs in a thread."""
        try:
            outcomes = traced(batch, self._metrics, partial(compute, self._run, batch))
        except BaseException as error:  # whatever it is, the thread lives on and everybody is answered
            now = time.monotonic()
            outcomes = [Outcome(RuntimeError(repr(error)), len(batch), now, now)] * len(batch)
        self._loop.call_soon_threadsafe(self._finish, batch, running, outcomes)

    def _finish(self, batch: Sequence[Request], running: Running, outcomes: Sequence[Outcome]) -> None:
        self._estimates.end(running, time.monotonic())
        self._fill()  # first of all: the thread shall not wait while answers are written
        self._measure(batch, outcomes)
        for request, outcome in zip(batch, outcomes, strict=True):
            self._settle(request, outcome)

    def _measure(self, batch: Sequence[Request], outcomes: Sequence[Outcome]) -> None:
        seconds = outcomes[-1].finished - outcomes[0].started
        trace_id = exemplar_id(batch[0].span)
        self._metrics.compute.observe(seconds, trace_id)
        self._metrics.batch_size.observe(len(batch), trace_id)

    def _settle(self, request: Request, outcome: Outcome) -> None:
        queue_s = outcome.started - request.queued
        self._metrics.queue.observe(queue_s, exemplar_id(request.span))
        if request.future.done():  # the caller went away meanwhile
            if request.options.ended_by_deadline(time.monotonic()):
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
        if isinstance(error, RUNTIME_FAILED):
            return error
        log.error("the model failed on a request", model=self._metrics.model, exc_info=error)
        return TesseraError(f"model {self._metrics.model} failed on this request; the server's log says why")
