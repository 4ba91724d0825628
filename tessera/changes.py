"""Things that change as a stream: one as it stands, then every change, until it has ended."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

POLL_S = 1.0
"""Changes made by another process are seen within this time, seconds."""

T = TypeVar("T")


class Changes(Generic[T]):
    """Tells whoever watches a thing that it has changed.

    Args:
        read: Returns a thing by its id, as it stands; blocking.
        has_ended: Tells whether it will not change any more.
        poll_s: A watched thing is read at least this often, seconds.
    """

    def __init__(self, read: Callable[[str], T], has_ended: Callable[[T], bool], *, poll_s: float = POLL_S) -> None:
        self._read = read
        self._has_ended = has_ended
        self._poll_s = poll_s
        self._changes: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()  # kept by those who wait

    def tell(self, thing_id: str) -> None:
        """Wake whoever watches a thing; call it on the event loop after every change."""
        if change := self._changes.pop(thing_id, None):
            change.set()

    async def watch(self, thing_id: str) -> AsyncIterator[T]:
        """Yield a thing now and after every change; the last one has ended. Raises whatever `read` raises."""
        seen: T | None = None
        while True:
            change = self._changes.setdefault(thing_id, asyncio.Event())  # before the read, so that no change falls between
            thing = await asyncio.to_thread(self._read, thing_id)
            if thing != seen:
                yield thing
                seen = thing
            if self._has_ended(thing):
                return
            try:
                async with asyncio.timeout(self._poll_s):
                    await change.wait()
            except TimeoutError:
                continue
