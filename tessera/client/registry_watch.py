"""The registry's client: the event stream, resumed by revision."""

from collections.abc import AsyncGenerator

import grpc

from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.client.registry_base import RegistryCalls
from tessera.client.streams import resumed

IDLE_TIMEOUT_S = 30.0
"""The registry sends a bookmark every few seconds; after this long without one the connection is taken for dead."""


class WatchCalls(RegistryCalls):
    """The event stream."""

    async def watch(self, since_revision: int = 0, model: str = "") -> AsyncGenerator[pb.WatchResponse, None]:
        """Yield every change after `since_revision` in order, for ever; messages without an event are bookmarks.

        The stream is opened again, from the last revision seen, whenever the registry goes away: nothing is lost or repeated.

        Raises:
            TesseraError: The registry refused the request itself (for example NotFoundError, PermissionDeniedError).

        Example:
            async for message in registry.watch(since_revision=seen):
                seen = message.revision
        """
        revision = since_revision

        def open_stream() -> grpc.aio.UnaryStreamCall[pb.WatchRequest, pb.WatchResponse]:
            return self.stub.Watch(pb.WatchRequest(since_revision=revision, model=model))

        async for message in resumed(open_stream, idle_timeout_s=IDLE_TIMEOUT_S, what="registry watch"):
            revision = max(revision, message.revision)
            yield message
