"""The life of a process: components start in order, health follows readiness, SIGTERM stops callers before what they depend on."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import structlog

from tessera import logs, telemetry
from tessera.errors import TesseraError
from tessera.rpc.server import GrpcServer, Service
from tessera.settings import ProcessSettings, ServerSettings

log = structlog.get_logger()

_CHECK_INTERVAL_S = 1.0
_CHECK_TIMEOUT_S = 5.0


class Component(Protocol):
    """Something with a life: a pool, a dispatcher, a connection."""

    name: str

    async def start(self) -> None:
        """Start; what it depends on has started before."""

    async def stop(self) -> None:
        """End; what depends on it has ended before. Called only after `start` returned."""

    async def check(self) -> None:
        """Raise a TesseraError while not ready."""


async def serve(settings: ServerSettings, *, name: str, services: Sequence[Service], components: Sequence[Component] = ()) -> None:
    """Run a service until SIGTERM or SIGINT.

    Components start in the order given, then the server. Health is SERVING while every component's check passes. On a signal: NOT_SERVING,
    running calls get `shutdown_grace_s` to end, the components stop in reverse order. A second signal ends the process at once.

    Args:
        settings: Of the service.
        name: What logs and traces call the service.
        services: What the server serves.
        components: What the services depend on, dependencies first.

    Raises:
        TesseraError: Something could not start; what had started is stopped.
    """
    server = GrpcServer(settings, services)
    await _live(settings, name, [*components, _Server(server, settings)], server.set_serving, {"port": lambda: server.port})


async def run(settings: ProcessSettings, *, name: str, components: Sequence[Component]) -> None:
    """Run a process without a gRPC server until SIGTERM or SIGINT; otherwise as `serve`."""
    await _live(settings, name, list(components), lambda _ready: None, {})


class _Server:
    """The gRPC server as the last component: the first to stop."""

    name = "server"

    def __init__(self, server: GrpcServer, settings: ServerSettings) -> None:
        self._server = server
        self._settings = settings

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        self._server.set_serving(False)
        await asyncio.sleep(self._settings.drain_s)
        await self._server.stop(self._settings.shutdown_grace_s)

    async def check(self) -> None:
        """Always ready: health answers what the others say."""


async def _live(
    settings: ProcessSettings,
    name: str,
    components: Sequence[Component],
    set_ready: Callable[[bool], None],
    facts: dict[str, Callable[[], int]],
) -> None:
    logs.setup(name, settings.log_level, settings.log_format)
    telemetry.setup(name, settings.otlp_endpoint)
    stopping = _stop_on_signals()
    try:
        async with _metrics(settings) as metrics_port:
            started: list[Component] = []
            try:
                await _start(components, started, stopping)
                log.info("ready", metrics_port=metrics_port, pid=os.getpid(), **{key: fact() for key, fact in facts.items()})
                await _watch(components, set_ready, stopping)
            finally:
                await _stop(started, settings.shutdown_grace_s)
    finally:
        await asyncio.to_thread(telemetry.shutdown)
    log.info("stopped")


def _stop_on_signals() -> asyncio.Event:
    """Return an event that SIGTERM or SIGINT sets; the second one ends the process without further ado."""
    stopping = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stopping.is_set():
            log.warning("aborted by a second signal", signal=number.name)
            os._exit(128 + number)
        log.info("stopping", signal=number.name)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    return stopping


@asynccontextmanager
async def _metrics(settings: ProcessSettings) -> AsyncIterator[int | None]:
    if settings.metrics_port is None:
        yield None
        return
    server = telemetry.start_metrics_server(settings.host, settings.metrics_port)
    try:
        yield server.port
    finally:
        await asyncio.to_thread(server.close)


async def _start(components: Sequence[Component], started: list[Component], stopping: asyncio.Event) -> None:
    """Start the components in order; leave off where a signal comes in between."""
    for component in components:
        starting = asyncio.ensure_future(component.start())
        stop = asyncio.ensure_future(stopping.wait())
        await asyncio.wait({starting, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not starting.done():
            starting.cancel()
            with suppress(asyncio.CancelledError):
                await starting
            return
        starting.result()
        started.append(component)
        log.debug("started", component=component.name)


async def _watch(components: Sequence[Component], set_ready: Callable[[bool], None], stopping: asyncio.Event) -> None:
    """Report readiness whenever it changes, until it is time to stop."""
    ready: bool | None = None
    while not stopping.is_set():
        reason = await _unready(components)
        if (reason is None) != ready:
            ready = reason is None
            set_ready(ready)
            log.info("serving" if ready else "not serving", reason=reason)
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), _CHECK_INTERVAL_S)


async def _unready(components: Sequence[Component]) -> str | None:
    """Return why the process is not ready, None if it is."""
    for component in components:
        try:
            await asyncio.wait_for(component.check(), _CHECK_TIMEOUT_S)
        except TesseraError as error:
            return f"{component.name}: {error.message}"
        except TimeoutError:
            return f"{component.name}: did not answer within {_CHECK_TIMEOUT_S:g} s"
        except Exception:
            log.exception("check failed", component=component.name)
            return f"{component.name}: its check failed"
    return None


async def _stop(started: Sequence[Component], grace_s: float) -> None:
    """Stop in reverse order; one that fails or hangs does not keep the others from stopping."""
    for component in reversed(started):
        try:
            async with asyncio.timeout(grace_s * 2):
                await component.stop()
            log.debug("stopped", component=component.name)
        except Exception:
            log.exception("did not stop cleanly", component=component.name)
