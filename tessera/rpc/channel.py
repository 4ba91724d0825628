"""Channels to Tessera's servers: keepalive, size caps, TLS, token, balancing, retries and traces, in one call."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status

from tessera.errors import InvalidArgumentError
from tessera.rpc.options import channel_options
from tessera.settings import ClientSettings, is_loopback
from tessera.telemetry import inject, tracer

_DEFAULTS = ClientSettings()


def open_channel(address: str, settings: ClientSettings = _DEFAULTS) -> grpc.aio.Channel:
    """Return a channel to a server; it connects when it is first used and again whenever the connection is lost.

    Only methods that change nothing (`Get...`, `List...`) are retried, while the server is unavailable. A call has the deadline that it
    is given; settings.timeout_s is for the clients built on the channel.

    Args:
        address: `host:port`; all addresses behind the name are used in turn.
        settings: Certificates, token and limits.

    Raises:
        InvalidArgumentError: The address is empty, a file of the settings cannot be read, or a token would travel in the clear to another
            machine.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise InvalidArgumentError(f"the address must read host:port, not {address!r}", field="address")
    loopback = is_loopback(host)
    headers = _headers(settings)
    if headers and not (settings.tls_ca or loopback or settings.allow_insecure):
        raise InvalidArgumentError(
            f"the token would travel in the clear to {address}: set tls_ca, or allow_insecure if the network is trusted", field="tls_ca"
        )
    options = channel_options(settings.max_message_bytes, loopback=loopback)
    if settings.tls_ca is None:
        return _Channel(grpc.aio.insecure_channel(address, options=options), headers)
    credentials = grpc.ssl_channel_credentials(_read(settings.tls_ca), _read(settings.tls_key), _read(settings.tls_cert))
    return _Channel(grpc.aio.secure_channel(address, credentials, options=options), headers)


def _headers(settings: ClientSettings) -> tuple[tuple[str, str], ...]:
    token = settings.token.get_secret_value() if settings.token is not None else None
    if settings.token_file:
        token = (_read(settings.token_file) or b"").decode(errors="replace").strip()
    if token is None:
        return ()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidArgumentError("the token is empty or holds other characters than printable ASCII", field="token")
    return (("authorization", f"Bearer {token}"),)


def _read(path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path else None
    except OSError as error:
        raise InvalidArgumentError(f"cannot read {path}: {error.strerror}", field=str(path)) from error


class _Channel(grpc.aio.Channel):
    """A channel whose calls carry the token and the trace.

    It wraps the channel instead of using gRPC's client interceptors, which cost every call an asyncio task and hide its type.
    """

    def __init__(self, channel: grpc.aio.Channel, headers: tuple[tuple[str, str], ...]) -> None:
        self._channel = channel
        self._headers = headers

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _Method(method, self._channel.unary_unary(method, *args, **kwargs), self._headers)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _Method(method, self._channel.unary_stream(method, *args, **kwargs), self._headers)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _Method(method, self._channel.stream_unary(method, *args, **kwargs), self._headers)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _Method(method, self._channel.stream_stream(method, *args, **kwargs), self._headers)


class _Method:
    """A method of a stub, of any of the four kinds."""

    def __init__(self, path: str, inner: Callable[..., Any], headers: tuple[tuple[str, str], ...]) -> None:
        self._name = path.strip("/")
        service, _, method = self._name.rpartition("/")
        self._attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        self._inner = inner
        self._headers = headers

    def __call__(self, request: Any = None, *, metadata: Any = None, **options: Any) -> Any:
        span = tracer.start_span(self._name, kind=SpanKind.CLIENT, attributes=self._attributes)
        with trace.use_span(span):
            headers = (*(metadata or ()), *self._headers, *inject().items())
            call = self._inner(request, metadata=headers, **options)
        if span.is_recording():
            call.add_done_callback(lambda ended: _end(span, ended))
        return call


def _end(span: Span, call: Any) -> None:
    code = _finished(call.code())
    span.set_attribute("rpc.grpc.status_code", code.value[0])
    if code is not grpc.StatusCode.OK:
        span.set_status(Status(trace.StatusCode.ERROR, code.name))
    span.end()


def _finished(coroutine: Any) -> grpc.StatusCode:
    """Return the code of a call that has ended: its coroutine then returns at once, so that no event loop is needed."""
    try:
        coroutine.send(None)
    except StopIteration as returned:
        code: grpc.StatusCode = returned.value
        return code
    coroutine.close()
    return grpc.StatusCode.UNKNOWN
