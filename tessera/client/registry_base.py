"""What the parts of the registry's client share."""

from typing import TYPE_CHECKING

import grpc

from tessera.api.registry.v1.registry_pb2_grpc import RegistryServiceStub

if TYPE_CHECKING:
    from tessera.api.registry.v1.registry_pb2_grpc import RegistryServiceAsyncStub


class RegistryCalls:
    """A channel to the registry with the deadline of its calls.

    Args:
        channel: From `tessera.rpc.channel.open_channel`; the caller closes it.
        timeout_s: Deadline of one call, retries included.
    """

    def __init__(self, channel: grpc.aio.Channel, timeout_s: float = 10.0) -> None:
        self.stub: RegistryServiceAsyncStub = RegistryServiceStub(channel)
        self.timeout_s = timeout_s
