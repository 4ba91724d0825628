"""What the servers of a profile say about their health."""

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tessera.errors import TesseraError

if TYPE_CHECKING:
    from tessera.cli.connection import Connection
    from tessera.settings import ClientSettings

SERVING, NOT_SERVING, UNREACHABLE = "serving", "not serving", "unreachable"


@dataclass(frozen=True)
class ServerHealth:
    """One server.

    Args:
        name: Of the service.
        address: Where it was asked.
        state: "serving", "not serving" or "unreachable".
        reason: Why it could not be asked; empty if it could.
    """

    name: str
    address: str
    state: str
    reason: str = ""


async def ask_servers(used: "Connection") -> list[ServerHealth]:
    """Ask every server for its gRPC health, which needs no token; each of several that one address names.

    Raises:
        InvalidArgumentError: An address, certificate or token cannot be used.
    """
    from tessera.rpc.address import servers

    settings = used.settings()
    asked = [(name, server) for name, address in used.addresses().items() for server in servers(address)]
    return await asyncio.gather(*(_ask(name, server, settings) for name, server in asked))


async def _ask(name: str, address: str, settings: "ClientSettings") -> ServerHealth:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from tessera.rpc.channel import open_channel
    from tessera.rpc.status import rpc_errors

    async with open_channel(address, settings) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            with rpc_errors():
                answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=settings.timeout_s)
        except TesseraError as error:
            return ServerHealth(name, address, UNREACHABLE, error.message)
    well = answer.status == health_pb2.HealthCheckResponse.SERVING
    return ServerHealth(name, address, SERVING if well else NOT_SERVING)
