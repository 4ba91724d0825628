"""The stream of changes."""

# ruff: noqa: N802 (methods are named as in the contract)

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from services.registry.calls.base import Calls, Context
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.errors import InvalidArgumentError
from tessera.names import check_name
from tessera.times import now, to_timestamp

PAGE = 200
"""Events read at once: a slow watcher holds no more than these in memory."""

LOOK_S = 0.5
"""How often to look for changes that another process of the same registry made."""

BOOKMARK_S = 5.0
"""How often a bookmark tells a watcher that nothing has happened."""


class WatchCalls(Calls):
    """See registry.proto."""

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.WatchResponse]:
        """Replay what happened since a revision, then follow."""
        if request.since_revision < 0:
            raise InvalidArgumentError(f"since_revision: {request.since_revision} is negative", field="since_revision")
        model = check_name(request.model, "model") if request.model else ""
        position = request.since_revision
        next_bookmark = 0.0
        while True:
            changed = self._signal.next()
            events, newest = await asyncio.to_thread(self._registry.changes.after, position, model, PAGE)
            for event in events:
                yield event
                position = event.revision
            if len(events) == PAGE:
                continue
            # The page was read from the same snapshot as `newest`: what lies between is about other models.
            position = max(position, newest)
            if time.monotonic() >= next_bookmark:
                yield pb.WatchResponse(revision=position, time=to_timestamp(now()))
                next_bookmark = time.monotonic() + BOOKMARK_S
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), LOOK_S)
