"""Runs the programs of a stack: starts them in order, keeps them alive, stops them in reverse order."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tessera.errors import FailedPreconditionError
from tessera.stack.home import Home
from tessera.stack.keeper import Keeper, State
from tessera.stack.ports import Ports
from tessera.stack.program import Program, embedded_programs
from tessera.stack.state import ProcessState, StackState, addresses, exclusive, own_create_time, write_state

START_TIMEOUT_S = 180.0


class Supervisor:
    """The programs of one stack.

    Args:
        home: Where logs and the state file go.
        ports: For the state file.
        programs: What to run, each after those it needs.
        on_change: Called with the new state after every change.
    """

    def __init__(
        self, home: Home, ports: Ports, programs: Sequence[Program], on_change: Callable[[StackState], None] | None = None
    ) -> None:
        self._home = home
        self._ports = ports
        self._on_change = on_change
        self._create_time = own_create_time()
        self._keepers = {program.name: Keeper(program, home.log_file(program.name), self._changed) for program in programs}
        self._stopping = False
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def state(self) -> StackState:
        """Return how every process stands."""
        processes = [
            ProcessState(name=name, state=k.state, pid=k.pid, address=k.program.address, restarts=k.restarts, log=k.log_file)
            for name, k in self._keepers.items()
        ]
        return StackState(
            pid=os.getpid(),
            create_time=self._create_time,
            port_base=self._ports.base,
            addresses=addresses(self._ports),
            healthy=all(process.state == State.HEALTHY for process in processes),
            stopping=self._stopping,
            processes=processes,
        )

    async def start(self) -> None:
        """Start everything and return when all of it has become healthy.

        Raises:
            FailedPreconditionError: A program does not start, or is not healthy after three minutes.
        """
        self._changed()
        self._tasks = {name: asyncio.create_task(self._keep(keeper)) for name, keeper in self._keepers.items()}
        ready = asyncio.create_task(self._all_ready())
        watched: list[asyncio.Future[Any]] = [ready, *self._tasks.values()]
        done, _ = await asyncio.wait(watched, timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if ready in done:
            return
        ready.cancel()
        for task in done:
            task.result()  # raises why it ended
        waiting = [name for name, keeper in self._keepers.items() if not keeper.ready.is_set()]
        raise FailedPreconditionError(f"not healthy after {START_TIMEOUT_S:g} s: {', '.join(waiting)}; see the logs in {self._home.logs}")

    async def stop(self) -> None:
        """Stop everything, those that are needed after those that need them."""
        self._stopping = True
        self._changed()
        for name in reversed(self._keepers):
            task = self._tasks.get(name)
            if task is not None:
                task.cancel()
                await asyncio.wait([task])

    async def _keep(self, keeper: Keeper) -> None:
        for name in keeper.program.needs:
            await self._keepers[name].ready.wait()
        await keeper.keep()

    async def _all_ready(self) -> None:
        for keeper in self._keepers.values():
            await keeper.ready.wait()

    def _changed(self) -> None:
        state = self.state()
        write_state(self._home, state)
        if self._on_change is not None:
            self._on_change(state)


@asynccontextmanager
async def embedded_stack(home: Home, ports: Ports, on_change: Callable[[StackState], None] | None = None) -> AsyncIterator[Supervisor]:
    """Run the embedded stack for as long as the block lasts; it is healthy when the block begins.

    Raises:
        AlreadyExistsError: A stack runs under this home already.
        FailedPreconditionError: A port is in use, or a program does not start.
    """
    home.make()
    with exclusive(home):
        ports.check_free()
        supervisor = Supervisor(home, ports, embedded_programs(home, ports), on_change)
        try:
            await supervisor.start()
            yield supervisor
        finally:
            await supervisor.stop()
