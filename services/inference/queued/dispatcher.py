"""Hands out requests: what the rows say shall be in Redis and in the registry.

Every server that shares the database runs one. Nothing here decides about a request, except that an attempt whose lease has passed is
lost and that a request whose time is over has expired.
"""

import asyncio
from collections.abc import Mapping, Sequence

import structlog

from services.inference.options import Priority
from services.inference.queued import metrics
from services.inference.queued.attempts import Attempts
from services.inference.queued.outbox import Outbox
from services.inference.queued.store import Store
from tessera import telemetry
from tessera.api.inference.v1 import queued_pb2 as pb
from tessera.changes import Changes
from tessera.errors import NotFoundError
from tessera.queue import WorkQueue
from tessera.reconciling import Reconciler, Step

log = structlog.get_logger()

PRIORITIES = {
    int(pb.INFERENCE_PRIORITY_HIGH): Priority.HIGH,
    int(pb.INFERENCE_PRIORITY_NORMAL): Priority.NORMAL,
    int(pb.INFERENCE_PRIORITY_LOW): Priority.LOW,
}
"""From the wire to the batcher."""


class Dispatcher(Reconciler):
    """A component that hands out requests.

    Args:
        attempts: The leases.
        outbox: What is to be done.
        store: Where inputs and results are.
        changes: To be told of requests that changed.
        queues: One for each priority on the wire.
        prepare: Makes sure that the tables are there.
        keep_s: Requests that ended longer ago are forgotten, seconds.
        interval_s: Time between two passes, seconds.
    """

    name = "dispatcher of queued inference"

    def __init__(
        self,
        *,
        attempts: Attempts,
        outbox: Outbox,
        store: Store,
        changes: Changes[pb.Inference],
        queues: Mapping[int, WorkQueue],
        prepare: Step,
        keep_s: float,
        interval_s: float,
    ) -> None:
        super().__init__(prepare, interval_s)
        self._attempts = attempts
        self._outbox = outbox
        self._store = store
        self._changes = changes
        self._queues = queues
        self._keep_s = keep_s

    def steps(self) -> Sequence[Step]:
        """Return what a pass consists of."""
        return (
            *(self._lose, self._expire, self._find_missing, self._dispatch, self._withdraw, self._bury),
            *(self._hold_results, self._release_inputs, self._forget, self._measure),
        )

    async def _lose(self) -> None:
        for inference_id in await asyncio.to_thread(self._attempts.lose_passed):
            log.warning("attempt lost: its lease has passed", inference=inference_id)
            self._changes.tell(inference_id)

    async def _expire(self) -> None:
        for inference_id in await asyncio.to_thread(self._attempts.expire_passed):
            log.info("dropped: not computed in time", inference=inference_id)
            self._changes.tell(inference_id)

    async def _find_missing(self) -> None:
        """Find queued requests whose entry has vanished (a flushed Redis, a lost tail of its log)."""
        for task in await asyncio.to_thread(self._outbox.list_dispatched):
            if not await self._queues[task.priority].contains(task.entry_id):
                log.warning("entry is missing from the stream, dispatching again", inference=task.inference_id)
                await asyncio.to_thread(self._outbox.clear_entry, task)

    async def _dispatch(self) -> None:
        for task in await asyncio.to_thread(self._outbox.list_to_dispatch):
            queue = self._queues[task.priority]
            with telemetry.continued(task.trace):
                entry_id = await queue.add({"inference_id": task.inference_id})
            if not await asyncio.to_thread(self._outbox.set_dispatched, task, entry_id):
                await queue.ack(entry_id)

    async def _withdraw(self) -> None:
        for task in await asyncio.to_thread(self._outbox.list_to_withdraw):
            await self._queues[task.priority].ack(task.entry_id)
            await asyncio.to_thread(self._outbox.clear_entry, task)

    async def _bury(self) -> None:
        for task in await asyncio.to_thread(self._outbox.list_dead_letters):
            letter = {"inference_id": task.inference_id, "attempt": str(task.attempt)}
            await self._queues[task.priority].dead_letter(letter, task.error)
            await asyncio.to_thread(self._outbox.set_buried, task)

    async def _hold_results(self) -> None:
        for task in await asyncio.to_thread(self._outbox.list_results_to_hold):
            try:
                await self._store.hold_result(task.inference_id, task.result, task.result_expire_time)
            except NotFoundError as error:  # whoever asks for it is told so
                log.error("a result is gone", inference=task.inference_id, reason=error.message)
            await asyncio.to_thread(self._outbox.set_result_held, task)

    async def _release_inputs(self) -> None:
        for task in await asyncio.to_thread(self._outbox.list_inputs_to_release):
            await self._store.release_inputs(task.inference_id, task.inputs)
            await asyncio.to_thread(self._outbox.set_inputs_released, task)

    async def _forget(self) -> None:
        if removed := await asyncio.to_thread(self._outbox.forget, self._keep_s):
            log.info("requests forgotten", requests=removed)
        await asyncio.to_thread(self._store.remove_leftovers)

    async def _measure(self) -> None:
        for state, count in (await asyncio.to_thread(self._outbox.count_by_state)).items():
            metrics.REQUESTS.labels(state.name.lower()).set(count)
        oldest = await asyncio.to_thread(self._outbox.oldest)
        for number, priority in PRIORITIES.items():
            metrics.AGE.labels(priority.name.lower()).set(oldest.get(number, 0.0))
            metrics.DEPTH.labels(priority.name.lower()).set(await self._queues[number].depth())
