"""Whether a process of the stack is ready: asked over its own protocol, never guessed from its pid."""

import asyncio
import urllib.request
from urllib.error import URLError

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tessera.errors import UnavailableError

TIMEOUT_S = 2.0
READY_LINE = "process_ready 1.0"
"""What the metrics page of a process under `tessera.lifecycle` says while it is ready."""


async def check_grpc(address: str) -> None:
    """Raise UnavailableError unless the gRPC server's health is SERVING."""
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise UnavailableError(f"no answer at {address}: {error.details()}") from error
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise UnavailableError(f"{address} is up but not ready; its log says why")


async def check_redis(address: str, password: str) -> None:
    """Raise UnavailableError unless Redis takes the password and answers a PING, which it does once its data is loaded."""
    host, port = address.split(":")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write(f"AUTH {password}\r\nPING\r\n".encode())
                answer = await reader.readline() + await reader.readline()
            finally:
                writer.close()
                await writer.wait_closed()
    except (OSError, TimeoutError) as error:
        raise UnavailableError(f"no answer at {address}: {error}") from error
    if answer != b"+OK\r\n+PONG\r\n":
        raise UnavailableError(f"{address} answered {answer.decode(errors='replace').strip()!r}")


async def check_metrics(url: str) -> None:
    """Raise UnavailableError unless the process behind this page of metrics says that it is ready."""
    try:
        page = await asyncio.to_thread(_get, url)
    except (URLError, OSError) as error:
        raise UnavailableError(f"no answer at {url}: {error}") from error
    if READY_LINE not in page.splitlines():
        raise UnavailableError(f"{url} answers, but the process is not ready; its log says why")


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310 - our own loopback address
        return str(answer.read().decode(errors="replace"))
