"""A stack that runs until a signal comes."""

import asyncio
from collections.abc import Callable

from tessera.stack.home import Home
from tessera.stack.ports import Ports
from tessera.stack.signals import until_signal
from tessera.stack.state import StackState
from tessera.stack.supervisor import embedded_stack


async def run_stack(
    home: Home,
    ports: Ports,
    *,
    on_change: Callable[[StackState], None] | None = None,
    on_ready: Callable[[StackState], None] | None = None,
) -> None:
    """Run the embedded stack until SIGINT or SIGTERM.

    Args:
        home: Its directory.
        ports: Where it listens.
        on_change: Called with the state after every change.
        on_ready: Called once everything is healthy.

    Raises:
        AlreadyExistsError: A stack runs under this home already.
        FailedPreconditionError: A port is in use, or a program does not start.
    """

    async def stack() -> None:
        async with embedded_stack(home, ports, on_change) as supervisor:
            if on_ready is not None:
                on_ready(supervisor.state())
            await asyncio.Event().wait()

    await until_signal(stack())
