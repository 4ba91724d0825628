"""What a worker tells the trainer while it holds a job: progress, and with it that it is still there."""

import asyncio
import math
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from tessera.api.trainer.v1 import trainer_pb2, worker_pb2
from tessera.client.calls import call, pause_s
from tessera.errors import NotFoundError, StaleFenceError, TesseraError, UnavailableError
from tessera.queue import LEASE_LOST, Delivery, WorkQueue
from tessera.times import to_duration
from trainers.patience import patiently
from trainers.supervision import Message, numbers

if TYPE_CHECKING:
    from tessera.api.trainer.v1.worker_pb2_grpc import WorkerServiceAsyncStub

_PROGRESS_INTERVAL_S = 1.0

log = structlog.get_logger()


class Reporter:
    """Renews both leases of an attempt: the trainer's, which decides, and then the queue's.

    While the trainer is away the reports are repeated with backoff and the training goes on.

    Args:
        stub: Of the trainer.
        queue: Where the job came from.
        delivery: The entry of the job.
        attempt: Its number.
        lease_s: Of the attempt, seconds.
    """

    def __init__(self, stub: "WorkerServiceAsyncStub", queue: WorkQueue, delivery: Delivery, *, attempt: int, lease_s: float) -> None:
        self.cancel_requested = asyncio.Event()
        """Set when a person asked to stop."""
        self._stub = stub
        self._queue = queue
        self._delivery = delivery
        self._lease_s = lease_s
        self._next = worker_pb2.ReportProgressRequest(job_id=delivery.fields["job_id"], attempt=attempt)
        self._news = asyncio.Event()
        self._entry_held = True

    def tell_progress(self, message: Message) -> None:
        """Take over where training stands from a message of the child."""
        self._next.progress.CopyFrom(progress_of(message))
        self._news.set()

    def tell_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Say that an epoch is finished; one that is told again after a resume is no news."""
        if epoch < self._next.progress.epoch:
            return
        self._next.progress.epoch = epoch
        self._next.progress.metrics.update(metrics)
        self._news.set()

    def tell_resumed(self, epoch: int) -> None:
        """Say from which epoch training went on."""
        self._next.resumed_from_epoch = epoch
        self._next.progress.epoch = epoch
        self._news.set()

    async def tell_phase(self, phase: str) -> None:
        """Say what the worker itself does now, and wait until the trainer knows."""
        self._next.progress.phase = phase
        self._next.progress.ClearField("eta")
        await self.flush()

    async def tell_experiment(self, experiment_id: str) -> None:
        """Say which experiment the attempt belongs to, and wait until the trainer knows: it closes it if nothing comes of the job."""
        self._next.experiment_id = experiment_id
        await self.flush()

    async def flush(self) -> None:
        """Wait until the trainer knows everything that was told so far."""
        await patiently("report", self._report, longest_pause_s=self._lease_s / 4)

    async def run(self) -> None:
        """Report until cancelled.

        Raises:
            StaleFenceError: The attempt is over: another one has begun, or the job has ended.
            NotFoundError: The trainer does not know the job.
        """
        failures = 0
        while True:
            try:
                await self._report()
                failures = 0
            except (StaleFenceError, NotFoundError):
                raise
            except TesseraError as error:
                failures += 1
                if failures == 1:
                    log.warning("cannot report, training goes on", reason=error.message)
                await asyncio.sleep(min(pause_s(failures), self._lease_s / 4))
                continue
            await self._renew_entry()
            await self._pause()

    async def _report(self) -> None:
        request = worker_pb2.ReportProgressRequest()
        request.CopyFrom(self._next)
        response = await call(self._stub.ReportProgress, request, timeout_s=max(1.0, self._lease_s / 3))
        if self._next == request:
            self._news.clear()
        if response.cancel_requested:
            self.cancel_requested.set()

    async def _renew_entry(self) -> None:
        """Renew the entry in the queue. Losing it is no reason to stop: the trainer has just said that the attempt stands."""
        try:
            held = await self._queue.renew(self._delivery)
        except UnavailableError as error:
            log.debug("cannot renew the entry, training goes on", reason=error.message)
            return
        if self._entry_held and not held:
            LEASE_LOST.inc()
            log.warning("the entry in the queue is lost, training goes on", entry=self._delivery.id)
        self._entry_held = held

    async def _pause(self) -> None:
        """Wait for news, but not beyond a third of the lease, and never less than the interval between two reports."""
        await asyncio.sleep(min(_PROGRESS_INTERVAL_S, self._lease_s / 4))
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._lease_s / 3 - _PROGRESS_INTERVAL_S)):
                await self._news.wait()


def progress_of(message: Message) -> trainer_pb2.Progress:
    """Return a progress message of a child as it goes to the trainer; what is missing or no number counts as 0."""
    values = numbers(message)
    progress = trainer_pb2.Progress(
        epoch=int(values.get("epoch", 0)),
        epochs=int(values.get("epochs", 0)),
        step=int(values.get("step", 0)),
        steps=int(values.get("steps", 0)),
        loss=values.get("loss", 0.0),
        metrics=numbers(message.get("metrics")),
        phase=str(message.get("phase", "")),
    )
    eta_s = values.get("eta_s", math.nan)
    if math.isfinite(eta_s) and eta_s >= 0:
        progress.eta.CopyFrom(to_duration(eta_s))
    return progress
