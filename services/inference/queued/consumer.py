"""Takes requests from the queues and computes them, a few at a time, keeping their leases meanwhile."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, TypeVar

import structlog
from opentelemetry.trace import SpanKind

from services.inference.options import CallOptions
from services.inference.queued.attempts import Attempts, Claim, Result
from services.inference.queued.computing import Computer
from services.inference.queued.dispatcher import PRIORITIES, Dispatcher
from services.inference.queued.progress import Progress
from services.inference.queued.reconstructions import Reconstructions
from services.inference.queued.specs import inputs_of
from services.inference.queued.store import Store
from services.inference.queued.tables import Outcome
from tessera import telemetry
from tessera.api.inference.v1 import queued_pb2 as pb
from tessera.blob_files import BlobRef
from tessera.changes import Changes
from tessera.client.calls import pause_s
from tessera.errors import (
    ConflictError,
    DataLossError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    StaleFenceError,
    TesseraError,
    UnavailableError,
)
from tessera.queue import Delivery, WorkQueue
from tessera.times import Clock, now

log = structlog.get_logger()

T = TypeVar("T")

TAKE_S = 2.0
"""How long to wait for an entry before the next look, seconds."""
LONGEST_BEAT_S = 1.0
"""Progress is told, and a wish to cancel is heard, this often."""
PERMANENT = (InvalidArgumentError, NotFoundError, FailedPreconditionError, DataLossError)
"""Every further attempt would fail like this."""


class Consumer:
    """A component that computes what is queued.

    Args:
        server: Name of this server in the attempts.
        queues: One for each priority on the wire.
        concurrency: Requests of one priority that are computed at a time: what is urgent never waits for what is not.
        attempts: The leases.
        computer: Computes those for one model.
        reconstructions: Computes those for a scan.
        store: Where inputs and results are.
        changes: To be told of requests that changed.
        dispatcher: To be woken when there is something for it.
        clock: Answers the present.
    """

    name = "queued inference"

    def __init__(
        self,
        *,
        server: str,
        queues: Mapping[int, WorkQueue],
        concurrency: int,
        attempts: Attempts,
        computer: Computer,
        reconstructions: Reconstructions,
        store: Store,
        changes: Changes[pb.Inference],
        dispatcher: Dispatcher,
        clock: Clock = now,
    ) -> None:
        self._server = server
        self._queues = queues
        self._concurrency = concurrency
        self._attempts = attempts
        self._computer = computer
        self._reconstructions = reconstructions
        self._store = store
        self._changes = changes
        self._dispatcher = dispatcher
        self._clock = clock
        self._takers: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Begin to take requests."""
        self._takers = [asyncio.create_task(self._take(queue)) for queue in self._queues.values() for _ in range(self._concurrency)]

    async def stop(self) -> None:
        """Give back what is being computed, so that another server goes on with it, and end."""
        self._stopping.set()
        if self._takers:
            await asyncio.wait(self._takers)

    async def check(self) -> None:
        """Return always: calls that are waited for are answered without a queue."""

    async def _take(self, queue: WorkQueue) -> None:
        """Take one request after the other, for ever; whatever goes wrong, go on after a pause."""
        failures = 0
        while not self._stopping.is_set():
            try:
                delivery = await self._unless_stopping(queue.take(self._server, TAKE_S))
                failures = 0
                if delivery is not None:
                    await self._handle(queue, delivery)
            except TesseraError as error:
                failures += 1
                if failures == 1:
                    log.warning("cannot take queued requests now, will try again", stream=queue.stream, reason=error.message)
            except Exception:
                failures += 1
                log.exception("unexpected error, going on", stream=queue.stream)
            if failures:
                await self._unless_stopping(asyncio.sleep(pause_s(failures)))

    async def _unless_stopping(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Return what some work returns; None if it is time to stop, which ends it."""
        working, stopping = asyncio.create_task(work), asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            working.cancel()
            stopping.cancel()
            await asyncio.gather(working, stopping, return_exceptions=True)

    async def _handle(self, queue: WorkQueue, delivery: Delivery) -> None:
        inference_id = delivery.fields.get("inference_id", "")
        try:
            claim = await asyncio.to_thread(self._attempts.claim, inference_id, self._server, delivery.id)
        except (NotFoundError, FailedPreconditionError, InvalidArgumentError) as error:
            log.info("nothing to do for this entry", inference=inference_id, reason=error.message)
            await queue.ack(delivery.id)
            return
        except ConflictError as error:
            log.info("somebody else is at it", inference=inference_id, reason=error.message)
            return
        log.info("attempt begins", inference=inference_id, attempt=claim.number)
        self._changes.tell(inference_id)
        caller = telemetry.extract(delivery.fields)
        with telemetry.tracer.start_as_current_span("queued inference", context=caller, kind=SpanKind.CONSUMER):
            try:
                await self._attempt(claim, partial(queue.renew, delivery))
            except StaleFenceError as error:
                log.warning("gave up: the attempt is not ours any more", inference=inference_id, attempt=claim.number, reason=error.message)
        self._changes.tell(inference_id)
        self._dispatcher.wake()
        await queue.ack(delivery.id)

    async def _attempt(self, claim: Claim, renew: Callable[[], Awaitable[object]]) -> None:
        """Make an attempt, whatever comes of it, and write down how it ended.

        Raises:
            StaleFenceError: It was given up meanwhile; nothing was written.
        """
        progress = Progress()
        computing = asyncio.create_task(self._compute(claim, progress))
        keeping = asyncio.create_task(self._keep(claim, progress, renew))
        try:
            await self._unless_stopping(asyncio.wait({computing, keeping}, return_when=asyncio.FIRST_COMPLETED))
            outcome, error, result = self._outcome(claim, computing, keeping)
        finally:
            computing.cancel()
            keeping.cancel()
            await asyncio.gather(computing, keeping, return_exceptions=True)
        await self._finish(claim, outcome, error, result)

    def _outcome(self, claim: Claim, computing: asyncio.Task[Result], keeping: asyncio.Task[None]) -> tuple[Outcome, str, Result | None]:
        """Return how an attempt ended, why, and what it brought. Raises StaleFenceError if it was given up."""
        if keeping.done():
            keeping.result()  # raises why the lease is lost
            return Outcome.CANCELLED, "", None
        if not computing.done():
            return Outcome.RELEASED, "the server was stopped", None
        error = computing.exception()
        if error is None:
            return Outcome.SUCCEEDED, "", computing.result()
        if isinstance(error, StaleFenceError):
            raise error
        return *self._failure(claim, error), None

    def _failure(self, claim: Claim, error: BaseException) -> tuple[Outcome, str]:
        """Return what becomes of an attempt that failed, and why."""
        if not isinstance(error, TesseraError):
            log.error("an attempt failed unexpectedly", inference=claim.inference_id, exc_info=error)
            return Outcome.RETRYABLE, f"{type(error).__name__}; the server's log says more"
        if isinstance(error, PERMANENT):
            return Outcome.PERMANENT, error.message
        if isinstance(error, DeadlineExceededError) and self._clock() >= claim.expire_time:
            return Outcome.EXPIRED, "its time was over before it was computed"
        return (Outcome.RETRYABLE if error.code == "INTERNAL" else Outcome.POSTPONED), error.message

    async def _compute(self, claim: Claim, progress: Progress) -> Result:
        remaining_s = (claim.expire_time - self._clock()) / 1e6
        options = CallOptions(
            deadline=time.monotonic() + remaining_s,
            priority=PRIORITIES[claim.priority],
            sticky_key=claim.sticky_key or claim.inference_id,
            runtime=claim.runtime,
        )
        with self._store.folder() as folder:
            inputs, outputs = folder / "inputs.safetensors", folder / "outputs.safetensors"
            source = inputs_of(claim.spec)
            await self._store.download(BlobRef(source.sha256, source.size_bytes), inputs)
            if isinstance(claim.spec, pb.SubmitInferenceRequest):
                computing = self._computer.compute(claim.spec, options, inputs, outputs, progress)
            else:
                computing = self._reconstructions.compute(claim.spec, options, inputs, outputs, progress)
            answered_by = await _in_time(computing, remaining_s)
            # One that was given up meanwhile leaves nothing behind, not even a blob.
            await asyncio.to_thread(self._attempts.report, claim, progress)
            return Result(await self._store.upload(outputs), answered_by.version, answered_by.runtime)

    async def _keep(self, claim: Claim, progress: Progress, renew: Callable[[], Awaitable[object]]) -> None:
        """Renew the leases until a person asks to stop. Raises StaleFenceError if the attempt was given up."""
        interval_s = min(LONGEST_BEAT_S, self._attempts.lease_s / 4)
        while True:
            await asyncio.sleep(interval_s)
            try:
                if await asyncio.to_thread(self._attempts.report, claim, progress):
                    return
                self._changes.tell(claim.inference_id)
                await renew()
            except UnavailableError as error:  # the database or Redis is away; the attempt goes on while nobody else begins one
                log.debug("cannot renew a lease", inference=claim.inference_id, reason=error.message)

    async def _finish(self, claim: Claim, outcome: Outcome, error: str, result: Result | None) -> None:
        """Write down how an attempt ended, however long the database is away."""
        failures = 0
        while True:
            try:
                await asyncio.to_thread(self._attempts.finish, claim, outcome, error=error, result=result)
            except UnavailableError as problem:
                failures += 1
                log.warning("cannot write down how an attempt ended, will try again", reason=problem.message)
                await asyncio.sleep(pause_s(failures))
            else:
                log.info("attempt ended", inference=claim.inference_id, attempt=claim.number, outcome=outcome.name, error=error)
                return


async def _in_time(work: Coroutine[Any, Any, T], seconds: float) -> T:
    """Return what some work returns; DeadlineExceededError after so many seconds, for a model may take long to load."""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise DeadlineExceededError("the time of the request is over") from None
