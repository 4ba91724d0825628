"""The gRPC server that every service runs: its own methods, health, reflection, and the interceptors around all of them."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server

from tessera.errors import FailedPreconditionError
from tessera.rpc.auth import Role, TokensFile
from tessera.rpc.certificates import server_certificate
from tessera.rpc.core.server import CoreServer
from tessera.rpc.interceptors.auth import AuthInterceptor
from tessera.rpc.interceptors.deadlines import DeadlineInterceptor
from tessera.rpc.interceptors.draining import DrainInterceptor
from tessera.rpc.interceptors.errors import ErrorInterceptor
from tessera.rpc.interceptors.metrics import MetricsInterceptor
from tessera.rpc.interceptors.traces import TraceInterceptor
from tessera.rpc.options import server_options
from tessera.settings import ServerSettings
from tessera.watched_files import WatchedFiles

_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
_REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]


@dataclass(frozen=True)
class Service:
    """One gRPC service to be served.

    Attributes:
        add_to_server: The generated `add_XServicer_to_server`.
        servicer: What implements the methods; it raises `tessera.errors.TesseraError`.
        descriptor: `x_pb2.DESCRIPTOR.services_by_name["XService"]`.
        roles: Least role for every method, by its name.
    """

    add_to_server: Callable[[Any, Any], None]
    servicer: object
    descriptor: ServiceDescriptor
    roles: Mapping[str, Role]

    def __post_init__(self) -> None:
        """Raise ValueError unless exactly the service's methods have a role: a method must not be open because it was forgotten."""
        methods = set(self.descriptor.methods_by_name)
        if methods != set(self.roles):
            missing, unknown = sorted(methods - set(self.roles)), sorted(set(self.roles) - methods)
            raise ValueError(f"roles of {self.descriptor.full_name}: missing {missing}, unknown {unknown}")


class GrpcServer:
    """A server of one or more services. Health is NOT_SERVING until `set_serving(True)`.

    Attributes:
        port: The bound port, once started.
        watched: Tokens and certificate, if there are any; they are read again when something asks them for a check now and then.
    """

    def __init__(self, settings: ServerSettings, services: Sequence[Service]) -> None:
        """Build the server; raises InvalidArgumentError if the tokens file or a certificate is not as it must be."""
        self.port = settings.port
        self._settings = settings
        self._services = services
        self._names = ["", *(service.descriptor.full_name for service in services)]
        self._health = health.aio.HealthServicer()
        self._publishing: asyncio.Task[None] | None = None
        self._drain = DrainInterceptor()
        self._server: CoreServer | None = None
        self._tokens = TokensFile(settings.tokens_file) if settings.tokens_file else None
        self._certificate = server_certificate(settings)
        self.watched: list[WatchedFiles[Any]] = [files for files in (self._tokens, self._certificate) if files]
        self._interceptors = self._build_interceptors()

    def set_serving(self, serving: bool) -> None:
        """Say in the health of all services whether calls are welcome; needs a running event loop."""
        self._begin_publishing(self._names, serving)

    def set_ready(self, name: str, ready: bool) -> None:
        """Say in the health under the name of something that the services use whether that is ready; needs a running event loop."""
        self._begin_publishing([name], ready)

    async def start(self) -> None:
        """Listen. Raises FailedPreconditionError if the address cannot be bound."""
        options = server_options(self._settings.max_message_bytes)
        self._server = CoreServer(self._interceptors, options, stall_s=self._settings.stall_s)
        for service in self._services:
            service.add_to_server(service.servicer, self._server)
        await self._publish(self._names, False, after=None)
        add_HealthServicer_to_server(self._health, self._server)
        names = [*self._names[1:], _HEALTH.full_name, _REFLECTION.full_name]
        add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer(names), self._server)
        self.port = self._bind(self._server)
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Stop in order; does nothing if not started.

        Health turns NOT_SERVING; after `drain_s`, for load balancers to notice, endless streams are ended and no call is taken any more;
        the running ones get `grace_s` seconds to end.
        """
        if self._server is None:
            return
        self.set_serving(False)
        if self._publishing:
            await self._publishing
        await asyncio.sleep(self._settings.drain_s)
        self._drain.drain()
        await self._server.stop(grace_s)

    def _build_interceptors(self) -> list[grpc.aio.ServerInterceptor]:
        """Return the interceptors, outermost first: traces and metrics see the status that the errors interceptor sent."""
        interceptors: list[grpc.aio.ServerInterceptor] = [TraceInterceptor(), MetricsInterceptor(), ErrorInterceptor()]
        if self._tokens:
            interceptors.append(AuthInterceptor(self._tokens.find, self._roles()))
        return [*interceptors, DeadlineInterceptor(self._settings.default_timeout_s), self._drain]

    def _roles(self) -> dict[str, Role | None]:
        """Return the least role of every method by its path; probes must be able to ask for health without a token."""
        roles: dict[str, Role | None] = {f"/{_HEALTH.full_name}/{method.name}": None for method in _HEALTH.methods}
        roles |= {f"/{_REFLECTION.full_name}/{method.name}": Role.READER for method in _REFLECTION.methods}
        for service in self._services:
            roles |= {f"/{service.descriptor.full_name}/{name}": role for name, role in service.roles.items()}
        return roles

    def _begin_publishing(self, names: Sequence[str], serving: bool) -> None:
        self._publishing = asyncio.get_running_loop().create_task(self._publish(names, serving, after=self._publishing))

    async def _publish(self, names: Sequence[str], serving: bool, after: asyncio.Task[None] | None) -> None:
        if after:
            await after
        for name in names:
            await self._health.set(name, HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING)

    def _bind(self, server: CoreServer) -> int:
        host = self._settings.host
        address = f"[{host}]:{self._settings.port}" if ":" in host and not host.startswith("[") else f"{host}:{self._settings.port}"
        try:
            if self._certificate is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, self._certificate.credentials())
        except RuntimeError as error:
            raise FailedPreconditionError(f"cannot listen on {address}: is the port taken? ({error})", field="port") from error
