"""ServingService: what this server serves."""

import grpc

from services.inference.pool import Pool
from services.inference.served import Slot
from tessera.api.inference.v1.serving_pb2 import ListServedRequest, ListServedResponse, ServedState, ServedVersion
from tessera.api.inference.v1.serving_pb2_grpc import ServingServiceServicer
from tessera.times import to_duration

Call = grpc.aio.ServicerContext[ListServedRequest, ListServedResponse]


class ServingServicer(ServingServiceServicer):
    """Tells operators about the pool.

    Args:
        pool: What is served.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def ListServed(self, request: ListServedRequest, context: Call) -> ListServedResponse:  # noqa: N802 - its name in the API
        """Answer the versions that this server holds."""
        versions = [_version(slot, aliases) for slot, aliases in self._pool.slots(request.model)]
        return ListServedResponse(versions=versions, revision=self._pool.revision)


def _version(slot: Slot, aliases: list[str]) -> ServedVersion:
    version = ServedVersion(
        model=slot.model, version=slot.version, state=ServedState.Value(f"SERVED_STATE_{slot.state.value}"), aliases=aliases
    )
    if slot.error:
        version.error = slot.error.message
    if slot.served:
        version.digest = slot.served.digest
        version.runtime = slot.served.manifest.runtime
        version.runtimes.extend(slot.served.runtimes)
        version.in_flight = slot.served.in_flight
        version.load_time.CopyFrom(to_duration(slot.finished - slot.created))
    return version
