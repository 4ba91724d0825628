"""Brings the world in line with the database, again and again: what the rows say shall be in Redis and in the registry.

Every pass looks at the rows and does what is missing, so that a crash, a flushed Redis or a registry that was away is made good by the
next pass. Nothing here decides about a job except that an attempt whose lease has passed is lost, and that a job whose version exists
has succeeded.
"""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from services.trainer import metrics
from services.trainer.attempts import Attempts
from services.trainer.families import Families
from services.trainer.jobs import Jobs
from services.trainer.outbox import Outbox
from services.trainer.registry import Registry
from services.trainer.watch import JobWatch
from tessera import telemetry
from tessera.errors import FailedPreconditionError, NotFoundError, StaleFenceError
from tessera.queue import WorkQueue
from tessera.reconciling import Reconciler, Step

log = structlog.get_logger()


class Dispatcher(Reconciler):
    """A component that hands out jobs.

    Args:
        jobs: The jobs, to end and count them.
        families: The families, whose queues are measured.
        attempts: The leases.
        outbox: What is to be done.
        registry: Where inputs, experiments and versions are.
        watch: To be told of attempts that were lost and jobs that ended.
        queue_of: Answers the queue of a family.
        prepare: Makes sure that the tables are there.
        interval_s: Time between two passes, seconds.
    """

    name = "dispatcher"

    def __init__(
        self,
        *,
        jobs: Jobs,
        families: Families,
        attempts: Attempts,
        outbox: Outbox,
        registry: Registry,
        watch: JobWatch,
        queue_of: Callable[[str], WorkQueue],
        prepare: Step,
        interval_s: float,
    ) -> None:
        super().__init__(prepare, interval_s)
        self._renewed = False
        self._jobs = jobs
        self._families = families
        self._attempts = attempts
        self._outbox = outbox
        self._registry = registry
        self._watch = watch
        self._queue_of = queue_of

    def steps(self) -> Sequence[Step]:
        """Return what a pass consists of."""
        return (
            *(self._lose, self._find_missing, self._dispatch, self._settle, self._withdraw, self._bury),
            *(self._hold_inputs, self._release_inputs, self._measure),
        )

    async def _renew_once(self) -> None:
        """Begin every lease anew: nobody could report before we were there."""
        if not self._renewed:
            await asyncio.to_thread(self._attempts.renew_all)
            self._renewed = True

    async def _lose(self) -> None:
        await self._renew_once()
        for job_id in await asyncio.to_thread(self._attempts.lose_passed):
            log.warning("attempt lost: its lease has passed", job=job_id)
            self._watch.tell(job_id)

    async def _find_missing(self) -> None:
        """Find queued jobs whose entry has vanished (a flushed Redis, a lost tail of its log)."""
        for task in await asyncio.to_thread(self._outbox.list_dispatched):
            if not await self._queue_of(task.family).contains(task.entry_id):
                log.warning("entry is missing from the stream, dispatching again", job=task.job_id)
                await asyncio.to_thread(self._outbox.clear_entry, task)

    async def _dispatch(self) -> None:
        for task in await asyncio.to_thread(self._outbox.list_to_dispatch):
            queue = self._queue_of(task.family)
            with telemetry.continued(task.trace):
                entry_id = await queue.add({"job_id": task.job_id})
            if not await asyncio.to_thread(self._outbox.set_dispatched, task, entry_id):
                await queue.ack(entry_id)

    async def _settle(self) -> None:
        for task in await asyncio.to_thread(self._outbox.list_ending):
            try:
                with telemetry.continued(task.trace):
                    version = await self._registry.settle(task)
            except (StaleFenceError, FailedPreconditionError) as error:  # it knows another story than we do
                log.warning("the registry cannot say what came of the job", job=task.job_id, reason=error.message)
                version = 0
            await asyncio.to_thread(self._jobs.settle, task.job_id, version)
            self._watch.tell(task.job_id)

    async def _withdraw(self) -> None:
        for task in await asyncio.to_thread(self._outbox.list_to_withdraw):
            await self._queue_of(task.family).ack(task.entry_id)
            await asyncio.to_thread(self._outbox.clear_entry, task)

    async def _bury(self) -> None:
        for task in await asyncio.to_thread(self._outbox.list_dead_letters):
            await self._queue_of(task.family).dead_letter({"job_id": task.job_id, "attempt": str(task.attempt)}, task.error)
            await asyncio.to_thread(self._outbox.set_buried, task)

    async def _hold_inputs(self) -> None:
        for task in await asyncio.to_thread(self._outbox.list_inputs_to_hold):
            try:
                await self._registry.hold_inputs(task.job_id, task.inputs)
            except NotFoundError as error:  # a worker that has a copy can go on; any other will say the same
                log.warning("an input is gone", job=task.job_id, reason=error.message)
            await asyncio.to_thread(self._outbox.set_inputs_held, task)

    async def _release_inputs(self) -> None:
        for task in await asyncio.to_thread(self._outbox.list_inputs_to_release):
            await self._registry.release_inputs(task.job_id, task.inputs)
            await asyncio.to_thread(self._outbox.set_inputs_released, task)

    async def _measure(self) -> None:
        for state, count in (await asyncio.to_thread(self._jobs.count_by_state)).items():
            metrics.JOBS.labels(state.name).set(count)
        for family in await asyncio.to_thread(self._families.list):
            metrics.QUEUE_DEPTH.labels(family.name).set(await self._queue_of(family.name).depth())
