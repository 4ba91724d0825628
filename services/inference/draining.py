"""Versions on their way out: each is unloaded once its last user has left."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import structlog

from services.inference.leases import Leases
from services.inference.served import ServedModel, Slot, State

log = structlog.get_logger()


class Draining:
    """What was taken out of the pool's tables, so that nobody begins to use it, and is not unloaded yet.

    Args:
        leases: Let go of with each version.
        unloaded: Called after each.
    """

    def __init__(self, leases: Leases, unloaded: Callable[[], Awaitable[None]]) -> None:
        self._leases = leases
        self._unloaded = unloaded
        self._tasks: dict[Slot, asyncio.Task[None]] = {}

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._tasks)

    def add(self, slot: Slot, served: ServedModel) -> None:
        """Unload a version once its last user has left."""
        slot.state = State.DRAINING
        self._tasks[slot] = asyncio.create_task(self._unload(slot, served))

    async def next_gone(self) -> bool:
        """Return once one more is unloaded; False, at once, if there is none.

        Not one whose calls may wait for a load: that load could be the one that waits here for its memory.
        """
        leaving = [task for slot, task in self._tasks.items() if not (slot.served and slot.served.loading)]
        if leaving:
            await asyncio.wait(leaving, return_when=asyncio.FIRST_COMPLETED)
        return bool(leaving)

    async def all_gone(self) -> None:
        """Return once everything is unloaded."""
        await asyncio.gather(*self._tasks.values())

    async def _unload(self, slot: Slot, served: ServedModel) -> None:
        try:
            await served.close()
        except Exception:  # whatever a runtime raises, nobody uses the version any more
            log.exception("a version could not be unloaded properly", model=slot.model, version=slot.version)
        slot.served = None
        try:
            await self._leases.release(slot.model, slot.version)
        finally:  # else whoever makes room would wait for it again and again
            del self._tasks[slot]
        log.info("version unloaded", model=slot.model, version=slot.version)
        await self._unloaded()
