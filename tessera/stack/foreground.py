"""A stack that runs until a signal comes."""

import asyncio
import os
import signal
from collections.abc import Callable

from tessera.stack.home import Home
from tessera.stack.ports import Ports
from tessera.stack.state import StackState
from tessera.stack.supervisor import embedded_stack


async def run_stack(
    home: Home,
    ports: Ports,
    *,
    on_change: Callable[[StackState], None] | None = None,
    on_ready: Callable[[StackState], None] | None = None,
) -> None:
    """Run the embedded stack until SIGINT or SIGTERM; a second signal ends it at once, and the kernel ends its processes with it.

    Raises:
        AlreadyExistsError: A stack runs under this home already.
        FailedPreconditionError: A port is in use, or a program does not start.
    """
    with_signals = asyncio.create_task(_run(home, ports, on_change, on_ready))
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if with_signals.cancelling():
            os._exit(1)
        with_signals.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        await asyncio.wait([with_signals])
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    if not with_signals.cancelled():
        with_signals.result()


async def _run(
    home: Home, ports: Ports, on_change: Callable[[StackState], None] | None, on_ready: Callable[[StackState], None] | None
) -> None:
    async with embedded_stack(home, ports, on_change) as supervisor:
        if on_ready is not None:
            on_ready(supervisor.state())
        await asyncio.Event().wait()
