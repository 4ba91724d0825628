"""The life of a process: components start in order, health follows readiness, SIGTERM stops callers before what they depend on."""

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import structlog
from prometheus_client import Gauge

from tessera import logs, telemetry
from tessera.errors import TesseraError
from tessera.rpc.server import GrpcServer, Service
from tessera.settings import ProcessSettings, ServerSettings, load_settings

log = structlog.get_logger()

READY = Gauge("process_ready", "1 while all parts of the process are ready, else 0; how a process without gRPC health is probed")

DEPENDENCY_READY = Gauge(
    "process_dependency_ready", "1 while something that the process can do without for a while is ready, else 0", ["dependency"]
)

S = TypeVar("S", bound=ProcessSettings)

_CHECK_INTERVAL_S = 1.0
_CHECK_TIMEOUT_S = 5.0
_STOP_SLACK_S = 5.0
"""What a component may take to stop beyond the grace that its own work gets."""


class Component(Protocol):
    """Something with a life: a pool, a dispatcher, a connection."""

    name: str

    async def start(self) -> None:
        """Start; what it depends on has started before."""

    async def stop(self) -> None:
        """End; what depends on it has ended before. Called only after `start` returned."""

    async def check(self) -> None:
        """Raise a TesseraError while not ready."""


@dataclass(frozen=True)
class Dependency:
    """Something that a process can do without for a while, and that people want to know about all the same.

    Attributes:
        name: Its own name in gRPC health, where it changes no other, and in the metric.
        check: Raises a TesseraError while it is not ready.
    """

    name: str
    check: Callable[[], Awaitable[None]]


def launch(cls: type[S], name: str, main: Callable[[S], Coroutine[Any, Any, None]]) -> None:
    """Be the `main()` of a process: read its settings, begin to log and to trace, then build and run it.

    A domain error, not a bug, that `main` raises ends the process with one line that says what is wrong, whether it came from the
    construction of a part or from its start.

    Args:
        cls: Class of the settings.
        name: What logs and traces call the process.
        main: Builds the parts from the settings and awaits `serve` or `run`.

    Raises:
        SystemExit: With 0 after `--help`, with 2 if a setting is malformed, with 1 if something cannot start.
    """
    settings = load_settings(cls)
    logs.setup(name, settings.log_level, settings.log_format)
    try:
        asyncio.run(_traced(settings, name, main))
    except TesseraError as error:
        log.error("cannot start", reason=error.message, field=error.field)
        raise SystemExit(1) from error


async def _traced(settings: S, name: str, main: Callable[[S], Coroutine[Any, Any, None]]) -> None:
    telemetry.setup(name, settings.otlp_endpoint, settings.otlp_sample_ratio)
    try:
        await main(settings)
    finally:
        await asyncio.to_thread(telemetry.shutdown)


async def serve(
    settings: ServerSettings,
    *,
    services: Sequence[Service],
    components: Sequence[Component] = (),
    dependencies: Sequence[Dependency] = (),
) -> None:
    """Run a service until SIGTERM or SIGINT.

    Components start in the order given, then the server. Health is SERVING while every component's check passes and the server's
    certificate is valid, which is read again when it changes, as the tokens are. On a signal: NOT_SERVING, running calls get
    `shutdown_grace_s` to end, the components stop in reverse order. A second signal ends the process at once.

    Args:
        settings: Of the service.
        services: What the server serves.
        components: What the services depend on, dependencies first.
        dependencies: What they can do without for a while.

    Raises:
        TesseraError: Something could not start; what had started is stopped.
    """
    server = GrpcServer(settings, services)
    await _live(settings, [*server.watched, *components], server, dependencies)


async def run(settings: ProcessSettings, *, components: Sequence[Component]) -> None:
    """Run a process without a gRPC server until SIGTERM or SIGINT; otherwise as `serve`."""
    await _live(settings, components, server=None)


async def _live(
    settings: ProcessSettings, components: Sequence[Component], server: GrpcServer | None, dependencies: Sequence[Dependency] = ()
) -> None:
    # What is imported by now stays; if the garbage collector went on looking at it, one call in some hundred would take 50 ms longer.
    gc.freeze()
    stopping = _stop_on_signals()
    started: list[Component] = []
    async with _metrics(settings) as metrics_port:
        try:
            await _start(components, started, stopping)
            if not stopping.is_set():
                await _work(components, dependencies, server, stopping, metrics_port)
        finally:
            if server:
                await server.stop(settings.shutdown_grace_s)
            await _stop(started, settings.shutdown_grace_s + _STOP_SLACK_S)
    log.info("stopped")


async def _work(
    components: Sequence[Component],
    dependencies: Sequence[Dependency],
    server: GrpcServer | None,
    stopping: asyncio.Event,
    metrics_port: int | None,
) -> None:
    """Take calls and report readiness until it is time to stop."""
    if server:
        await server.start()
    log.info("ready", port=server.port if server else None, metrics_port=metrics_port, pid=os.getpid())
    teller = _Teller(server)
    while not stopping.is_set():
        reason, *reasons = await asyncio.gather(_unready(components), *(_reason(dependency) for dependency in dependencies))
        teller.tell_process(reason)
        for dependency, why in zip(dependencies, reasons, strict=True):
            teller.tell_dependency(dependency.name, why)
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), _CHECK_INTERVAL_S)
    READY.set(0)


class _Teller:
    """Tells health, metrics and log what the checks found, whenever that changes."""

    def __init__(self, server: GrpcServer | None) -> None:
        self._server = server
        self._told: dict[str, str | None] = {}

    def tell_process(self, reason: str | None) -> None:
        """Tell why the process is not ready, None if it is."""
        if self._changed("", reason):
            READY.set(reason is None)
            log.info("serving" if reason is None else "not serving", reason=reason)
            if self._server:
                self._server.set_serving(reason is None)

    def tell_dependency(self, name: str, reason: str | None) -> None:
        """Tell why a dependency is not ready, None if it is."""
        if self._changed(name, reason):
            DEPENDENCY_READY.labels(name).set(reason is None)
            if reason is None:
                log.info("dependency ready", dependency=name)
            else:
                log.warning("dependency not ready", dependency=name, reason=reason)
            if self._server:
                self._server.set_ready(name, reason is None)

    def _changed(self, name: str, reason: str | None) -> bool:
        changed = name not in self._told or self._told[name] != reason
        self._told[name] = reason
        return changed


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


async def _unready(components: Sequence[Component]) -> str | None:
    """Return why the process is not ready, None if it is."""
    for component in components:
        if reason := await _reason(component):
            return f"{component.name}: {reason}"
    return None


async def _reason(part: Component | Dependency) -> str | None:
    """Return why something is not ready, None if it is."""
    try:
        await asyncio.wait_for(part.check(), _CHECK_TIMEOUT_S)
    except TesseraError as error:
        return error.message
    except TimeoutError:
        return f"did not answer within {_CHECK_TIMEOUT_S:g} s"
    except Exception:
        log.exception("check failed", component=part.name)
        return "its check failed"
    return None


async def _stop(started: Sequence[Component], limit_s: float) -> None:
    """Stop in reverse order; one that fails or hangs does not keep the others from stopping."""
    for component in reversed(started):
        try:
            async with asyncio.timeout(limit_s):
                await component.stop()
            log.debug("stopped", component=component.name)
        except Exception:
            log.exception("did not stop cleanly", component=component.name)
