"""Channels to Tessera's servers: keepalive, size caps, TLS, token, balancing, retries and traces, in one call."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Self

import grpc
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status

from tessera.errors import InvalidArgumentError
from tessera.rpc.address import host_of, servers
from tessera.rpc.certificates import client_credentials
from tessera.rpc.ending import known
from tessera.rpc.options import Options, channel_options
from tessera.settings import ClientSettings, is_loopback
from tessera.telemetry import inject, tracer
from tessera.watched_files import WatchedFiles

_DEFAULTS = ClientSettings()
_LOOK_S = 1.0
"""So often, at most, a call looks whether the files of token and certificates have changed."""
_RETIREMENT_S = 900.0
"""What the calls on a channel with old certificates get to end; streams that last longer are resumed by their callers."""

Headers = tuple[tuple[str, str], ...]


def open_channel(address: str, settings: ClientSettings = _DEFAULTS) -> grpc.aio.Channel:
    """Return a channel to a server; it connects when it is first used and again whenever the connection is lost.

    Only methods that change nothing (`Get...`, `List...`) are retried, while the server is unavailable. A call has the deadline that it
    is given; settings.timeout_s is for the clients built on the channel.

    Args:
        address: `host:port`, or `ipv4:IP:PORT,IP:PORT` for several servers that show certificates for the first of these. All that are
            named, or that a name stands for, are used in turn.
        settings: Certificates, token and limits.

    Raises:
        InvalidArgumentError: The address reads otherwise, a file of the settings cannot be read, or a token would travel in the clear to
            another machine.
    """
    hosts = [host_of(server) for server in servers(address)]
    headers = _headers(settings)
    if headers.value and not (settings.tls_ca or all(map(is_loopback, hosts)) or settings.allow_insecure):
        raise InvalidArgumentError(
            f"the token would travel in the clear to {address}: set tls_ca, or allow_insecure if the network is trusted", field="tls_ca"
        )
    options = channel_options(settings.max_message_bytes, address)
    return _Channel(partial(_connect, address, options), client_credentials(settings), headers)


def _connect(address: str, options: Options, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, credentials, options=options)


def _headers(settings: ClientSettings) -> WatchedFiles[Headers]:
    file, token = settings.token_file, settings.token
    if file:
        return WatchedFiles("token", [file], lambda data: _bearer(data.decode(errors="replace").strip(), f"the token in {file}"))
    return WatchedFiles("token", [], lambda: () if token is None else _bearer(token.get_secret_value(), "the token"))


def _bearer(token: str, name: str) -> Headers:
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidArgumentError(f"{name} is empty or holds other characters than printable ASCII", field="token")
    return (("authorization", f"Bearer {token}"),)


class _Channel(grpc.aio.Channel):
    """A channel whose calls carry the token and the trace.

    It wraps the channel instead of using gRPC's client interceptors, which cost every call an asyncio task and hide its type.
    """

    def __init__(
        self,
        connect: Callable[[grpc.ChannelCredentials | None], grpc.aio.Channel],
        credentials: WatchedFiles[grpc.ChannelCredentials | None],
        headers: WatchedFiles[Headers],
    ) -> None:
        self._connect = connect
        self._credentials = credentials
        self._headers = headers
        self._channel = connect(credentials.value)
        self._retiring: set[asyncio.Task[None]] = set()
        self._look_at = time.monotonic() + _LOOK_S

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        for retiring in self._retiring:
            retiring.cancel()
        await asyncio.gather(self._channel.close(grace), *self._retiring, return_exceptions=True)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _Method(method, self, lambda channel: channel.unary_unary(method, *args, **kwargs))

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _Method(method, self, lambda channel: channel.unary_stream(method, *args, **kwargs))

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _Method(method, self, lambda channel: channel.stream_unary(method, *args, **kwargs))

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _Method(method, self, lambda channel: channel.stream_stream(method, *args, **kwargs))

    def present(self) -> tuple[grpc.aio.Channel, Headers]:
        """Return the channel below and the token of this moment; if its certificates have changed, another channel than before."""
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + _LOOK_S
            self._headers.refresh()
            if self._credentials.refresh():
                self._replace()
        return self._channel, self._headers.value

    def _replace(self) -> None:
        retiring = asyncio.get_running_loop().create_task(_retire(self._channel))
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)
        self._channel = self._connect(self._credentials.value)


async def _retire(channel: grpc.aio.Channel) -> None:
    """Close a channel when its calls have ended; at once if cancelled."""
    try:
        await channel.close(_RETIREMENT_S)
    finally:
        await channel.close()


class _Method:
    """A method of a stub, of any of the four kinds."""

    def __init__(self, path: str, channel: _Channel, make: Callable[[grpc.aio.Channel], Callable[..., Any]]) -> None:
        self._name = path.strip("/")
        service, _, method = self._name.rpartition("/")
        self._attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        self._channel = channel
        self._make = make
        self._below: grpc.aio.Channel | None = None

    def __call__(self, request: Any = None, *, metadata: Any = None, **options: Any) -> Any:
        below, token = self._channel.present()
        if below is not self._below:
            self._below, self._inner = below, self._make(below)
        span = tracer.start_span(self._name, kind=SpanKind.CLIENT, attributes=self._attributes)
        with trace.use_span(span):
            headers = (*(metadata or ()), *token, *inject().items())
            call = self._inner(request, metadata=headers, **options)
        if span.is_recording():
            call.add_done_callback(lambda ended: _end(span, ended))
        return call


def _end(span: Span, call: Any) -> None:
    code = known(call.code())
    span.set_attribute("rpc.grpc.status_code", code.value[0])
    if code is not grpc.StatusCode.OK:
        span.set_status(Status(trace.StatusCode.ERROR, code.name))
    span.end()
